"""Brushes, voices and rhythms: what the scenes of `scenes.py` are made with. numpy only.

Lengths and positions are in the unit square, x to the right, y downwards, 0 at the top left; colours are
0 to 255; a canvas is (RGB, size, size) float32 (numpy is twice as quick with planes) and is painted in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
Colour = tuple[float, ...]  # red, green, blue
Instants = Sequence[float] | Array  # seconds, ascending

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
_RMS, _PEAK = 0.12, 0.8  # the level of a waveform: whichever limit it reaches first


@dataclass(frozen=True)
class Timeline:
    """When there are frames and samples, and how large the square picture is."""

    seconds: float
    fps: int
    size: int  # pixels, height and width
    sample_rate: int  # Hz

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    @cached_property
    def frame_s(self) -> Array:
        return np.arange(round(self.seconds * self.fps)) / self.fps

    @cached_property
    def sample_s(self) -> Array:
        return np.arange(self.samples) / self.sample_rate


@dataclass(frozen=True)
class Parts:
    """What a scene function gives: a scene before it is painted."""

    background: Array  # (RGB, size, size) float32
    # draw(canvas, k) paints frame k, in place, on a copy of the background. Values are clipped to 0 to 255.
    draw: Callable[[Array, int], None]
    sound: Array  # (N,), at any level
    events_s: Instants  # at which something sounds or is loudest, ascending
    caption: str


# --- picture -------------------------------------------------------------------------------------------


def paint(parts: Parts, timeline: Timeline) -> Array:
    """(T, size, size, 3) uint8."""
    frames = np.empty((len(timeline.frame_s), timeline.size, timeline.size, 3), np.uint8)
    for k in range(len(frames)):
        canvas = parts.background.copy()
        parts.draw(canvas, k)
        frames[k] = canvas.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return frames


def rgb(colour: Colour | Array) -> Array:
    """(3, 1, 1) float32, to add to a canvas or mix with it."""
    return np.asarray(colour, np.float32)[:, None, None]


def gradient(timeline: Timeline, top: Colour, bottom: Colour) -> Array:
    """A background that changes from the top's colour to the bottom's, float32 (RGB, S, S)."""
    y = np.linspace(0, 1, timeline.size, dtype=np.float32)[:, None]
    return np.repeat((1 - y) * rgb(top) + y * rgb(bottom), timeline.size, axis=2)


def daylight(rng: np.random.Generator, timeline: Timeline) -> Array:
    """A light background: a random colour that pales downwards, float32 (RGB, S, S)."""
    top = rng.uniform(150, 215, 3)
    return gradient(timeline, tuple(top), tuple(0.55 * top + 0.45 * 240))


def ellipse(
    canvas: Array, x: float, y: float, rx: float, ry: float, colour: Colour, alpha: float = 1.0
) -> None:
    part, dx, dy = _around(canvas, x, y, rx, ry)
    inside = min(rx, ry) * (1 - np.sqrt((dx / float(rx)) ** 2 + (dy / float(ry)) ** 2))
    _blend(part, inside * canvas.shape[1], colour, alpha)


def ring(
    canvas: Array, x: float, y: float, r: float, width: float, colour: Colour, alpha: float = 1.0
) -> None:
    part, dx, dy = _around(canvas, x, y, r + width, r + width)
    inside = width / 2 - abs(np.sqrt(dx**2 + dy**2) - float(r))
    _blend(part, inside * canvas.shape[1], colour, alpha)


def box(canvas: Array, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    rx, ry = (x1 - x0) / 2, (y1 - y0) / 2
    part, dx, dy = _around(canvas, x0 + rx, y0 + ry, rx, ry)
    inside = np.minimum(float(rx) - abs(dx), float(ry) - abs(dy))
    _blend(part, inside * canvas.shape[1], colour, 1.0)


def line(canvas: Array, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
    rx, ry = float(x1 - x0) / 2, float(y1 - y0) / 2
    part, dx, dy = _around(canvas, x0 + rx, y0 + ry, abs(rx) + width, abs(ry) + width)
    along = ((dx * rx + dy * ry) / (rx * rx + ry * ry + 1e-9)).clip(-1, 1)
    inside = width / 2 - np.sqrt((dx - along * rx) ** 2 + (dy - along * ry) ** 2)
    _blend(part, inside * canvas.shape[1], colour, 1.0)


def glow(canvas: Array, x: float, y: float, r: float, colour: Colour, alpha: float) -> None:
    """Adds light that falls off as a Gaussian of standard deviation r."""
    part, dx, dy = _around(canvas, x, y, 3 * r, 3 * r)
    light = np.exp(-0.5 * (dx / float(r)) ** 2) * np.exp(-0.5 * (dy / float(r)) ** 2)
    part += light * (rgb(colour) * np.float32(alpha))


def scatter(canvas: Array, x: Array, y: Array, colour: Array) -> None:
    """Adds the colour at every point, 1/64 of the picture across."""
    size = canvas.shape[1]
    dot = np.arange(max(1, size // 64))
    rows, columns = np.broadcast_arrays(
        (y * size).astype(int)[:, None, None] + dot[:, None], (x * size).astype(int)[:, None, None] + dot
    )
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    for plane, level in zip(canvas, np.asarray(colour, np.float32), strict=True):
        np.add.at(plane, (rows[inside], columns[inside]), level)


def bolt(rng: np.random.Generator) -> Array:
    """(17, 2) points of a flash of lightning from the sky to the ground: midpoint displacement."""
    points = np.array([(rng.uniform(0.25, 0.75), 0.0), (rng.uniform(0.2, 0.8), 0.88)])
    for reach in (0.14, 0.08, 0.04, 0.025):
        middles = (points[1:] + points[:-1]) / 2 + rng.uniform(-reach, reach, (len(points) - 1, 2)) * (1, 0.3)
        points = np.insert(points, np.arange(1, len(points)), middles, axis=0)
    return points


def clouds(rng: np.random.Generator, timeline: Timeline) -> Array:
    """(size, size) float32 in [0, 1]: soft noise of three scales, thinner towards the ground."""
    at = np.linspace(0, 1, timeline.size)
    cloud = np.zeros((timeline.size, timeline.size))
    for cells in (3, 6, 12):
        knots = np.linspace(0, 1, cells + 1)
        rows = [np.interp(at, knots, row) for row in rng.uniform(0, 1, (cells + 1, cells + 1))]
        cloud += np.transpose([np.interp(at, knots, column) for column in np.transpose(rows)]) / cells
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
    return (cloud * (1 - 0.6 * at[:, None])).astype(np.float32)


def _around(canvas: Array, x: float, y: float, rx: float, ry: float) -> tuple[Array, Array, Array]:
    """The canvas within rx, ry of a point, as a view, and its pixels' offsets dx (1, w) and dy (h, 1)."""
    size = canvas.shape[1]
    left, right = (min(max(int((x + r) * size) + d, 0), size) for r, d in ((-rx, -1), (rx, 2)))
    top, bottom = (min(max(int((y + r) * size) + d, 0), size) for r, d in ((-ry, -1), (ry, 2)))
    dx = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5) / size - float(x)
    dy = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5) / size - float(y)
    return canvas[:, top:bottom, left:right], dx, dy


