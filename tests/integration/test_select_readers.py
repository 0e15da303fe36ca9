"""A selection in the commands that read it: exactly its clips, its digest in what is written."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

import avprep as api
from avprep.cli import main
from avprep.shards.layout import read_header
from avprep.shards.ledger import read_ledger, read_ledgers
from avprep.shards.store import open_store
from avprep.shards.tar import Members, read_shard
from avprep.shards.verify import verify
from tests.fake_encoder import OpenFake
from tests.made_clips import TINY, write_clips
from tests.made_selection import write_keys

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def codec(monkeypatch):
    module = types.ModuleType("avmodel.mdsa.checkpoint")
    module.read_codec_header = lambda path: OpenFake(TINY).header
    module.open_codec = lambda path, **options: OpenFake(TINY)(**options)
    monkeypatch.setitem(sys.modules, "avmodel.mdsa.checkpoint", module)


@pytest.fixture
def clips(tmp_path) -> Path:
    """12 clips in shards of 5, 5, 2."""
    return write_clips(tmp_path / "clips")


def avprep(*args: object):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def encode(clips: Path, out: Path, *args: object):
    here = ["--ckpt", clips / "spec.json", "--workers", 0, "--device", "cpu", "--batch-size", 4]
    return avprep("encode", "--clips", clips, "--out", out, *here, *args)


def members_of(out: Path) -> dict[str, Members]:
    found: dict[str, Members] = {}
    for path in sorted((out / "shards").iterdir()):
        with open(path, "rb") as file:
            found |= dict(read_shard(file))
    return found


def test_exactly_the_selected_clips_are_encoded_and_the_others_are_filtered(clips, tmp_path):
    keys = sorted(members_of(clips))
    digest = write_keys(clips, [keys[9], keys[1], keys[3]])
    done = encode(clips, tmp_path / "some", "--select", "some")
    assert done.exit_code == 0, done.output
    assert "12 planned = 3 written, 9 filtered, 0 failed" in done.output
    assert "unselected: " in done.output and "(--select)" in done.output
    assert encode(clips, tmp_path / "all").exit_code == 0
    whole = members_of(tmp_path / "all")
    assert members_of(tmp_path / "some") == {keys[i]: whole[keys[i]] for i in (1, 3, 9)}

    store = open_store(tmp_path / "some")
    assert list(verify(store)) == []
    assert read_ledger(store, 2)[1].name == ""  # its clip shard has no selected clip
    assert read_header(store)["clips"]["selection"] == digest
    assert json.loads((tmp_path / "some" / "stats.json").read_text())["latents"]["count"] == 3
    assert "nothing to do" in encode(clips, tmp_path / "some", "--select", "some").output


def test_a_shard_without_a_selected_clip_is_not_read(clips, tmp_path):
    write_keys(clips, sorted(members_of(clips))[:5])
    (clips / "shards" / "clips-000001.tar").write_bytes(b"not a tar")
    done = encode(clips, tmp_path / "out", "--select", "some")
    assert done.exit_code == 0 and "5 written, 7 filtered" in done.output


def test_an_output_is_not_continued_with_another_selection(clips, tmp_path):
    keys = sorted(members_of(clips))
    digest = write_keys(clips, keys[:3])
    write_keys(clips, keys[:4], name="more")
    write_keys(clips, keys[:3], name="same")
    assert encode(clips, tmp_path / "out", "--select", "some").exit_code == 0
    assert encode(clips, tmp_path / "out", "--select", "same").exit_code == 0
    for now in (["--select", "more"], []):
        done = encode(clips, tmp_path / "out", *now)
        assert done.exit_code == 2 and f"begun with clips.selection = '{digest}'" in done.output


def test_what_is_encoded_without_a_selection_has_no_word_of_it(clips, tmp_path):
    """Outputs that were begun before there were selections are continued."""
    encode(clips, tmp_path / "out")
    assert set(read_header(open_store(tmp_path / "out"))["clips"]) == {"fingerprint", "plan"}
    assert all(
        row.status == "written" for _, rows, _ in read_ledgers(open_store(tmp_path / "out")) for row in rows
    )


def test_latents_are_read_and_decoded_by_a_selection_of_their_clips(clips, tmp_path):
    latents = tmp_path / "latents"
    assert encode(clips, latents).exit_code == 0
    before = {
        path: hashlib.sha256(path.read_bytes()).digest() for path in latents.rglob("*") if path.is_file()
    }
    keys = sorted(members_of(clips))
    write_keys(clips, keys[4:7])
    assert list(api.LatentDataset(latents, select="some").keys) == keys[4:7]
    decode = ["decode", "--latents", latents, "--ckpt", clips / "spec.json", "--device", "cpu"]
    done = avprep(*decode, "--out", tmp_path / "mp4", "--select", "some", "--compare", clips)
    assert done.exit_code == 0, done.output
    assert sorted(path.stem for path in (tmp_path / "mp4").glob("*.mp4")) == keys[4:7]
    write_keys(clips, [], name="none")
    done = avprep(*decode, "--out", tmp_path / "none", "--select", "none")
    assert done.exit_code == 2 and f"{latents} holds no latent of selection none" in done.output
    after = {
        path: hashlib.sha256(path.read_bytes()).digest() for path in latents.rglob("*") if path.is_file()
    }
    assert after == before


def test_a_selection_of_other_clips_is_refused(clips, tmp_path):
    write_keys(clips, ["0" * 16 + "_00000000000"])
    done = encode(clips, tmp_path / "out", "--select", "some")
    assert done.exit_code == 2 and "lacks 1 clips of selection some, such as 0000" in done.output
    done = encode(clips, tmp_path / "out", "--select", "none")
    assert done.exit_code == 2 and "there is no selection none" in done.output
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_go_together_are_refused(clips, tmp_path):
    where = ["--ckpt", clips / "spec.json", "--out", tmp_path / "out"]
    done = avprep("encode", "--dataset", "folder", "--root", tmp_path, "--select", "some", *where)
    assert done.exit_code == 2 and "--select goes with --clips" in done.output
    done = encode(clips, tmp_path / "out", "--clips", clips)
    assert done.exit_code == 2
    assert (
        "--clips is given 2 times, and encode takes one output; avprep merge makes one of several"
        in done.output
    )
    twice = ["--latents", "a", "--latents", "b"]
    done = avprep("decode", *twice, *where)
    assert done.exit_code == 2 and "--latents is given 2 times, and decode takes one output" in done.output
