"""The ways to fit a picture to the square. Apart from the code, so that the help of the command line does not import av."""

from __future__ import annotations

from typing import Literal

Crop = Literal["center", "pad", "stretch"]
CROPS: tuple[Crop, ...] = ("center", "pad", "stretch")