def _blend(part: Array, inside: Array, colour: Colour, alpha: float) -> None:
    """Paints where `inside`, the distance in pixels from the edge, is positive; half a pixel soft."""
    cover = ((inside + 0.5).clip(0, 1) * alpha).astype(np.float32)
    part += cover * (rgb(colour) - part)


# --- sound ---------------------------------------------------------------------------------------------


def levelled(sound: Array) -> Array:
    """(N,) float32 at the level of a recording."""
    return (sound * min(_RMS / sound.std(), _PEAK / abs(sound).max())).astype(np.float32)


def noise(rng: np.random.Generator, samples: int, low_hz: float, high_hz: float, sample_rate: int) -> Array:
    """(samples,) of standard deviation 1 between two frequencies, falling by 12 dB an octave outside."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    f = np.fft.rfftfreq(samples, 1 / sample_rate) + 1e-3
    band = np.fft.irfft(spectrum / np.sqrt((1 + (low_hz / f) ** 4) * (1 + (f / high_hz) ** 4)), samples)
    return band / band.std()


def tone(frequency_hz: Array, sample_rate: int) -> Array:
    """A sine whose frequency is given sample by sample."""
    return np.sin(2 * np.pi * np.cumsum(frequency_hz) / sample_rate)


def strikes(timeline: Timeline, events_s: Instants, voices: Sequence[Array] | Array) -> Array:
    """(N,): voice k begins at event k."""
    track = np.zeros(timeline.samples)
    for t, voice in zip(events_s, voices, strict=True):
        start = round(t * timeline.sample_rate)
        track[start : start + len(voice)] += voice[: len(track) - start]
    return track


def span(timeline: Timeline, seconds: float) -> Array:
    """The instants of a voice's samples, from 0."""
    return np.arange(round(seconds * timeline.sample_rate)) / timeline.sample_rate


# --- time ----------------------------------------------------------------------------------------------


def rhythm(rng: np.random.Generator, timeline: Timeline, low_s: float, high_s: float) -> Array:
    """Instants in the timeline, each `low_s` to `high_s` after the one before, the first before `low_s`."""
    gaps_s = rng.uniform(low_s, high_s, int(timeline.seconds / low_s) + 1)
    times_s = rng.uniform(0.05, low_s) + np.concatenate([[0.0], np.cumsum(gaps_s)])
    return times_s[times_s < timeline.seconds - 0.05]


def peaks_s(timeline: Timeline, period_s: float, phase: float) -> Array:
    """Where `cos(2 pi (t / period_s + phase))` is -1."""
    times_s = (np.arange(timeline.seconds / period_s + 2) + 0.5 - phase) * period_s
    return times_s[(times_s >= 0) & (times_s < timeline.seconds)]


def fading(t: float, events_s: Array, decay_s: float, gains: Array | float = 1.0) -> float:
    """What is left at t of the strongest event: its gain, falling by 1/e every decay_s; 0 before any."""
    since_s = t - events_s
    return float((gains * (since_s >= 0) * np.exp(-since_s.clip(0) / decay_s)).max(initial=0))
