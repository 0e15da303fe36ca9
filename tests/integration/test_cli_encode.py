"""`avprep encode` and `avprep decode` as a person runs them, with a fake in the place of avmodel's codec."""

from __future__ import annotations

import json
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from avprep.cli import main
from avprep.cli.common import FAULTS
from avprep.reasons import MediaError, Reason
from avprep.shards.ledger import ShardRecord, read_ledger, write_ledger
from avprep.shards.store import open_store
from avprep.stages.captions import texts_of, write_captions
from tests.fake_encoder import OpenFake
from tests.made_clips import TINY, write_clips

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def codec(monkeypatch):
    """A codec whose checkpoints are text files: their text stands for their weights."""
    module = types.ModuleType("avmodel.mdsa.checkpoint")

    def fake_of(path: Path) -> OpenFake:
        if not Path(path).exists():
            raise ValueError(f"{path} is no checkpoint")
        return OpenFake(TINY, weights=Path(path).read_text())

    module.read_codec_header = lambda path: fake_of(path).header
    module.open_codec = lambda path, **options: fake_of(path)(**options)
    monkeypatch.setitem(sys.modules, "avmodel.mdsa.checkpoint", module)


@pytest.fixture
def ckpt(tmp_path) -> Path:
    path = tmp_path / "mdsa.pt"
    path.write_text("a" * 64)
    return path


@pytest.fixture
def clips(tmp_path) -> Path:
    return write_clips(tmp_path / "clips")


def avprep(*args: object):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def encode(clips: Path, ckpt: Path, out: Path, *args: object):
    here = ["--workers", 0, "--device", "cpu", "--batch-size", 4]
    return avprep("encode", "--clips", clips, "--ckpt", ckpt, "--out", out, *here, *args)


def test_encode_status_verify_decode(clips, ckpt, tmp_path):
    out = tmp_path / "latents"
    done = encode(clips, ckpt, out)
    assert done.exit_code == 0, done.output
    assert "made 3 of 3 shards" in done.output and "12 planned = 12 written" in done.output
    assert "4 clips a batch" in done.output
    assert "3 of 3 shards, 12 of 12 clips" in avprep("status", out).output
    assert "all as written" in avprep("verify", out).output
    assert "nothing to do" in encode(clips, ckpt, out).output


def test_a_run_without_any_clip_exits_with_3(ckpt, tmp_path):
    done = encode(write_clips(tmp_path / "clips", sources=0), ckpt, tmp_path / "out")
    assert done.exit_code == 3
    assert done.output.splitlines()[-1].startswith("NO CLIP WAS WRITTEN: ")


def test_a_run_with_faults_of_avprep_exits_with_4_whatever_else_is_written(clips, ckpt, tmp_path):
    store = open_store(clips)
    rows, record = read_ledger(store, 0)
    lost = [row.lost(MediaError(Reason.UNFORESEEN, "TypeError in avprep.media.probe")) for row in rows]
    write_ledger(store, 0, lost, ShardRecord("", "", 0, record.fingerprint))
    done = encode(clips, ckpt, tmp_path / "out")
    assert done.exit_code == FAULTS == 4
    assert f"{len(rows)} unforeseen: a fault of avprep itself" in done.output
    assert done.output.splitlines()[-1].startswith(f"FAULTS OF AVPREP: {len(rows)} of 12 planned clips")
    assert "TypeError in avprep.media.probe" in avprep("status", tmp_path / "out").output


