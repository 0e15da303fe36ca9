"""Brushes, voices and rhythms: what the scenes of `scenes.py` are made with. numpy only.

Lengths and positions are in the unit square, x to the right, y downwards, 0 at the top left; colours are
0 to 255; a canvas is (size, size, 3) float32 and is painted in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
Colour = tuple[float, float, float]

WHITE: Colour = (255, 255, 255)
COLOURS: dict[str, Colour] = {
    "red": (230, 55, 45),
    "orange": (245, 140, 35),
    "yellow": (245, 215, 60),
    "green": (60, 190, 85),
    "cyan": (60, 200, 220),
    "blue": (60, 100, 235),
    "purple": (155, 80, 220),
    "pink": (240, 115, 180),
}


@dataclass(frozen=True)
class Timeline:
    """When there are frames and samples, and how large the square picture is."""

    seconds: float
    fps: int
    size: int          # pixels, height and width
    sample_rate: int   # Hz

    @cached_property
    def frame_s(self) -> Array:
        return np.arange(round(self.seconds * self.fps)) / self.fps

    @cached_property
    def sample_s(self) -> Array:
        return np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate


@dataclass(frozen=True)
class Scene:
    frames: Array                   # (T, size, size, 3) uint8 RGB
    waveform: Array                 # (N,) float32, peak 0.8
    label: str
    caption: str
    events_s: tuple[float, ...]     # instants at which something sounds or is loudest, ascending


# --- picture -------------------------------------------------------------------------------------------


def paint(timeline: Timeline, background: Array, draw: Callable[[Array, int], None]) -> Array:
    """(T, size, size, 3) uint8: `draw(canvas, k)` paints frame k on a float copy of the background."""
    frames = np.empty((len(timeline.frame_s), *background.shape), np.uint8)
    for k in range(len(frames)):
        canvas = background.copy()
        draw(canvas, k)
        frames[k] = canvas.clip(0, 255)
    return frames


def gradient(timeline: Timeline, top: Colour, bottom: Colour) -> Array:
    """(size, size, 3) float32 from the top's colour to the bottom's."""
    y = np.linspace(0, 1, timeline.size, dtype=np.float32)[:, None, None]
    picture = (1 - y) * np.float32(top) + y * np.float32(bottom)
    return np.repeat(picture, timeline.size, axis=1)


def grid(canvas: Array, x0: float, y0: float, x1: float, y1: float) -> tuple[Array, Array, Array]:
    """The part of the canvas around a rectangle, as a view, and its pixels' x (1, w) and y (h, 1)."""
    size = len(canvas)
    left, top = max(0, int(x0 * size) - 1), max(0, int(y0 * size) - 1)
    right, bottom = max(left, min(size, int(x1 * size) + 2)), max(top, min(size, int(y1 * size) + 2))
    x = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5) / size
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5) / size
    return canvas[top:bottom, left:right], x, y


def blend(part: Array, cover: Array, colour: Colour) -> None:
    part += cover[..., None] * (np.float32(colour) - part)


def ellipse(
    canvas: Array, x: float, y: float, rx: float, ry: float, colour: Colour, alpha: float = 1.0
) -> None:
    part, px, py = grid(canvas, x - rx, y - ry, x + rx, y + ry)
    radius = np.sqrt(((px - x) / rx) ** 2 + ((py - y) / ry) ** 2)
    blend(part, ((1 - radius) * min(rx, ry) * len(canvas) + 0.5).clip(0, 1) * alpha, colour)


def ring(
    canvas: Array, x: float, y: float, r: float, width: float, colour: Colour, alpha: float = 1.0
) -> None:
    part, px, py = grid(canvas, x - r - width, y - r - width, x + r + width, y + r + width)
    away = abs(np.sqrt((px - x) ** 2 + (py - y) ** 2) - r)
    blend(part, ((width / 2 - away) * len(canvas) + 0.5).clip(0, 1) * alpha, colour)


def box(
    canvas: Array, x0: float, y0: float, x1: float, y1: float, colour: Colour, alpha: float = 1.0
) -> None:
    part, px, py = grid(canvas, x0, y0, x1, y1)
    inside = np.minimum(np.minimum(px - x0, x1 - px), np.minimum(py - y0, y1 - py))
    blend(part, (inside * len(canvas) + 0.5).clip(0, 1) * alpha, colour)


def line(
    canvas: Array,
    x0: float, y0: float, x1: float, y1: float,
    width: float, colour: Colour, alpha: float = 1.0,
) -> None:
    part, px, py = grid(
        canvas, min(x0, x1) - width, min(y0, y1) - width, max(x0, x1) + width, max(y0, y1) + width
    )
    dx, dy = x1 - x0, y1 - y0
    along = (((px - x0) * dx + (py - y0) * dy) / (dx * dx + dy * dy + 1e-9)).clip(0, 1)
    away = np.sqrt((px - x0 - along * dx) ** 2 + (py - y0 - along * dy) ** 2)
    blend(part, ((width / 2 - away) * len(canvas) + 0.5).clip(0, 1) * alpha, colour)


