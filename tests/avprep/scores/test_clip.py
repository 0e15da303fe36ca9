"""The pictures that scores share, against Pillow on one picture at a time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from avprep.scores.clip import SMALL, TINY, ScoredClip
from avprep.spec import ClipSpec


@pytest.mark.parametrize("size", [16, 34, 50, 64, 98, 100, 256])
def test_shared_pictures_are_those_of_each_frame_alone(size):
    frames = np.random.default_rng(size).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    clip = ScoredClip(ClipSpec(size=size, frames=5), {"frames": frames})
    greys = [Image.fromarray(frame).convert("L") for frame in frames]
    assert np.array_equal(clip.grey, np.stack(greys))
    assert np.array_equal(clip.small_grey, _whole_blocks(greys, max(1, size // SMALL)))
    step = max(1, size // TINY // 4)
    sparse = [Image.fromarray(np.ascontiguousarray(frame[::step, ::step])) for frame in frames]
    assert np.array_equal(clip.small_frames, _whole_blocks(sparse, max(1, -(-size // step) // TINY)))


def _whole_blocks(pictures: list[Image.Image], factor: int) -> np.ndarray:
    width, height = (length // factor for length in pictures[0].size)
    return np.stack([np.asarray(picture.reduce(factor))[:height, :width] for picture in pictures])
