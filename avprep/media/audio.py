"""The sound of clips, placed by PTS: decoded once, mixed to mono, resampled on a grid whose 0 is time 0.

    native grid   |....|....|....|          round(time * native_rate): every packet placed by its PTS
    clip grid     |..|..|..|..|..|          n / sample_rate: a clip is samples [start, start + N)

Nothing is ever shifted to fill a hole: where the source has no sound there is silence, and its extent
is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from math import gcd

import av
import numpy as np
from av.audio.frame import AudioFrame
from scipy.signal import firwin, resample_poly

from avprep.media.packets import packets_from
from avprep.media.probe import MAX_CHANNELS, SAMPLE_RATES, Deadline, OpenSource
from avprep.media.timeline import Clock
from avprep.spec import ClipSpec

_PREROLL_S = 1               # decoded and dropped after a seek: codecs need it to settle
_LOOK_AHEAD = 32             # frames whose PTS together say where the samples are
_AGREEING = 3                # of those, so many must agree before a PTS is believed against the count
_SETTLED_S = Fraction(1, 1000)  # PTS this close (and one tick) agree: they are rounded
# Vorbis packets carry stamps that waver with the block size, by a quarter of the largest block at most
# (2048 samples), while the samples themselves run on.
_VORBIS_SETTLED_S = Fraction(1, 20)
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
    pending = list(islice(frames, _LOOK_AHEAD))
    run_s: Fraction | None = None  # where the run's sample 0 sounds, seconds of the source's time
    count, rate = 0, 0
    while pending:
        frame = pending[0]
        if frame.sample_rate != rate:
            run_s, rate = None, frame.sample_rate
            if rate not in SAMPLE_RATES:
                return
        if run_s is None or _is_elsewhere(frame, run_s + Fraction(count, rate), clock, settled_s):
            origin_s = _agreed_origin(pending, clock, settled_s, begin=run_s is None)
            if origin_s is not None:
                run_s, count = origin_s, 0
        if run_s is None:
            return  # no stamp at all: nothing can be placed
        samples = _to_mono(frame)
        yield rate, round(run_s * rate) + count, samples
        count += len(samples)
        pending.pop(0)
        pending.extend(islice(frames, 1))


def _is_elsewhere(frame: AudioFrame, running_s: Fraction, clock: Clock, settled_s: Fraction) -> bool:
    return frame.pts is not None and abs(clock.seconds(frame.pts) - running_s) > settled_s


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
    """float32 (samples,), full scale 1."""
    data = frame.to_ndarray()
    channels = [c.name for c in frame.layout.channels][:MAX_CHANNELS]
    if not frame.format.is_planar:
        data = data.reshape(-1, len(channels)).T
    if np.issubdtype(data.dtype, np.integer):
        limits = np.iinfo(data.dtype)
        zero, scale = (128, 128) if data.dtype == np.uint8 else (0, -int(limits.min))
        data = (data.astype(np.float32) - zero) / scale
    data = data.astype(np.float32, copy=False)
    if len(channels) == 1:
        mono = data[0]
    else:
        weights = np.array([_WEIGHTS.get(name, _SURROUND_WEIGHT) for name in channels], np.float32)
        weights = weights if weights.any() else np.ones_like(weights)
        mono = (weights / weights.sum()) @ data
    return np.nan_to_num(mono, nan=0.0, posinf=1.0, neginf=-1.0)


def _cut(
    runs: Iterator[tuple[int, int, np.ndarray]], starts: Sequence[int], spec: ClipSpec
) -> list[ClipSound]:
    """Each clip's samples as soon as the runs have passed it; only a clip's length is held."""
    sounds: list[ClipSound] = []
    held: list[tuple[int, int, np.ndarray]] = []
    for rate, place, samples in runs:
        if held and (rate != held[0][0]):
            held = []  # a change of rate within a clip: what came before it is lost, and counted so
        held.append((rate, place, samples))
        while len(sounds) < len(starts) and place > _native_window(starts[len(sounds)], rate, spec)[1]:
            sounds.append(_sound(held, starts[len(sounds)], spec))
        if len(sounds) == len(starts):
            return sounds
        keep_from = _native_window(starts[len(sounds)], rate, spec)[0]
        while held and held[0][1] + len(held[0][2]) <= keep_from:
            held.pop(0)
    return sounds + [_sound(held, start, spec) for start in starts[len(sounds):]]


@lru_cache(maxsize=16)
def _filter(up: int, down: int) -> np.ndarray:
    """Low-pass at the lower rate's Nyquist: 32 zero crossings, Kaiser 10 (about -100 dB)."""
    half = 32 * max(up, down)
    return firwin(2 * half + 1, 0.95 / max(up, down), window=("kaiser", 10.0)).astype(np.float32)


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


def _sound(held: list[tuple[int, int, np.ndarray]], start: int, spec: ClipSpec) -> ClipSound:
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
    clip = slice(*((n * down // up) - first for n in (start, start + spec.samples)))
    if not sounding.any():
        return _silence(spec)
    resampled = native if up == down else resample_poly(native, up, down, window=_filter(up, down))
    # `first` is a multiple of `down`, so native sample `first` is clip-grid sample `first / down * up`.
    begin = start - spec.samples_before - first // down * up
    length = spec.samples_before + spec.samples + spec.samples_after
    waveform = np.ascontiguousarray(resampled[begin : begin + length], np.float32)
    return ClipSound(waveform, round(float(sounding[clip].sum()) / rate, 6))
