"""`write_report`: the page and its media; determinism, escaping, damage, and what is refused."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from avprep.cli import main
from avprep.errors import ArgumentError
from avprep.report.build import write_report
from avprep.report.config import ReportConfig, ReportError
from avprep.report.page import policy_of
from avprep.report.players import choose, read_clips_of
from avprep.report.summary import Summary
from avprep.report.tally import Lowest, Pick
from avprep.shards.store import open_store
from tests.avprep.report.made_output import SCRIPT, SPEC, write_output


class Elements(HTMLParser):
    """(tag, attributes) of every element, and the text outside of script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return write_output(tmp_path_factory.mktemp("made") / "out")


@pytest.fixture(scope="module")
def page(out) -> Path:
    return write_report(str(out), out.with_name("report"), ReportConfig())[0]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_outputs_give_equal_bytes_and_an_earlier_report_is_replaced(out, page, tmp_path):
    again = write_report(str(out), tmp_path / "r", ReportConfig())[0]
    assert files_of(again.parent) == files_of(page.parent)
    write_report(str(out), tmp_path / "r", ReportConfig(clips=2))
    assert len(list((tmp_path / "r/media").glob("*.mp4"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_hostile_names_are_text(page):
    elements = Elements(page.read_text())
    assert len(elements.named("script")) == 1 and not elements.named("b") and not elements.named("i")
    handlers = [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    styled = [tag for tag, attributes in elements.found if "style" in attributes]
    assert handlers == styled == []
    assert SCRIPT in elements.text
    assert "\u202e" not in page.read_text() and "x" * 1000 not in page.read_text()


def test_the_policy_allows_no_connection_and_only_the_pages_own_script(page):
    html = page.read_text()
    (policy,) = [m["content"] for m in Elements(html).named("meta") if "http-equiv" in m]
    script = html[html.index("<script>") + 8 : html.index("</script>")]
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    assert policy == policy_of(style, script)
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_every_address_is_a_file_of_the_report_and_none_comes_from_a_name(page):
    elements = Elements(page.read_text())
    addresses = {e[a] for _, e in elements.found for a in ("src", "poster") if e.get(a)}
    assert addresses == {f"media/{path.name}" for path in (page.parent / "media").iterdir()}
    assert all(path.stem.isdigit() for path in (page.parent / "media").iterdir())


def test_a_clip_has_its_frames_and_its_sound(page):
    with av.open(str(min((page.parent / "media").glob("*.mp4")))) as container:
        frames = sum(1 for _ in container.decode(video=0))
        assert frames == SPEC.frames and len(container.streams.audio) == 1
    strips = [Image.open(path).size for path in sorted((page.parent / "media").glob("*.jpg"))]
    assert (72 * SPEC.frames, 72) in strips
    mel = Image.open(min((page.parent / "media").glob("*.png")))
    assert mel.size == (SPEC.frames * SPEC.columns, SPEC.n_mels)


def test_a_single_file_needs_no_other(out, tmp_path):
    path, _ = write_report(str(out), tmp_path / "page.html", ReportConfig(is_single_file=True, clips=3))
    elements = Elements(path.read_text())
    assert len(elements.named("video")) == 3
    assert all(e[a].startswith("data:") for _, e in elements.found for a in ("src", "poster") if e.get(a))
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_damaged_output_still_opens_and_says_what_is_damaged(tmp_path):
    out = write_output(tmp_path / "out")
    (out / "spec.json").write_text("{")
    (out / "stats.json").write_text("[1]")
    (out / "ledger/000001.parquet").write_bytes(b"")
    path, page = write_report(str(out), tmp_path / "r", ReportConfig())
    assert page.damaged == len(page.damages) == 3
    text = Elements(path.read_text()).text
    for name in ("spec.json", "stats.json", "ledger/000001.parquet"):
        assert name in text


def test_a_clip_that_does_not_decode_is_listed_and_the_others_are_shown(tmp_path):
    out = write_output(tmp_path / "out")
    shard = out / "shards/clips-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"fLaC", b"oops", 1))  # of the same size
    _, page = write_report(str(out), tmp_path / "r", ReportConfig())
    assert len(page.players) == 7 and page.damaged == 1
    assert "clips-000000.tar" in page.damages[0] and f"{0:016x}" in page.damages[0]


@pytest.mark.parametrize("place", ["photos", "out/report"])
def test_a_place_that_holds_something_else_is_refused_and_kept(tmp_path, place):
    out = write_output(tmp_path / "out")
    (tmp_path / place).mkdir()
    (tmp_path / place / "mine.txt").write_text("kept")
    with pytest.raises(ReportError, match="another place|beside"):
        write_report(str(out), tmp_path / place, ReportConfig())
    assert (tmp_path / place / "mine.txt").read_text() == "kept"


def test_a_folder_without_an_output_is_refused_by_the_command_line(tmp_path):
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2 and "holds no spec.json" in result.output


def test_a_training_folder_shows_its_curves(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    rows = [{"step": i, "v/l1": 1 / i, "a/l1": 2 / i, "loss": float("nan")} for i in range(1, 4000)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n")
    (run / "table.csv").write_text("metric,value\nFVD <b>,12\n")
    path, page = write_report(str(run), tmp_path / "r", ReportConfig())
    assert [name for name, _ in page.curves] == ["l1"] and page.damaged == 1
    assert "FVD <b>" in Elements(path.read_text()).text
    assert path.stat().st_size < 200_000


def test_the_chosen_clips_are_each_named_once_and_half_are_random():
    summary = Summary()
    summary.picks["at random"] = Lowest(4, [Pick(i, 0, f"r{i}") for i in range(4)])
    summary.picks["lowest a"] = Lowest(4, [Pick(0, 0, "r0"), Pick(1, 1, "a")])
    summary.picks["highest a"] = Lowest(4, [Pick(0, 1, "b"), Pick(1, 1, "c")])
    chosen = {pick.key: why for pick, why in choose(summary, 4).items()}
    assert list(chosen) == ["r0", "r1", "b", "a"]
    assert chosen["r0"] == ("at random", "lowest a")


def test_only_the_wanted_clips_of_a_shard_are_read(out):
    wanted = {f"{i:016x}_00000000000" for i in (1, 3)}
    found = dict(read_clips_of(open_store(out), "shards/clips-000000.tar", wanted, 1 << 24))
    assert set(found) == wanted
    frames = np.load(io.BytesIO(found[min(wanted)]["frames.npy"]))
    assert frames.shape == SPEC.frames_shape


@pytest.mark.parametrize("options", [{"clips": -1}, {"clips": 1001}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        ReportConfig(**options)


def test_the_onset_marks_stand_where_the_sound_begins(page):
    marks = [e for e in Elements(page.read_text()).named("line") if e["class"] == "onset"]
    # Each clip has a tone from its middle on; the detector is exact to a hop of 23 ms in 1.6 s.
    near = [mark for mark in marks if 47 < float(mark["x1"].rstrip("%")) < 53]
    assert len(near) == 8


def test_the_clips_of_a_selection_are_those_of_the_page(out, tmp_path):
    done = CliRunner().invoke(main, ["report", str(out), "--to", str(tmp_path / "page"), "--select", "loud"])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "page" / "media").glob("*.mp4"))) == 4
    assert "the clips of selection loud" in (tmp_path / "page" / "index.html").read_text()
    done = CliRunner().invoke(main, ["report", str(out), "--to", str(tmp_path / "none"), "--select", "no"])
    assert done.exit_code == 2 and "there is no selection no: no selections/no.parquet in" in done.output
