"""The sound of clips, placed by PTS: decoded once, mixed to mono, resampled on a grid whose 0 is time 0.

    native grid   |....|....|....|          round(time * native_rate): every packet placed by its PTS
    clip grid     |..|..|..|..|..|          n / sample_rate: a clip is samples [start, start + N)

Nothing is ever shifted to fill a hole: where the source has no sound there is silence, and its extent
is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from math import gcd, lcm

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from avprep.media.packets import packets_from
from avprep.media.probe import MAX_CHANNELS, SAMPLE_RATES, Deadline, OpenSource
from avprep.media.resample import resample
from avprep.media.timeline import Clock
from avprep.spec import ClipSpec

_PREROLL_S = 1               # decoded and dropped after a seek: codecs need it to settle
_LOOK_AHEAD = 32             # frames whose PTS together say where the samples are
_AGREEING = 3                # of those, so many must agree before a PTS is believed against the count
_SETTLED_S = Fraction(1, 1000)  # PTS this close (and one tick) agree: they are rounded
# Vorbis packets carry stamps that waver with the block size, by a quarter of the largest block at most
# (2048 samples), while the samples themselves run on.
_VORBIS_SETTLED_S = Fraction(1, 20)
# PyAV takes a frame's planes to end at a NULL, which FFmpeg promises up to this many only; beyond, it reads
# what is not there. A damaged AAC packet is enough to make such a frame.
_PLANES = 8
# Times full scale: damaged float samples reach 1e38, whose spectrum is no number.
_LOUDEST = 1e3
# ITU-R BS.775 weights to one channel, before they are normalised to sum to 1; LFE is left out.
_WEIGHTS = {"FL": 1.0, "FR": 1.0, "FC": 1.0, "LFE": 0.0, "LFE2": 0.0}
_SURROUND_WEIGHT = 0.7071067811865476


@dataclass(frozen=True)
class ClipSound:
    """The samples of a clip with their true neighbours, and how much of the clip has any."""

    waveform: np.ndarray     # float32 (samples_before + samples + samples_after,), mono, the spec's rate
    sounding_s: float        # seconds of the clip that the source has sound for; the rest is silence


def read_sound(
    source: OpenSource, starts: Sequence[int], *, spec: ClipSpec, deadline: Deadline
) -> list[ClipSound]:
    """The sound of the clips at ascending `starts` (samples), silence where there is none."""
    if source.audio is None:
        return [_silence(spec)] * len(starts)
    clock = source.audio_clock
    first_s = Fraction(starts[0] - spec.samples_before, spec.sample_rate) - _PREROLL_S
    packets = packets_from(source.container, source.audio, clock.last_tick(first_s))
    settled_s = _VORBIS_SETTLED_S if source.header.audio_codec == "vorbis" else _SETTLED_S + clock.time_base
    runs = _mono_runs(_decoded(source.audio, packets, deadline), clock, settled_s)
    return _cut(runs, starts, spec)


def _silence(spec: ClipSpec) -> ClipSound:
    return ClipSound(np.zeros(spec.samples_before + spec.samples + spec.samples_after, np.float32), 0.0)


def _decoded(stream, packets, deadline: Deadline) -> Iterator[AudioFrame]:
    """Frames; a damaged packet leaves a gap that the next frame's PTS shows."""
    codec = stream.codec_context
    codec.flush_buffers()
    for packet in packets:
        deadline.check()
        try:
            yield from codec.decode(packet)
        except av.FFmpegError:
            continue
    try:
        yield from codec.decode(None)
    except av.FFmpegError:
        return


