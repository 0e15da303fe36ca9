"""The sound of clips, placed by PTS: decoded once, mixed to mono, resampled on a grid whose 0 is time 0.

    native grid   |....|....|....|          round(time * native_rate): every packet placed by its PTS
    clip grid     |..|..|..|..|..|          n / sample_rate: a clip is samples [start, start + N)

Nothing is shifted to fill a gap: where the source has no sound there is silence, which `sounding_s` excludes.
"""

from __future__ import annotations

import math
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
from av.audio.stream import AudioStream
from av.packet import Packet

from avprep.dsp.resample import resample
from avprep.media.packets import Demuxer
from avprep.media.source import MAX_CHANNELS, SAMPLE_RATES, time_base_of
from avprep.media.timeline import Clock
from avprep.spec import ClipSpec

_LOOK_AHEAD = 32  # frames whose PTS together say where the samples are
_AGREEING = 3  # of those, so many must agree before a PTS overrides the count of samples
_SETTLED_S = Fraction(1, 1000)  # PTS this close (and one tick) agree: they are rounded
# Packets whose stamps waver while their samples run on: Vorbis by the size of its blocks (a quarter of the
# largest at most, 2048 samples), Windows Media by the part of a frame that the packet before it holds.
_WAVERING = frozenset({"vorbis", "wmav1", "wmav2", "wmapro"})
_WAVERING_S = Fraction(1, 20)
# Stamps that drift steadily from the count of samples, within these bounds, mean a clock of another rate.
_DRIFTING = 8  # frames that must show it
_MOST_DRIFT = 0.25
_BACKWARD_S = 0.5  # sound that restarts earlier than this is dropped
# Energy of the mix beside that of its channels: below this they cancel each other out.
_CANCELLED = 0.01
# PyAV expects a NULL after a frame's planes, which FFmpeg guarantees up to this many only; beyond, it reads
# out of bounds. A damaged AAC packet is enough to make such a frame.
_PLANES = 8
# Times full scale: damaged float samples reach 1e38, whose spectrum is no number.
_LOUDEST = 1e3
# ITU-R BS.775 weights to one channel, before they are normalised to sum to 1; LFE is left out.
_WEIGHTS = {"FL": 1.0, "FR": 1.0, "FC": 1.0, "LFE": 0.0, "LFE2": 0.0}
_SURROUND_WEIGHT = 0.7071067811865476


@dataclass(frozen=True)
class ClipSound:
    """The samples of a clip with their true neighbours, and how much of the clip has any."""

    waveform: np.ndarray  # float32 (samples_before + samples + samples_after,), mono, the spec's rate
    sounding_s: float  # seconds of the clip that the source has sound for; the rest is silence
    is_cancelled: bool = False  # the two channels cancel each other out in the mix


@dataclass(frozen=True, slots=True)
class Piece:
    """Mono samples on the native grid: the first sounds at `place / rate` seconds of the source's time."""

    rate: int
    place: int
    samples: np.ndarray  # float32 (n,)
    energy: float = 0.0  # mean of the channels' energies, before mixing

    @property
    def stop(self) -> int:
        return self.place + len(self.samples)


class Sound:
    """The sound of one part of a source, for clips that are asked for in ascending order."""

    def __init__(self, audio: AudioStream | None, demuxer: Demuxer, spec: ClipSpec) -> None:
        self._spec = spec
        self._pieces: Iterator[Piece] = iter(())
        self._held: deque[Piece] = deque()
        self._stop_s = -math.inf  # where the sound that was held ended
        if audio is not None:
            clock = Clock(time_base_of(audio), demuxer.video_clock.origin)
            wavers = audio.codec_context.name in _WAVERING
            settled_s = _WAVERING_S if wavers else _SETTLED_S + clock.time_base
            self._pieces = mono_pieces(_decoded(audio, demuxer), clock, settled_s)

    def clip(self, start: int) -> ClipSound:
        """The sound of the clip at `start` (samples of the spec's rate), silence where there is none."""
        while not self._is_past(start) and (piece := next(self._pieces, None)) is not None:
            if piece.place / piece.rate >= self._stop_s - _BACKWARD_S:
                self._held.append(piece)
                self._stop_s = max(self._stop_s, piece.stop / piece.rate)
        while self._held and self._held[0].stop <= _native_window(start, self._held[0].rate, self._spec)[0]:
            self._held.popleft()
        return cut(self._held, start, self._spec)

    def _is_past(self, start: int) -> bool:
        """Whether the held samples reach beyond what resampling the clip reads."""
        if not self._held:
            return False
        last = self._held[-1]
        return last.place > _native_window(start, last.rate, self._spec)[1]


