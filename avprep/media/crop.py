"""The ways to fit a picture to the square. A module of its own, so that printing help does not import av."""

from __future__ import annotations

from typing import Literal

Crop = Literal["center", "pad", "stretch"]
CROPS: tuple[Crop, ...] = ("center", "pad", "stretch")