def _mono_runs(
    frames: Iterator[AudioFrame], clock: Clock, settled_s: Fraction
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(native rate, place, samples): float32 mono pieces, `place` counted in native samples from time 0.

    Containers round PTS (Matroska to 1 ms) and some encoders misplace a single one, so samples run on from
    where they began until several PTS agree that they are elsewhere: a true gap or overlap.
    """
    pending = deque(islice(frames, _LOOK_AHEAD))
    run: _Run | None = None
    while pending:
        frame = pending[0]
        if run is not None and frame.sample_rate != run.rate:
            run = None
        if frame.sample_rate not in SAMPLE_RATES:
            return
        if run is None or run.is_elsewhere(frame.pts):
            origin_s = _agreed_origin(pending, clock, settled_s, begin=run is None)
            if origin_s is not None:
                run = _Run(origin_s, frame.sample_rate, clock, settled_s)
        if run is None:
            return  # no stamp at all: nothing can be placed
        samples = _to_mono(frame)
        yield run.rate, run.take(len(samples)), samples
        pending.popleft()
        pending.extend(islice(frames, 1))


class _Run:
    """Samples that follow one another from `origin_s` on, seconds of the source's time.

    Asked once a frame, so in integers: all its times are multiples of one unit that the clock's ticks, the
    samples and the origin have in common.
    """

    def __init__(self, origin_s: Fraction, rate: int, clock: Clock, settled_s: Fraction) -> None:
        self.rate = rate
        self._place = round(origin_s * rate)
        next_s = origin_s + clock.origin  # of the stream's clock, as a PTS is
        unit = lcm(clock.time_base.denominator, next_s.denominator, rate, settled_s.denominator)
        self._tick, self._sample = int(clock.time_base * unit), unit // rate
        self._next, self._settled = int(next_s * unit), int(settled_s * unit)

    def is_elsewhere(self, pts: int | None) -> bool:
        """Whether a PTS says that the next sample sounds at another time than the count does."""
        return pts is not None and abs(pts * self._tick - self._next) > self._settled

    def take(self, count: int) -> int:
        """The place of the next sample; `count` samples are now behind."""
        place = self._place
        self._place += count
        self._next += count * self._sample
        return place


def _agreed_origin(
    pending: Sequence[AudioFrame], clock: Clock, settled_s: Fraction, *, begin: bool
) -> Fraction | None:
    """Where the first pending sample sounds: the median of the PTS that agree with its own.

    None if too few agree; at the begin of a run, where there is no count to go by, all of them are asked.
    """
    origins: list[Fraction] = []
    count = 0
    for frame in pending:
        if frame.sample_rate != pending[0].sample_rate:
            break
        if frame.pts is not None:
            origins.append(clock.seconds(frame.pts) - Fraction(count, frame.sample_rate))
        count += frame.samples
    agreeing = [o for o in origins if abs(o - origins[0]) <= settled_s]
    if len(agreeing) < min(_AGREEING, len(origins)):
        agreeing = origins if begin else []
    return sorted(agreeing)[len(agreeing) // 2] if agreeing else None


def _to_mono(frame: AudioFrame) -> np.ndarray:
    """float32 (samples,), full scale 1; damaged float samples may be no numbers yet."""
    if frame.format.is_planar and len(frame.layout.channels) > _PLANES:
        packed = AudioResampler(format=frame.format.packed.name, layout=frame.layout, rate=frame.sample_rate)
        frame = packed.resample(frame)[0]
    weights = _mono_weights(tuple(c.name for c in frame.layout.channels))
    if frame.format.name == "fltp":  # what most codecs decode to: a third of the time of a copy
        planes = (np.frombuffer(plane, np.float32, frame.samples) for plane in frame.planes)
        return sum(weight * plane for weight, plane in zip(weights, planes, strict=True))
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, len(weights)).T
    if data.dtype.kind in "iu":
        limits = np.iinfo(data.dtype)
        zero, scale = (128, 128) if data.dtype == np.uint8 else (0, -int(limits.min))
        data = (data.astype(np.float32) - zero) / scale
    data = data.astype(np.float32, copy=False)
    return data[0] if len(weights) == 1 else weights @ data


@lru_cache(maxsize=16)
def _mono_weights(channels: tuple[str, ...]) -> np.ndarray:
    """float32 (channels,) that sum to 1, by the channels' names."""
    names = channels[:MAX_CHANNELS]
    weights = np.array([_WEIGHTS.get(name, _SURROUND_WEIGHT) for name in names], np.float32)
    weights = weights if weights.any() else np.ones_like(weights)
    return weights / weights.sum()


def _cut(
    runs: Iterator[tuple[int, int, np.ndarray]], starts: Sequence[int], spec: ClipSpec
) -> list[ClipSound]:
    """Each clip's samples as soon as the runs have passed it; only a clip's length is held."""
    sounds: list[ClipSound] = []
    held: deque[tuple[int, int, np.ndarray]] = deque()
    windows: list[tuple[int, int]] = []
    held_rate = 0
    for rate, place, samples in runs:
        if rate != held_rate:
            held.clear()  # a change of rate within a clip: what came before it is lost, and counted so
            held_rate, windows = rate, [_native_window(start, rate, spec) for start in starts]
        held.append((rate, place, samples))
        while place > windows[len(sounds)][1]:
            sounds.append(_sound(held, starts[len(sounds)], spec))
            if len(sounds) == len(starts):
                return sounds
        while held and held[0][1] + len(held[0][2]) <= windows[len(sounds)][0]:
            held.popleft()
    return sounds + [_sound(held, start, spec) for start in starts[len(sounds):]]


def _native_window(start: int, rate: int, spec: ClipSpec) -> tuple[int, int]:
    """`[first, stop)` native samples that a clip's resampling reads; `first` on the common grid."""
    up, down = _ratio(rate, spec)
    reach = 40 * max(up, down) // up + 1
    first = (start - spec.samples_before) * down // up - reach
    stop = -(-(start + spec.samples + spec.samples_after) * down // up) + reach
    return first // down * down, stop


def _ratio(rate: int, spec: ClipSpec) -> tuple[int, int]:
    common = gcd(rate, spec.sample_rate)
    return spec.sample_rate // common, rate // common


def _sound(held: deque[tuple[int, int, np.ndarray]], start: int, spec: ClipSpec) -> ClipSound:
    if not held:
        return _silence(spec)
    rate = held[0][0]
    up, down = _ratio(rate, spec)
    first, stop = _native_window(start, rate, spec)
    native = np.zeros(stop - first, np.float32)
    sounding = np.zeros(stop - first, bool)
    for _, place, samples in held:
        a, b = max(place, first), min(place + len(samples), stop)
        if a < b:
            native[a - first : b - first] = samples[a - place : b - place]
            sounding[a - first : b - first] = True
    if not np.isfinite(native).all():
        native = np.nan_to_num(native, nan=0.0, posinf=1.0, neginf=-1.0)
    native = native.clip(-_LOUDEST, _LOUDEST)
    clip = slice(*((n * down // up) - first for n in (start, start + spec.samples)))
    if not sounding.any():
        return _silence(spec)
    resampled = resample(native, up, down)
    # `first` is a multiple of `down`, so native sample `first` is clip-grid sample `first / down * up`.
    begin = start - spec.samples_before - first // down * up
    length = spec.samples_before + spec.samples + spec.samples_after
    waveform = np.ascontiguousarray(resampled[begin : begin + length], np.float32)
    return ClipSound(waveform, round(float(sounding[clip].sum()) / rate, 6))