def _decoded(stream: AudioStream, demuxer: Demuxer) -> Iterator[AudioFrame]:
    """Frames of the part; a damaged packet leaves a gap that the next frame's PTS shows."""
    codec = stream.codec_context
    codec.flush_buffers()
    while True:
        packet = demuxer.audio()
        try:
            frames = codec.decode(packet)
        except av.FFmpegError:
            frames = []  # what is missing is counted: see ClipSound.sounding_s
        for frame in frames:
            if packet is not None and demuxer.is_counted(packet) and _is_miscounted(frame, packet):
                frame.pts = None
            yield frame
        if packet is None:
            return


def _is_miscounted(frame: AudioFrame, packet: Packet) -> bool:
    """Whether the samples of a packet last longer or shorter than its duration, by which libavformat counts.

    For AAC that stays a frame's at the sample rate that the file began with.
    """
    if frame.pts != packet.pts or not packet.duration:
        return False
    true_s = Fraction(frame.samples, frame.sample_rate)
    return abs(packet.duration * packet.time_base - true_s) > _SETTLED_S


def mono_pieces(frames: Iterator[AudioFrame], clock: Clock, settled_s: Fraction) -> Iterator[Piece]:
    """Decoded frames, mixed to mono and placed.

    Containers round PTS (Matroska to 1 ms) and some encoders misplace a single one, so samples run on from
    where they began until several PTS agree on another place: a true gap or overlap. Where the PTS drift
    steadily from the count, the true sample rate is another one, and the samples are stretched to it.
    """
    pending = deque(islice(frames, _LOOK_AHEAD))
    run: _Run | None = None
    drift: _Drift | None = None
    carried = 0.0  # fraction of a sample left over by stretching
    while pending:
        frame = pending[0]
        if frame.sample_rate not in SAMPLE_RATES:
            return
        if run is not None and frame.sample_rate != run.rate:
            run = None
        is_ending = (
            drift is not None and len(pending) < _LOOK_AHEAD
        )  # too few frames to measure: the drift stays as it was
        if run is None or (drift is not None and not is_ending) or run.is_elsewhere(frame.pts):
            drift = _Drift.of(pending, clock, settled_s)
            origin_s: Fraction | None
            if drift is not None:
                goes_on = run is not None and abs(run.next_s - drift.origin_s) <= _SETTLED_S / 2
                origin_s = None if goes_on else drift.origin_s
            else:
                counted_s = None if run is None else run.next_s
                origin_s = _agreed_origin(pending, clock, settled_s, counted_s)
            if origin_s is not None:
                run = _Run(origin_s, frame.sample_rate, clock, settled_s)
        if run is None:
            return  # no PTS at all: nothing can be placed
        samples, energy = _to_mono(frame)
        if drift is not None:
            length = len(samples) * drift.factor + carried
            samples = _stretched(samples, round(length))
            carried = length - len(samples)
        yield Piece(run.rate, run.take(len(samples)), samples, energy)
        pending.popleft()
        pending.extend(islice(frames, 1))


