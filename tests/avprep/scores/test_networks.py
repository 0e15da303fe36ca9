"""Scores by neural networks, on real clips of ../shared; skipped where a package or a file is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from avprep.api.clips import read_clips
from avprep.scenes.sketch import Timeline
from avprep.scenes.synth import render_scene
from avprep.scores.base import OpenScore, Score, WeightPaths, open_scores
from avprep.scores.clip import ScoredClip
from avprep.scores.speech import SPEECH_SHARE
from avprep.scores.tags import TAGS
from avprep.scores.text import TEXT_SHARE, _is_text
from tests.avprep.scores.made import SPEC, clip_of, noise
from tests.conftest import shared_file


def real_clip(name: str, start_s: float) -> ScoredClip:
    clip = next(read_clips(shared_file("media", name), starts=[start_s], timeout_s=60))
    return ScoredClip(SPEC, {"frames": clip.frames, "waveform": clip.waveform})


def opened(score: Score, yamnet: Path | None = None) -> OpenScore:
    for module in score.modules:
        pytest.importorskip(module)
    return OpenScore(score=score, measure=score.open(WeightPaths(yamnet=yamnet)))


@pytest.fixture(scope="module")
def tags() -> OpenScore:
    return opened(TAGS, shared_file("weights", "yamnet_int8.npz"))


@pytest.fixture(scope="module")
def text() -> OpenScore:
    return opened(TEXT_SHARE)


@pytest.mark.parametrize(
    "name, start_s, tag, least",
    [
        ("nasa_2v_audio.mp4", 1.6, "Speech", 0.8),
        ("bbb_seg1.ts", 1.6, "Music", 0.5),
        ("water_mono.mp4", 0.0, "Water", 0.5),
    ],
)
def test_tags_of_real_sounds(tags: OpenScore, name: str, start_s: float, tag: str, least: float):
    found = tags(real_clip(name, start_s))
    assert found["tag"] == tag and found["tag_score"] >= least and found["tags"].startswith(tag)
    assert (found["speech"] > 0.5) == (tag == "Speech") and (found["music"] > 0.5) == (tag == "Music")


def test_digital_silence_has_no_tags_and_noise_is_neither_speech_nor_music(tags: OpenScore):
    assert set(tags(clip_of()).values()) == {None}
    found = tags(clip_of(waveform=noise(0.3)))
    assert found["speech"] < 0.2 and found["music"] < 0.2


def test_tags_without_the_class_map_are_left_out(tmp_path: Path):
    weights = tmp_path / "yamnet.npz"
    weights.write_bytes(shared_file("weights", "yamnet_int8.npz").read_bytes())
    found, left_out = open_scores([TAGS], WeightPaths(yamnet=weights))
    assert not found and "yamnet_class_map.csv" in left_out[0].why


def test_weights_of_another_kind_are_left_out_with_the_reason(tmp_path: Path):
    (tmp_path / "yamnet.npz").write_bytes(b"no weights")
    found, left_out = open_scores([TAGS], WeightPaths(yamnet=tmp_path / "yamnet.npz"))
    assert not found and "cannot be read" in left_out[0].why


def test_speech_share_of_speech_noise_and_silence():
    threads = torch.get_num_threads()
    speech = opened(SPEECH_SHARE)
    assert torch.get_num_threads() == threads
    assert speech(real_clip("nasa_2v_audio.mp4", 1.6))["speech_share"] > 0.8
    assert speech(clip_of(waveform=noise(0.1)))["speech_share"] < 0.1
    assert speech(clip_of())["speech_share"] == 0


def test_speech_share_does_not_depend_on_the_clip_before():
    speech = opened(SPEECH_SHARE)
    quiet = speech(clip_of(waveform=noise(0.01)))
    speech(real_clip("nasa_2v_audio.mp4", 1.6))
    assert speech(clip_of(waveform=noise(0.01))) == quiet


def test_text_of_known_area(text: OpenScore):
    frame = Image.new("RGB", (SPEC.size, SPEC.size), (40, 60, 90))
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(32)
    draw.text((20, 100), "HELLO WORLD", fill="white", font=font)
    left, top, right, bottom = draw.textbbox((20, 100), "HELLO WORLD", font=font)
    frames = np.repeat(np.asarray(frame)[None], SPEC.frames, axis=0)
    area = (right - left) * (bottom - top) / SPEC.size**2
    assert area < text(clip_of(frames=frames))["text_share"] < 2 * area  # the detector's boxes have a margin


def test_no_text_in_grey_nor_in_gravel(text: OpenScore):
    assert text(clip_of())["text_share"] == 0
    assert text(real_clip("water_mono.mp4", 0.0))["text_share"] == 0  # the detector alone takes it for text


@pytest.mark.parametrize("index", [3, 63])
def test_a_shape_that_fills_the_picture_is_no_character(text: OpenScore, index: int):
    """These two drums are read as O and 6 with a confidence of 0.90 and 0.94; they cover the picture."""
    timeline = Timeline(seconds=float(SPEC.seconds), fps=10, size=SPEC.size, sample_rate=SPEC.sample_rate)
    frames = render_scene(index, seed=5, timeline=timeline).frames
    assert text(clip_of(frames=frames))["text_share"] == 0


def test_a_lone_character_counts_where_it_is_read_without_doubt():
    assert _is_text("8", 0.999) and not _is_text(" 8 ", 0.95)
    assert _is_text("80", 0.81)


@pytest.mark.parametrize(
    "name, start_s, low, high",
    [
        ("man_60fps.mp4", 11.2, 0, 0),  # a man, read as H
        ("dogball.3gp", 4.8, 0, 0),  # a dog, read as 3
        ("avi_countdown.avi", 4.8, 0.3, 0.5),  # a single digit, and a line at the edge
        ("googlework_35s.mp4", 10.434, 0.05, 0.2),  # one word
    ],
)
def test_text_of_real_films(text: OpenScore, name: str, start_s: float, low: float, high: float):
    assert low <= text(real_clip(name, start_s))["text_share"] <= high
