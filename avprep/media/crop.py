"""The ways to fit a picture to the square. A module of its own, so that printing help does not import av."""

from __future__ import annotations

from typing import Literal, NamedTuple

# 'auto' is 'center' between the black bars of the source.
Crop = Literal["center", "pad", "stretch", "auto"]
CROPS: tuple[Crop, ...] = ("center", "pad", "stretch", "auto")

GRID = 256  # the bars of a source are counted in so many parts of its picture's height and width


class Bars(NamedTuple):
    """Pixels of each bar, counted from its edge of the picture; 0 where there is none. Those of a source are
    of its picture as it is shown, stretched to GRID x GRID."""

    top: int
    bottom: int
    left: int
    right: int

    def share(self, height: int, width: int) -> float:
        """The share of a picture's area that the bars cover."""
        inside = (height - self.top - self.bottom) * (width - self.left - self.right)
        return 1 - inside / (height * width)

    def picture_box(self) -> list[float]:
        """Of a source: left, top, right and bottom of the picture between its bars, as shares of the whole
        picture's width and height."""
        return [self.left / GRID, self.top / GRID, 1 - self.right / GRID, 1 - self.bottom / GRID]


NO_BARS = Bars(0, 0, 0, 0)
