"""`avprep clip --crop auto`: boxed and dark scenes through whole runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import avprep as api
from avprep.media.mux import write_mp4
from avprep.shards.clips import load_npy
from avprep.shards.tar import read_shard
from avprep.spec import ClipSpec
from tests.avprep.scores.made import texture
from tests.integration.test_job import avprep, digest, rows_of

FPS, PICTURES, HEIGHT, WIDTH = 25, 40, 128, 224
SMALL = ["--frames", 8, "--size", 64, "--video-codec", "raw", "--workers", 0]


def scene(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 (PICTURES, height, width, RGB): a lit picture that moves."""
    wide = texture(height, width + 2 * PICTURES, seed) // 2 + 90
    grey = np.stack([wide[:, 2 * i : 2 * i + width] for i in range(PICTURES)])
    return np.repeat(grey[..., None], 3, axis=3)


def boxed(inside: np.ndarray) -> np.ndarray:
    """The scene in the middle of black pictures of HEIGHT x WIDTH."""
    whole = np.zeros((PICTURES, HEIGHT, WIDTH, 3), np.uint8)
    height, width = inside.shape[1:3]
    top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
    whole[:, top : top + height, left : left + width] = inside
    return whole


def night() -> np.ndarray:
    """A dark scene with a lit window: black from edge to edge above and below of it."""
    whole = np.full((PICTURES, HEIGHT, WIDTH, 3), 8, np.uint8)
    whole[:, 48:80, 90:130] = 220
    return whole


SCENES = {
    "letter": lambda: boxed(scene(1, 96, WIDTH)),
    "pillar": lambda: boxed(scene(2, HEIGHT, 160)),
    "window": lambda: boxed(scene(3, 112, 190)),
    "whole": lambda: scene(4, HEIGHT, WIDTH),
    "night": night,
    "black": lambda: np.zeros((PICTURES, HEIGHT, WIDTH, 3), np.uint8),
}
BOXES = {  # left, top, right, bottom
    "letter": (0, 1 / 8, 1, 7 / 8),
    "pillar": (1 / 7, 0, 6 / 7, 1),
    "window": (17 / 224, 1 / 16, 207 / 224, 15 / 16),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxed")
    for name, made in SCENES.items():
        write_mp4(folder / f"{name}.mp4", made(), None, fps=FPS, sample_rate=16000)
    return folder


def clip(root: Path, out: Path, crop: str, *args: object):
    return avprep("clip", "--dataset", "folder", "--root", root, "--out", out, *SMALL, "--crop", crop, *args)


def clips_of(out: Path) -> dict[tuple[str, float], tuple[dict, np.ndarray]]:
    """KEY.json and the frames of every clip, by the source's stem and the start."""
    found = {}
    for path in sorted((out / "shards").iterdir()):
        for _, members in read_shard(io.BytesIO(path.read_bytes()), 1 << 30):
            header = json.loads(members["json"])
            found[Path(header["source"]).stem, header["start_s"]] = header, load_npy(members["frames.npy"])
    return found


@pytest.fixture(scope="module")
def outputs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same sources cropped in both ways."""
    folder = tmp_path_factory.mktemp("outputs")
    for crop in ("center", "auto"):
        result = clip(root, folder / crop, crop)
        assert result.exit_code == 0, result.output
    return {crop: folder / crop for crop in ("center", "auto")}


def test_no_bar_of_known_size_is_in_a_clip(outputs: dict[str, Path]):
    clips = clips_of(outputs["auto"])
    assert len(clips) == 2 * len(SCENES)
    for (name, _), (header, frames) in clips.items():
        if name in BOXES:
            assert np.allclose(header["picture_box"], BOXES[name], atol=3 / 256), name
            edges = [frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]]
            assert min(edge.mean() for edge in edges) > 80, name


def test_a_picture_without_bars_stays_as_the_centre_crop_gives_it(outputs: dict[str, Path]):
    """Above all a dark scene: nothing of it is cut away."""
    centred = clips_of(outputs["center"])
    for (name, start_s), (header, frames) in clips_of(outputs["auto"]).items():
        if name not in BOXES:
            assert header.pop("picture_box") == [0, 0, 1, 1]
            expected, pictures = centred[name, start_s]
            assert header == expected and np.array_equal(frames, pictures), name
    assert not any("picture_box" in header for header, _ in centred.values())


def test_the_square_is_that_of_the_picture_between_the_bars(
    root: Path, outputs: dict[str, Path], tmp_path: Path
):
    """The scene alone, without bars, cropped in the centre."""
    write_mp4(tmp_path / "bare.mp4", scene(1, 96, WIDTH), None, fps=FPS, sample_rate=16000)
    spec = ClipSpec(frames=8, size=64)
    (bare, *_) = api.read_clips(tmp_path / "bare.mp4", spec=spec)
    _, frames = clips_of(outputs["auto"])["letter", 0.0]
    error = np.square(bare.frames.astype(float) - frames).mean()
    centred = np.square(bare.frames.astype(float) - clips_of(outputs["center"])["letter", 0.0][1]).mean()
    assert error < centred / 10


def test_bars_are_found_once_and_remade_clips_are_the_same(
    root: Path, outputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    assert clip(root, out, "auto", "--shard-size", 2).exit_code == 0
    before = digest(out)
    rows = pq.read_table(out / "plan.parquet").to_pylist()
    assert {row["source"]: row["bars"] for row in rows}["night.mp4"] == [0, 0, 0, 0]
    for name in ("shards/clips-000001.tar", "ledger/000001.parquet", "ledger/000002.parquet"):
        (out / name).unlink()

    def found_again(*_args, **_options):
        raise AssertionError("the plan has them")

    monkeypatch.setattr("avprep.stages.probe.bars_of_source", found_again)
    monkeypatch.setattr("avprep.stages.clip.bars_of_source", found_again)
    assert clip(root, out, "auto", "--shard-size", 2).exit_code == 0
    assert digest(out) == before
    tried = avprep("status", out, "--try", rows_of(out)[0].key)
    assert tried.exit_code == 0, tried.output


def test_another_crop_is_refused(root: Path, outputs: dict[str, Path]):
    refused = clip(root, outputs["auto"], "center")
    assert refused.exit_code == 2 and "options.crop" in refused.output


def test_clips_in_memory_are_cropped_as_the_stored_ones(root: Path, outputs: dict[str, Path]):
    spec = ClipSpec(frames=8, size=64)
    for name in SCENES:
        clip = next(api.read_clips(root / f"{name}.mp4", spec=spec, crop="auto"))
        assert np.array_equal(clip.frames, clips_of(outputs["auto"])[name, 0.0][1])