def glow(canvas: Array, x: float, y: float, r: float, colour: Colour, alpha: float = 1.0) -> None:
    """Adds light that falls off as a Gaussian of standard deviation r."""
    part, px, py = grid(canvas, x - 3 * r, y - 3 * r, x + 3 * r, y + 3 * r)
    light = np.exp(-((px - x) ** 2) / (2 * r * r)) * np.exp(-((py - y) ** 2) / (2 * r * r))
    part += (alpha * light)[..., None] * np.float32(colour)


def scatter(canvas: Array, x: Array, y: Array, light: Array) -> None:
    """Adds light (3,) at every point, a spark of 1/64 of the picture across."""
    size = len(canvas)
    reach = np.arange(max(1, size // 64))
    column = ((x * size).astype(int)[:, None, None] + reach[None, None, :]).repeat(len(reach), axis=1).ravel()
    row = ((y * size).astype(int)[:, None, None] + reach[None, :, None]).repeat(len(reach), axis=2).ravel()
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    np.add.at(canvas, (row[inside], column[inside]), light)


def bolt(rng: np.random.Generator) -> Array:
    """(17, 2) points of a flash of lightning from the sky to the ground."""
    points = np.array([(rng.uniform(0.25, 0.75), 0.0), (rng.uniform(0.2, 0.8), 0.88)])
    for step in (0.14, 0.08, 0.04, 0.025):
        middles = (points[1:] + points[:-1]) / 2 + rng.uniform(-step, step, (len(points) - 1, 2)) * (1, 0.3)
        points = np.insert(points, np.arange(1, len(points)), middles, axis=0)
    return points


def clouds(rng: np.random.Generator, size: int) -> Array:
    """(size, size) float32 in [0, 1]: soft noise, denser towards the top."""
    at = np.linspace(0, 1, size)
    cloud = np.zeros((size, size))
    for cells in (3, 6, 12):
        knots = rng.uniform(0, 1, (cells + 1, cells + 1))
        rows = np.stack([np.interp(at, np.linspace(0, 1, cells + 1), column) for column in knots.T], axis=1)
        cloud += np.stack([np.interp(at, np.linspace(0, 1, cells + 1), row) for row in rows]) / cells
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
    return (cloud * (1 - 0.6 * at[:, None])).astype(np.float32)


# --- sound ---------------------------------------------------------------------------------------------


def noise(rng: np.random.Generator, samples: int, low_hz: float, high_hz: float, sample_rate: int) -> Array:
    """(samples,) noise of standard deviation 1 between two frequencies, with soft edges."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    f = np.fft.rfftfreq(samples, 1 / sample_rate) + 1e-9
    band = np.fft.irfft(spectrum / np.sqrt((1 + (low_hz / f) ** 4) * (1 + (f / high_hz) ** 4)), samples)
    return band / band.std()


def tone(frequency_hz: Array, sample_rate: int) -> Array:
    """A sine whose frequency changes from sample to sample."""
    return np.sin(2 * np.pi * np.cumsum(frequency_hz) / sample_rate)


def strikes(timeline: Timeline, events_s: Sequence[float], voices: Sequence[Array]) -> Array:
    """(N,): voice k begins at event k."""
    track = np.zeros(len(timeline.sample_s))
    for t, voice in zip(events_s, voices, strict=True):
        start = round(t * timeline.sample_rate)
        track[start : start + len(voice)] += voice[: len(track) - start]
    return track


def span(timeline: Timeline, seconds: float) -> Array:
    """The instants of a voice's samples, from 0."""
    return np.arange(round(seconds * timeline.sample_rate)) / timeline.sample_rate


def normalised(waveform: Array) -> Array:
    return (0.8 * waveform / abs(waveform).max()).astype(np.float32)


# --- time ----------------------------------------------------------------------------------------------


def rhythm(rng: np.random.Generator, timeline: Timeline, low_s: float, high_s: float) -> Array:
    """Instants in the timeline, each `low_s` to `high_s` after the one before."""
    gaps = rng.uniform(low_s, high_s, int(timeline.seconds / low_s) + 2)
    times = np.cumsum(gaps) - rng.uniform(0, low_s)
    return times[(times > 0.02) & (times < timeline.seconds - 0.02)]


def fading(t: float, events_s: Array, decay_s: float, gains: Array | float = 1.0) -> Array:
    """How strong each event still is at t: its gain, falling by 1/e every decay_s; 0 before it."""
    since = t - events_s
    return gains * np.where(since >= 0, np.exp(-since.clip(0) / decay_s), 0)


def peaks_s(timeline: Timeline, period_s: float, phase: float) -> tuple[float, ...]:
    """Where `0.5 - 0.5 * cos(2 pi (t / period_s + phase))` is 1."""
    times = (np.arange(timeline.seconds / period_s + 2) + 0.5 - phase) * period_s
    return tuple(times[(times >= 0) & (times < timeline.seconds)])