def test_decode_compares_with_the_clips(clips, ckpt, tmp_path):
    encode(clips, ckpt, tmp_path / "latents")
    done = avprep(
        "decode",
        "--latents",
        tmp_path / "latents",
        "--ckpt",
        ckpt,
        "--out",
        tmp_path / "mp4",
        "--compare",
        clips,
        "--limit",
        7,
        "--batch-size",
        3,
    )
    assert done.exit_code == 0, done.output
    rows = re.findall(r"^(\w+)\.mp4  PSNR-V +([\d.]+) dB  PSNR-A +([\d.]+) dB$", done.output, re.M)
    assert len(rows) == 7
    assert sorted(path.stem for path in (tmp_path / "mp4").glob("*.mp4")) == sorted(key for key, _, _ in rows)
    mean_v = np.mean([float(video) for _, video, _ in rows])
    assert float(re.search(r"mean PSNR-V ([\d.]+) dB", done.output)[1]) == pytest.approx(mean_v, abs=0.01)
    assert min(float(video) for _, video, _ in rows) > 15  # smooth pictures survive pooling
    with av.open(str(tmp_path / "mp4" / f"{rows[0][0]}.mp4")) as file:
        assert (file.streams.video[0].width, file.streams.video[0].height) == (2 * TINY.size, TINY.size)
        assert file.streams.audio[0].layout.name == "stereo"