@dataclass(frozen=True)
class _Drift:
    """A steady drift: by their PTS, samples last longer or shorter than the sample rate says."""

    origin_s: Fraction  # of the first frame's first sample, seconds of the source's time
    factor: float  # true seconds per second of samples

    @classmethod
    def of(cls, pending: Sequence[AudioFrame], clock: Clock, settled_s: Fraction) -> _Drift | None:
        """None if the PTS agree with the count, or differ from it in jumps."""
        counts, times = [], []
        count = 0
        for frame in pending:
            if frame.sample_rate != pending[0].sample_rate:
                break
            if frame.pts is not None:
                counts.append(count / frame.sample_rate)
                times.append(float(clock.seconds(frame.pts)))
            count += frame.samples
        if len(counts) < _DRIFTING or counts[-1] <= 0 or pending[0].pts is None:
            return None
        slope, begin = np.polyfit(counts, times, 1)
        misfit = np.abs(np.polyval((slope, begin), counts) - times).max()
        apart = abs(slope - 1) * counts[-1]
        if misfit > settled_s / 2 or apart <= settled_s or abs(slope - 1) > _MOST_DRIFT:
            return None
        return cls(Fraction(float(begin)).limit_denominator(1_000_000_000), float(slope))


def _stretched(samples: np.ndarray, length: int) -> np.ndarray:
    """The samples as `length` ones, by linear interpolation."""
    places = np.linspace(0, len(samples), length, endpoint=False)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


class _Run:
    """Samples that follow one another from `origin_s` on, seconds of the source's time.

    Called once per frame, so in integers: all its times are multiples of one unit that the clock's ticks, the
    samples and the origin have in common.
    """

    def __init__(self, origin_s: Fraction, rate: int, clock: Clock, settled_s: Fraction) -> None:
        self.rate = rate
        self._place = round(origin_s * rate)  # of the next sample
        next_s = origin_s + clock.origin  # of the stream's clock, as a PTS is
        unit = lcm(clock.time_base.denominator, next_s.denominator, rate, settled_s.denominator)
        self._tick, self._sample = int(clock.time_base * unit), unit // rate
        self._next, self._settled = int(next_s * unit), int(settled_s * unit)

    @property
    def next_s(self) -> Fraction:
        """When the next sample sounds."""
        return Fraction(self._place, self.rate)

    def is_elsewhere(self, pts: int | None) -> bool:
        """Whether a PTS says that the next sample sounds at another time than the count does."""
        return pts is not None and abs(pts * self._tick - self._next) > self._settled

    def take(self, count: int) -> int:
        """The place of the next sample; advances by `count` samples."""
        place = self._place
        self._place += count
        self._next += count * self._sample
        return place


