"""How the frames of a clip are stored: the choices alone, for who shows them without writing."""

from __future__ import annotations

from typing import Literal

VideoCodec = Literal["raw", "jpeg", "h264"]
VIDEO_CODECS: tuple[VideoCodec, ...] = ("raw", "jpeg", "h264")
