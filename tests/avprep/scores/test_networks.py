"""Scores by neural networks, on real clips of ../shared; skipped where a package or a file is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from avprep.api.clips import read_clips
from avprep.scores.base import OpenScore, Score, WeightPaths, open_scores
from avprep.scores.clip import ScoredClip
from avprep.scores.speech import SPEECH_SHARE
from avprep.scores.tags import TAGS
from avprep.scores.text import TEXT_SHARE
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
