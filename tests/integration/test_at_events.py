"""Clips that start at the events of AudioSet's strong lists: where they begin, what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import avprep
from avprep.cli import main
from avprep.errors import ArgumentError
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from avprep.spec import ClipSpec
from tests.avprep.media.flash_click import write_flash_click
from tests.fake_encoder import OpenFake
from tests.integration.encode_driver import encode

pytestmark = pytest.mark.timeout(120)

# The click of each file is heard at its dog's onset: clicks move to the next frame, of 25 per second.
TRIMMED, WHOLE = "abcdefghij0_30_40.mp4", "abcdefghij1.mp4"
LIST = """segment_id\tstart_time_seconds\tend_time_seconds\tlabel
abcdefghij0_30000\t1.280\t1.500\t/m/0bt9lr
abcdefghij0_30000\t1.500\t3.000\t/m/09x0r
abcdefghij0_30000\t4.000\t4.750\t/m/09x0r
abcdefghij1_2000\t0.760\t0.900\t/m/0bt9lr
"""
DOG_AND_SPEECH = (["Dog", "Speech"], "a video of Dog, Speech")
CLIPS = {
    (TRIMMED, 1.28): DOG_AND_SPEECH,
    (TRIMMED, 3.4): (["Speech"], "a video of Speech"),  # at 4.0, but the file ends at 5.0
    (WHOLE, 2.76): (["Dog"], "a video of Dog"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "audioset"
    folder.mkdir()
    write_flash_click(folder / TRIMMED, seconds=5.0, events_s=(1.27,))
    write_flash_click(folder / WHOLE, seconds=16.0, events_s=(2.75,))
    (folder / "audioset_train_strong.tsv").write_text(LIST)
    return folder


def clip(root: Path, out: Path, *options: object) -> Result:
    media = ("--dataset", "audioset", "--split", "strong", "--root", root, "--out", out)
    arguments = ("clip", *media, "--workers", 0, "--size", 32, *options)
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def texts(out: Path) -> dict[tuple[str, float], tuple[list[str], str]]:
    headers = [item["json"] for item in avprep.ClipDataset(out, fields=["json"])]
    assert {header["caption_from"] for header in headers} == {"labels"}
    return {(h["source"], h["start_s"]): (h["labels"], h["caption"]) for h in headers}


def test_clips_begin_with_their_events_and_are_called_after_them(root, tmp_path):
    out = tmp_path / "out"
    result = clip(root, out, "--at-events")
    assert result.exit_code == 0, result.output
    assert texts(out) == CLIPS
    for item in avprep.ClipDataset(out, fields=["json", "waveform"]):
        if "Dog" in item["json"]["labels"]:  # the click is the first that is heard
            loud = np.flatnonzero(np.abs(item["waveform"]) > 0.1)
            assert loud[0] <= 32  # 2 ms: what the sound's codec smears
    assert list(verify(open_store(out))) == []
    assert "nothing to do" in clip(root, out, "--at-events").output


def test_the_option_is_compared_at_resume(root, tmp_path):
    assert clip(root, tmp_path / "with", "--at-events").exit_code == 0
    assert clip(root, tmp_path / "without").exit_code == 0
    for out, options in (("with", ()), ("without", ("--at-events",))):
        result = clip(root, tmp_path / out, *options)
        assert result.exit_code != 0 and "options.at_events" in result.output
    assert "at_events" not in json.loads((tmp_path / "without/spec.json").read_text())["options"]


def test_events_that_moved_are_named_and_clipped_anew_on_request(root, tmp_path):
    out = tmp_path / "out"
    clip(root, out, "--at-events")
    (root / "audioset_train_strong.tsv").write_text(LIST.replace("1_2000\t0.760", "1_2000\t0.500"))
    said = clip(root, out, "--at-events").output
    assert f"other labels, captions or spans than planned: 1 files ({WHOLE})" in said
    clip(root, out, "--at-events", "--replace-changed")
    assert texts(out).keys() == CLIPS.keys() - {(WHOLE, 2.76)} | {(WHOLE, 2.5)}


def test_latents_have_the_texts_of_their_clips(root, tmp_path):
    clip(root, tmp_path / "clips", "--at-events")
    encode(tmp_path / "clips", tmp_path / "latents", fake=OpenFake(ClipSpec(size=32)))
    headers = [item["json"] for item in avprep.LatentDataset(tmp_path / "latents", fields=["json"])]
    assert {(h["source"], h["start_s"]): (h["labels"], h["caption"]) for h in headers} == CLIPS
    assert {header["caption_from"] for header in headers} == {"labels"}


def test_sources_of_the_api_have_events_of_their_own(root, tmp_path):
    source = avprep.Source(path=WHOLE, start_s=2.0, labels=("bark",), events=((0.76, 0.9, ["bark"]),))
    spec = ClipSpec(size=32)
    avprep.clip_dataset([source], tmp_path / "out", root=root, at_events=True, spec=spec, workers=0)
    assert texts(tmp_path / "out") == {(WHOLE, 2.76): (["bark"], "a video of bark")}
    for event in ((1, 0, ["x"]), (0, 1, "x"), 3, (-1, 1, [])):
        with pytest.raises(ArgumentError, match="is no event"):
            avprep.clip_dataset([avprep.Source(path=WHOLE, events=(event,))], tmp_path / "x", root=root)


def test_a_source_without_an_event_is_filtered(root, tmp_path):
    (root / "audioset_train_strong.tsv").write_text(LIST.replace("1_2000\t0.760\t0.900", "1_2000\t20\t21"))
    result = clip(root, tmp_path / "out", "--at-events")
    assert "1 no_event: clips start where events do" in result.output
    assert "3 planned = 2 written, 1 filtered, 0 failed" in result.output