def _agreed_origin(
    pending: Sequence[AudioFrame], clock: Clock, settled_s: Fraction, counted_s: Fraction | None
) -> Fraction | None:
    """Where the first pending sample sounds, whose PTS is not where the count of samples, `counted_s`, is:
    the median of the PTS that agree with its own.

    None where the PTS of all that is pending are, in the middle, where the count is: they jitter. Without a
    count and without agreement it is the middle of all, and after a gap the PTS itself.
    """
    origins: list[Fraction] = []
    count = 0
    for frame in pending:
        if frame.sample_rate != pending[0].sample_rate:
            break
        if frame.pts is not None:
            origins.append(clock.seconds(frame.pts) - Fraction(count, frame.sample_rate))
        count += frame.samples
    if not origins:
        return None
    middle = sorted(origins)[len(origins) // 2]
    if counted_s is not None and abs(middle - counted_s) <= settled_s:
        return None
    agreeing = [o for o in origins if abs(o - origins[0]) <= settled_s]
    if len(agreeing) >= min(_AGREEING, len(origins)):
        return sorted(agreeing)[len(agreeing) // 2]
    return middle if counted_s is None else origins[0]


def _to_mono(frame: AudioFrame) -> tuple[np.ndarray, float]:
    """float32 (samples,), full scale 1, and the channels' mean energy; damaged float samples may be no
    numbers yet."""
    names = tuple(channel.name for channel in frame.layout.channels)
    if frame.format.is_planar and len(names) >= _PLANES:
        packed = AudioResampler(format=frame.format.packed.name, layout=frame.layout, rate=frame.sample_rate)
        frame = packed.resample(frame)[0]
    weights = _mono_weights(names)
    if frame.format.name == "fltp":  # what most codecs decode to: a third of the time of a copy
        planes = [np.frombuffer(memoryview(plane), np.float32, frame.samples) for plane in frame.planes]
        mixed = sum(weight * plane for weight, plane in zip(weights, planes, strict=True))
        return mixed, _energy(planes)
    data: np.ndarray = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, len(weights)).T
    if data.dtype.kind in "iu":
        limits = np.iinfo(data.dtype)
        zero, scale = (128, 128) if data.dtype == np.uint8 else (0, -int(limits.min))
        data = (data.astype(np.float32) - zero) / scale
    data = data.astype(np.float32, copy=False)
    return (data[0] if len(weights) == 1 else weights @ data), _energy(data)


def _energy(channels: Sequence[np.ndarray] | np.ndarray) -> float:
    """The mean of two channels' energies; 0 for any other number, which is not tested for cancelling."""
    return sum(float(np.dot(c, c)) for c in channels) / 2 if len(channels) == 2 else 0.0


@lru_cache(maxsize=16)
def _mono_weights(channels: tuple[str, ...]) -> np.ndarray:
    """float32 (channels,) that sum to 1, by the channels' names."""
    names = channels[:MAX_CHANNELS]
    weights = np.array([_WEIGHTS.get(name, _SURROUND_WEIGHT) for name in names], np.float32)
    weights = weights if weights.any() else np.ones_like(weights)
    return weights / weights.sum()


def cut(held: Sequence[Piece], start: int, spec: ClipSpec) -> ClipSound:
    """The clip's samples from pieces of possibly several rates; each rate is resampled separately."""
    length = spec.samples_before + spec.samples + spec.samples_after
    waveform, sounding_s = np.zeros(length, np.float32), 0.0
    for rate in dict.fromkeys(piece.rate for piece in held):
        part, part_s = _resampled([piece for piece in held if piece.rate == rate], start, rate, spec)
        waveform += part
        sounding_s += part_s
    sounding_s = round(min(sounding_s, float(spec.seconds)), 6)
    return ClipSound(waveform, sounding_s, _is_cancelled(held, start, spec))


def _is_cancelled(held: Sequence[Piece], start: int, spec: ClipSpec) -> bool:
    """Whether two channels with sound leave almost none in their mix."""
    mixed = energy = 0.0
    begin_s, stop_s = (n / spec.sample_rate for n in (start, start + spec.samples))
    for piece in held:
        if piece.place < stop_s * piece.rate and piece.stop > begin_s * piece.rate:
            energy += piece.energy
            mixed += float(np.dot(piece.samples, piece.samples)) if piece.energy else 0.0
    return energy > 0 and mixed < _CANCELLED * energy


@lru_cache(maxsize=16)
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


def _resampled(pieces: Sequence[Piece], start: int, rate: int, spec: ClipSpec) -> tuple[np.ndarray, float]:
    """(float32 waveform of the clip with its context, seconds of the clip that have sound) of one rate."""
    length = spec.samples_before + spec.samples + spec.samples_after
    up, down = _ratio(rate, spec)
    first, stop = _native_window(start, rate, spec)
    native = np.zeros(stop - first, np.float32)
    sounding = np.zeros(stop - first, bool)
    for piece in pieces:
        a, b = max(piece.place, first), min(piece.stop, stop)
        if a < b:
            native[a - first : b - first] = piece.samples[a - piece.place : b - piece.place]
            sounding[a - first : b - first] = True
    if not sounding.any():
        return np.zeros(length, np.float32), 0.0
    if not np.isfinite(native).all():
        native = np.nan_to_num(native, nan=0.0, posinf=1.0, neginf=-1.0)
    resampled = resample(native.clip(-_LOUDEST, _LOUDEST), up, down)
    # `first` is a multiple of `down`, so native sample `first` is clip-grid sample `first / down * up`.
    begin = start - spec.samples_before - first // down * up
    clip = slice(*((n * down // up) - first for n in (start, start + spec.samples)))
    waveform = np.ascontiguousarray(resampled[begin : begin + length], np.float32)
    return waveform, float(sounding[clip].sum()) / rate