def test_packed_latents_decode_to_the_same(clips, ckpt, tmp_path):
    encode(clips, ckpt, tmp_path / "plain")
    encode(clips, ckpt, tmp_path / "packed", "--packed")
    for kind in ("plain", "packed"):
        done = avprep(
            "decode",
            "--latents",
            tmp_path / kind,
            "--ckpt",
            ckpt,
            "--out",
            tmp_path / f"{kind}-mp4",
            "--limit",
            2,
        )
        assert done.exit_code == 0, done.output
    files = [sorted((tmp_path / f"{kind}-mp4").glob("*.mp4")) for kind in ("plain", "packed")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_latents_of_another_checkpoint_are_refused(clips, ckpt, tmp_path):
    encode(clips, ckpt, tmp_path / "latents")
    other = tmp_path / "other.pt"
    other.write_text("b" * 64)
    done = avprep("decode", "--latents", tmp_path / "latents", "--ckpt", other, "--out", tmp_path / "mp4")
    assert done.exit_code == 2
    assert "is not the checkpoint that made" in done.output and not (tmp_path / "mp4").exists()
    done = encode(clips, other, tmp_path / "latents")
    assert done.exit_code == 2 and "weights = " in done.output and "--rebuild" in done.output


def test_other_clips_are_no_comparison(clips, ckpt, tmp_path):
    encode(clips, ckpt, tmp_path / "latents")
    others = write_clips(tmp_path / "others", sources=1, shard_size=1)
    done = avprep(
        "decode",
        "--latents",
        tmp_path / "latents",
        "--ckpt",
        ckpt,
        "--out",
        tmp_path / "mp4",
        "--compare",
        others,
    )
    assert done.exit_code == 2 and "made of other clips" in done.output


def test_a_damaged_clip_shard_ends_with_one_and_is_named(clips, ckpt, tmp_path):
    (clips / "shards" / "clips-000001.tar").unlink()
    done = encode(clips, ckpt, tmp_path / "latents")
    assert done.exit_code == 1
    assert "LEFT OUT clips-000001.tar" in done.output.replace("shards/", "")
    assert "made 2 of 3 shards" in done.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--clips", "CLIPS", "--dataset", "folder"], "either --clips"),
        ([], "either --clips"),
        (["--clips", "CLIPS", "--fps", "5"], "--fps goes with --dataset"),
        (["--clips", "CLIPS", "--list", "x.csv"], "--list goes with --dataset"),
        (["--clips", "CLIPS", "--add-new"], "--add-new: it goes with media"),
        (["--clips", "CLIPS", "--batch-size", "many"], "neither a number of clips nor 'auto'"),
        (["--clips", "CLIPS", "--batch-size", "0"], "neither a number of clips nor 'auto'"),
        (["--clips", "nowhere"], "holds no spec.json"),
        (["--clips", "CLIPS", "--device", "cuda"], "--device cuda: there is no GPU here"),
        (["--dataset", "folder", "--root", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_a_bad_option_is_a_sentence(args, words, clips, ckpt, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    args = [str(clips) if arg == "CLIPS" else arg for arg in args]
    done = avprep("encode", *args, "--ckpt", ckpt, "--out", tmp_path / "out", "--workers", 0)
    assert done.exit_code == 2
    assert words in done.output


def test_a_bad_checkpoint_is_a_sentence(clips, tmp_path):
    done = encode(clips, tmp_path / "none.pt", tmp_path / "out")
    assert done.exit_code == 2 and "none.pt is no checkpoint" in done.output


def test_only_the_clips_that_were_encoded_are_compared_with(clips, ckpt, tmp_path):
    encode(clips, ckpt, tmp_path / "out")
    others = write_clips(tmp_path / "others", spec=replace(TINY, frames=8))
    for compare, words in ((others, "these have frames = 8, not 4"), (tmp_path / "out", "holds latents")):
        done = avprep("decode", "--latents", tmp_path / "out", "--ckpt", ckpt, "--out", tmp_path / "seen",
                      "--device", "cpu", "--compare", compare)  # fmt: skip
        assert done.exit_code == 2 and words in done.output.replace("\n", " ")


def test_the_fused_path_has_its_say_in_what_is_cut(clip_root, ckpt, tmp_path):
    fused = ["encode", "--dataset", "folder", "--root", clip_root, "--ckpt", ckpt, "--out", tmp_path / "out",
             "--workers", 0, "--device", "cpu", "--batch-size", 8]  # fmt: skip
    done = avprep(*fused)
    assert done.exit_code == 2 and "trained on other clips" in done.output
    done = avprep(
        *fused, "--frames", TINY.frames, "--size", TINY.size, "--n-mels", TINY.n_mels, "--n-fft", TINY.n_fft,
        "--limit", 5,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "5 planned = " in done.output


def test_the_fused_path_grows(clip_root, ckpt, tmp_path):
    root = tmp_path / "media"
    root.mkdir()
    shutil.copy(clip_root / "alpha" / "scene 0.mp4", root / "a.mp4")
    fused = ["encode", "--dataset", "folder", "--root", root, "--ckpt", ckpt, "--out", tmp_path / "out",
             "--workers", 0, "--device", "cpu", "--batch-size", 8, "--clips-per-source", 2,
             "--frames", TINY.frames, "--size", TINY.size, "--n-mels", TINY.n_mels,
             "--n-fft", TINY.n_fft]  # fmt: skip
    assert "2 planned = 2 written" in avprep(*fused).output
    shutil.copy(clip_root / "beta" / "scene 0.mp4", root / "b.mp4")
    said = avprep(*fused).output
    assert "1 sources (b.mp4); --add-new adds them" in said and "2 planned = 2 written" in said
    assert "4 planned = 4 written" in avprep(*fused, "--add-new").output
    shutil.copy(clip_root / "beta" / "scene 1.mp4", root / "b.mp4")
    assert "--replace-changed clips them anew" in avprep(*fused).output
    said = avprep(*fused, "--replace-changed").output
    assert "4 planned = 4 written" in said and "made 1 of 3 shards" in said


def test_without_transformers_the_text_encoder_is_a_sentence(clips, ckpt, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = encode(clips, ckpt, tmp_path / "out", "--text-encoder", "/no/weights")
    assert done.exit_code == 2 and "needs transformers" in done.output
    assert not (tmp_path / "out").exists()  # known before the long run, not after it


def test_captions_are_embedded_once_a_distinct_text(clips, ckpt, tmp_path):
    encode(clips, ckpt, tmp_path / "out")
    store, asked = open_store(tmp_path / "out"), []

    def text_encoder(texts: list[str]) -> list[np.ndarray]:
        asked.extend(texts)
        return [np.full((len(text), 2), i, np.float16) for i, text in enumerate(texts)]

    assert write_captions(store, texts_of(store), text_encoder, "fake") == 4
    assert asked == [f"a video of {label}" for label in "0123"]
    found = load_file(tmp_path / "out" / "captions.safetensors")
    assert found["a video of 2"].shape == (12, 2) and (found["a video of 2"] == 2).all()


def test_the_stats_hold_labels_and_the_models_share(clips, ckpt, tmp_path):
    encode(clips, ckpt, tmp_path / "out")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert stats["labels"] == {"0": 3, "1": 3, "2": 3, "3": 3}
    assert stats["last_run"]["device"] == "cpu" and stats["last_run"]["batch_size"] == 4
