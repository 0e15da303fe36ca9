"""What a report is made with."""

from __future__ import annotations

from dataclasses import dataclass

from avprep.errors import ArgumentError, AvprepError

MOST_CLIPS = 1000


class ReportError(AvprepError, ValueError):
    """A report that cannot be written: the message names the folder and says why."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Raises ArgumentError for a number out of range."""

    clips: int = 48  # that play, at most
    seed: int = 0  # of those chosen at random
    is_single_file: bool = False  # one self-contained page, not a folder with media
    decoded: str | None = None  # folder of KEY.mp4 by `avprep decode`, for latents
    select: str | None = None  # the name of a selection: only its clips are shown and counted by their values

    def __post_init__(self) -> None:
        if not 0 <= self.clips <= MOST_CLIPS:
            raise ArgumentError(f"clips must be from 0 to {MOST_CLIPS}, not {self.clips}")
        if self.seed < 0:
            raise ArgumentError(f"seed must be at least 0, not {self.seed}")
