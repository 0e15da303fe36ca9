"""The sounding scenes: reproducible, balanced, and their sound told by their picture."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from avprep.scenes.sketch import Timeline
from avprep.scenes.synth import CLASSES, Scene, SynthError, render_scene, write_scenes

TIMELINE = Timeline(seconds=4.0, fps=20, size=48, sample_rate=16000)


@cache
def scene(label: str, seed: int = 0) -> Scene:
    return render_scene(CLASSES.index(label), seed=seed, timeline=TIMELINE)


def loudness(waveform: np.ndarray) -> np.ndarray:
    """RMS of what sounds during each frame. (T,)"""
    return np.sqrt((waveform.reshape(len(TIMELINE.frame_s), -1).astype(float) ** 2).mean(axis=1))


def band_db(waveform: np.ndarray, window: int, hop: int, bands: int = 24) -> np.ndarray:
    """Power in log-spaced bands from 60 Hz to 8 kHz, dB: (bands, steps)."""
    pieces = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop] * np.hanning(window)
    power = abs(np.fft.rfft(pieces)) ** 2
    edges = np.unique(np.geomspace(max(1, 60 * window / 16000), window // 2, bands + 1).astype(int))
    return 10 * np.log10(np.add.reduceat(power, edges[:-1], axis=1).T + 1e-6)


def brightness(frames: np.ndarray) -> np.ndarray:
    return frames.mean(axis=(1, 2, 3))


# --- what a scene is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", CLASSES)
def test_a_scene_is_frames_sound_caption_and_events(label: str) -> None:
    made = scene(label)
    assert made.label == label
    assert (made.frames.shape, made.frames.dtype) == ((80, 48, 48, 3), np.uint8)
    assert (made.waveform.shape, made.waveform.dtype) == ((64000,), np.float32)
    assert abs(made.waveform).max() <= 0.8001
    assert list(made.events_s) == sorted(made.events_s)
    assert all(0 <= t < TIMELINE.seconds for t in made.events_s)
    assert label in made.caption or label in {"thunder", "siren"} & set(made.caption.split())


@pytest.mark.parametrize("label", CLASSES)
def test_no_clip_is_silent_or_still(label: str) -> None:
    for seed in range(3):
        made = scene(label, seed)
        heard = loudness(made.waveform)
        moved = abs(np.diff(made.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
        for start in range(0, len(heard) - 32 + 1, 4):  # 1.6 s
            assert heard[start : start + 32].max() > 0.02
            assert moved[start : start + 31].max() > 0.5


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    render_scene(3, seed=9, timeline=TIMELINE)
    again = render_scene(1, seed=0, timeline=TIMELINE)
    assert (again.frames == scene("rain").frames).all()
    assert (again.waveform == scene("rain").waveform).all()
    for other in (render_scene(11, seed=0, timeline=TIMELINE), scene("rain", 1)):
        assert other.label == "rain"
        assert (other.frames != again.frames).any()
        assert (other.waveform != again.waveform).any()


@pytest.mark.parametrize("size", [32, 256])
def test_size_changes_the_picture_alone(size: int) -> None:
    for index in range(len(CLASSES)):
        small, large = (
            render_scene(index, seed=0, timeline=Timeline(1.6, 10, pixels, 16000)) for pixels in (64, size)
        )
        assert (small.waveform == large.waveform).all()
        assert small.events_s == large.events_s
        assert abs(brightness(small.frames) - brightness(large.frames)).max() < 12


# --- what is heard is seen -----------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["ball", "drum", "engine", "bird", "fireworks", "thunder", "xylophone"])
def test_sound_begins_at_every_event(label: str) -> None:
    made = scene(label)
    silence = np.zeros(128, np.float32)  # step k is centred on k * 5 ms
    rise = np.diff(band_db(np.concatenate([silence, made.waveform, silence]), 256, 80)).clip(0).mean(axis=0)
    for t in made.events_s:
        k = round(t * 200)
        assert rise[max(0, k - 3) : k + 4].max() > 3 * np.median(rise) + 0.5, t


@pytest.mark.parametrize("label", ["drum", "engine", "fireworks", "thunder", "xylophone"])
def test_picture_lights_up_at_every_event(label: str) -> None:
    for seed in range(3):
        made = scene(label, seed)
        light = brightness(made.frames)
        first = [int(np.ceil(t * TIMELINE.fps - 1e-9)) for t in made.events_s]
        rises = [light[k] > light[k - 1] for k in first if 0 < k < len(light)]
        assert np.mean(rises) > 0.85


def test_ball_is_at_the_floor_when_it_clicks() -> None:
    made = scene("ball")
    # The ball and its shadow are what differs from the background, the median over time.
    moving = abs(made.frames - np.median(made.frames, axis=0)).sum(axis=3) > 60
    top = np.array([np.flatnonzero(picture.any(axis=1))[0] for picture in moving])
    at = [round(t * TIMELINE.fps) for t in made.events_s if round(t * TIMELINE.fps) < len(top)]
    assert min(top[at]) > np.quantile(top, 0.6)
    assert max(top[at]) == max(top)


def test_rain_and_waves_are_as_loud_as_they_look() -> None:
    for seed in range(3):
        rain, waves = scene("rain", seed), scene("waves", seed)
        assert np.corrcoef(brightness(rain.frames), loudness(rain.waveform))[0, 1] > 0.85
        foam = (waves.frames[:, 24:].min(axis=3) > 200).mean(axis=(1, 2))
        assert np.corrcoef(foam, loudness(waves.waveform))[0, 1] > 0.8


def test_siren_shines_on_one_side_for_each_tone() -> None:
    for seed in range(3):
        made = scene("siren", seed)
        pieces = made.waveform.reshape(len(TIMELINE.frame_s), -1) * np.hanning(800)
        pitch = 40 + abs(np.fft.rfft(pieces, 8000))[:, 40:800].argmax(axis=1)  # the loudest, 80 to 1600 Hz
        side = made.frames[:, :, 24:].mean(axis=(1, 2, 3)) - made.frames[:, :, :24].mean(axis=(1, 2, 3))
        assert abs(np.corrcoef(side, pitch)[0, 1]) > 0.8


def test_bird_opens_its_beak_while_it_sings() -> None:
    made = scene("bird")
    still = made.frames[loudness(made.waveform) < 1e-4]
    singing = made.frames[loudness(made.waveform) > 0.05]
    assert abs(np.median(singing, axis=0) - np.median(still, axis=0)).mean() > 5


# --- classes can be told apart -------------------------------------------------------------------------


def sound_features(made: Scene) -> np.ndarray:
    db = band_db(made.waveform, 1024, 160)
    return np.concatenate([db.mean(axis=1), db.std(axis=1), abs(np.diff(db, axis=1)).mean(axis=1)])


def picture_features(made: Scene) -> np.ndarray:
    cells = made.frames.reshape(-1, 6, 8, 6, 8, 3).mean(axis=(2, 4))
    return np.concatenate([cells.mean(axis=0).ravel(), 3 * cells.std(axis=0).ravel()])


@pytest.mark.parametrize("features", [sound_features, picture_features])
def test_nearest_neighbour_finds_the_class(features) -> None:
    seeds = 6
    table = np.array([[features(scene(label, seed)) for seed in range(seeds)] for label in CLASSES])
    points, classes = table.reshape(-1, table.shape[-1]), np.repeat(np.arange(len(CLASSES)), seeds)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
    assert (classes[distance.argmin(axis=1)] == classes).mean() >= 0.9


# --- write_scenes --------------------------------------------------------------------------------------


def test_files_manifest_and_events_agree(tmp_path: Path) -> None:
    seen: list[Path] = []
    n = len(CLASSES) + 1
    paths = write_scenes(tmp_path, n=n, seed=5, seconds=1.6, size=48, fps=10, on_scene=seen.append)
    assert seen == paths
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        [*paths, tmp_path / "manifest.csv", tmp_path / "events.json"]
    )
    with open(tmp_path / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    events = json.loads((tmp_path / "events.json").read_text())
    for index, (path, row) in enumerate(zip(paths, rows, strict=True)):
        label, made = CLASSES[index % 10], render_scene(index, seed=5, timeline=Timeline(1.6, 10, 48, 44100))
        assert path == tmp_path / label / f"{label}_{index:04d}.mp4" == tmp_path / row["path"]
        assert (row["labels"], row["caption"]) == (label, made.caption)
        assert events[row["path"]]["class"] == label
        assert events[row["path"]]["seed"] == 5
        assert events[row["path"]]["events_s"] == pytest.approx(made.events_s, abs=1e-6)
    with av.open(str(paths[10])) as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        assert container.streams.audio[0].rate == 44100
    assert np.abs(decoded.astype(int) - made.frames).mean() < 6


def test_a_larger_n_extends_a_smaller_one(tmp_path: Path) -> None:
    options = {"seed": 1, "seconds": 1.0, "size": 32, "fps": 10}
    few, many = (write_scenes(tmp_path / str(n), n=n, **options) for n in (3, 12))
    assert [p.read_bytes() for p in few] == [p.read_bytes() for p in many[:3]]
    assert [p.parent.name for p in many] == [*CLASSES, "ball", "rain"]


def test_processes_change_neither_files_nor_their_order(tmp_path: Path) -> None:
    options = {"n": 3, "seed": 1, "seconds": 1.0, "size": 32, "fps": 10}
    one, two = (write_scenes(tmp_path / str(k), workers=k, **options) for k in (1, 2))
    assert [p.relative_to(tmp_path / "1") for p in one] == [p.relative_to(tmp_path / "2") for p in two]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    assert (tmp_path / "1/events.json").read_bytes() == (tmp_path / "2/events.json").read_bytes()


@pytest.mark.parametrize(
    ("option", "value"), [("n", 0), ("seed", -1), ("seconds", 0.5), ("size", 33), ("size", 16), ("fps", 0)]
)
def test_an_option_out_of_range_names_itself(tmp_path: Path, option: str, value: float) -> None:
    with pytest.raises(SynthError, match=f"{option} .*not {value}"):
        write_scenes(tmp_path / "out", **{"n": 1, "seed": 0, option: value})
    assert not (tmp_path / "out").exists()
