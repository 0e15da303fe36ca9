"""How a picture is brought to the square: the choices alone, for who shows them without decoding."""

from __future__ import annotations

from typing import Literal

Crop = Literal["center", "pad", "stretch"]
CROPS: tuple[Crop, ...] = ("center", "pad", "stretch")
