"""The independent reference: a plain sequential decode of a whole file, and what clips must be by it.

It shares nothing with `avprep.media`: the file is opened, every packet is decoded from the first to the last
on one thread, without a seek, and everything is placed by its stamps.

    packets    I0 P3 B1 B2 P6 ...  decode order; a step back of the clock in them begins a new part
    pictures   0  1  2  3  ...     the order in which the decoder shows them: of a part, the n-th shown
                                   takes the n-th smallest stamp
    timeline   |--- part 0 ---||--- part 1 ---|    a part follows the last picture of the one before

Time 0 is the container's start. All times are Fractions, in seconds of that timeline. The file is read twice:
once for the times (`read_timeline`), once for the pictures that clips show (`expected_clips`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd
from pathlib import Path
from statistics import median_low

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from scipy.signal import resample_poly

from avprep.spec import ClipSpec

# FFmpeg's names of containers whose recordings are joined byte by byte: their clocks may restart anywhere.
_MAY_RESTART = ("mpegts", "mpeg", "ogg")
# Containers without times of pictures: they are counted in decode order, and FFmpeg makes the PTS up.
_COUNTS_ONLY = ("avi",)
_SHORT_STEP_BACK_S = Fraction(1, 10)  # in those, a step back by more is a restart; stamps jitter by less
_LONG_STEP_BACK_S = 1  # in all others
_STEP_FORWARD_S = 10  # in those, a step forward by more is one too
_LAST_STEPS = 8  # the longest of so many is the duration of a last picture without one

_ROUNDED_S = Fraction(1, 1000)  # stamps this close to the count (and one tick) agree with it
# Stamps of Vorbis in Ogg are of pages, and interpolated by the lengths of blocks.
_VORBIS_ROUNDED_S = Fraction(1, 20)
_STEADY_FRAMES = 8  # shorter stretches between corrections are a drift
_RATE_LIMITS = range(1000, 768001)  # a decoder's rate outside is damage

# ITU-R BS.775, one channel: front channels in full, surrounds 3 dB less, no LFE.
_FRONT, _LFE = ("FL", "FR", "FC"), ("LFE", "LFE2")
_SURROUND_WEIGHT = 0.5**0.5

_TS_READ_BYTES = 1 << 21


@dataclass(frozen=True)
class Picture:
    """A shown picture."""

    packet: int  # the ordinal, among the video's packets, of the packet that it came of
    part: int  # which run of the clock it belongs to
    time_s: Fraction  # when it begins to be shown
    stop_s: Fraction  # when the next one does; of a part's last, by its own duration
    is_damaged: bool  # the decoder reported damage in it, or in one that it may be predicted from


@dataclass(frozen=True)
class Sound:
    """Samples that follow one another: `samples[0]` sounds at `time_s`."""

    part: int
    time_s: Fraction
    rate: int
    samples: np.ndarray  # float32 (n,), mono, full scale 1

    @property
    def stop_s(self) -> Fraction:
        return self.time_s + Fraction(len(self.samples), self.rate)


@dataclass(frozen=True)
class Timeline:
    """What a file shows and sounds, in order."""

    pictures: list[Picture]  # ascending in time
    sounds: list[Sound]
    sample_aspect_ratio: Fraction | None
    claimed_stop_s: Fraction | None  # where the header says that the video ends; None: it does not say

    def parts(self) -> list[list[Picture]]:
        """The pictures of each part."""
        numbers = sorted({p.part for p in self.pictures})
        return [[p for p in self.pictures if p.part == n] for n in numbers]


@dataclass(frozen=True)
class ExpectedClip:
    """A clip as the reference has it."""

    start: int  # samples of the spec's rate since time 0
    shown: list[Picture]  # the picture at each frame's instant (spec.frames,)
    frames: list[VideoFrame]  # those pictures as decoded, before any scaling (spec.frames,)
    sound: np.ndarray  # float32 (spec.samples,): mono at the spec's rate; silence where is none
    sounding_s: Fraction  # how much of the clip has sound
    is_damaged: bool  # a picture that it shows is damaged

    @property
    def frame_times_s(self) -> list[float]:
        return [float(picture.time_s) for picture in self.shown]


def expected_clips(path: str | Path, spec: ClipSpec) -> Iterator[ExpectedClip]:
    """The clips of a file, ascending, damaged ones included. Nothing where it has no video to decode."""
    timeline = read_timeline(path)
    if timeline is None:
        return
    planned = [clip for part in timeline.parts() for clip in _tile(part, spec)]
    wanted = {picture.packet for _, shown in planned for picture in shown}
    frames = _wanted_frames(path, wanted)
    held: dict[int, VideoFrame] = {}
    for start, shown in planned:
        packets = [picture.packet for picture in shown]
        while not held.keys() >= set(packets):
            packet, frame = next(frames)
            held[packet] = frame
        sound, sounding_s = _window([s for s in timeline.sounds if s.part == shown[0].part], start, spec)
        yield ExpectedClip(
            start=start,
            shown=shown,
            frames=[held[p] for p in packets],
            sound=sound,
            sounding_s=sounding_s,
            is_damaged=any(picture.is_damaged for picture in shown),
        )
        held = {packet: frame for packet, frame in held.items() if packet == packets[-1]}


def _tile(part: list[Picture], spec: ClipSpec) -> Iterator[tuple[int, list[Picture]]]:
    """(start, pictures shown) of the clips that lie wholly in a part, one after the other."""
    times_s = [picture.time_s for picture in part]
    start = -((-max(Fraction(0), times_s[0]) * spec.sample_rate) // 1)  # ceiling: not before its begin
    while start + spec.samples <= part[-1].stop_s * spec.sample_rate:
        instants = [Fraction(start, spec.sample_rate) + Fraction(i, spec.fps) for i in range(spec.frames)]
        yield start, [part[bisect_right(times_s, instant) - 1] for instant in instants]
        start += spec.samples


def read_timeline(path: str | Path) -> Timeline | None:
    """Everything that a file shows and sounds; None where it cannot be opened or has no video to decode."""
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError:
        return None
    with container:
        video = _first(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        if video is None:
            return None
        audio = _partner(path, container, video)
        decoded = _Decoded(container, video, audio)
        decoded.read()
        pictures, offsets = _place_pictures(decoded, container, video)
        sounds = [] if audio is None else _place_sounds(decoded, container, audio, offsets)
        return Timeline(pictures, sounds, video.sample_aspect_ratio, _claimed_stop_s(container, video))


# --- what the file holds ---------------------------------------------------------------------------------


def _first(streams: Iterator[Stream]) -> Stream | None:
    """The first that is marked default, else the first, of those that have a decoder."""
    decodable = [s for s in streams if s.codec_context is not None]
    marked = [s for s in decodable if s.disposition & Disposition.default]
    return next(iter(marked or decodable), None)


def _partner(path: str | Path, container: InputContainer, video: VideoStream) -> AudioStream | None:
    """The audio that belongs to the video: in a transport stream, of the same programme."""
    audios = list(container.streams.audio)
    if container.format.name == "mpegts":
        programme = next((pids for pids in _programmes(path) if video.id in pids), set())
        audios = [s for s in audios if s.id in programme] or audios
    return _first(iter(audios))


def _programmes(path: str | Path) -> list[set[int]]:
    """The PIDs of each programme of a transport stream, by ISO 13818-1: the PAT names the PMTs' PIDs."""
    with open(path, "rb") as file:
        data = file.read(_TS_READ_BYTES)
    size, first = (192, 4) if data[4:5] == data[196:197] == b"G" else (188, 0)
    tables: set[int] = set()
    programmes: dict[int, set[int]] = {}
    for at in range(first, len(data) - 188, size):
        pid, section = _section(data[at : at + 188])
        if section is None:
            continue
        if pid == 0:
            entries = (section[i : i + 4] for i in range(8, len(section) - 3, 4))
            tables |= {_pid(entry[2:]) for entry in entries if entry[:2] != b"\0\0"}
        elif pid in tables:
            programmes[pid] = _elementary_pids(section)
    return list(programmes.values())


def _section(packet: bytes) -> tuple[int, bytes | None]:
    """(PID, the table that begins in the packet without its CRC); None where none begins."""
    pid, begins, has_adaptation = _pid(packet[1:]), packet[1] & 0x40, packet[3] & 0x20
    at = 5 + packet[4] if has_adaptation else 4
    if not begins or at >= len(packet):
        return pid, None
    at += 1 + packet[at]
    length = int.from_bytes(packet[at + 1 : at + 3], "big") & 0xFFF
    return pid, packet[at : at + 3 + length - 4]


def _elementary_pids(section: bytes) -> set[int]:
    """The PIDs that a PMT names."""
    pids: set[int] = set()
    at = 12 + _pid(section[10:]) % 4096
    while at + 5 <= len(section):
        pids.add(_pid(section[at + 1 :]))
        at += 5 + _pid(section[at + 3 :]) % 4096
    return pids


def _pid(data: bytes) -> int:
    return int.from_bytes(data[:2], "big") & 0x1FFF


def _claimed_stop_s(container: InputContainer, video: VideoStream) -> Fraction | None:
    """Where the header says that the video ends; None: it does not say."""
    origin_s = _origin_s(container)
    if video.duration is not None:
        return _seconds(video, (video.start_time or 0) + video.duration) - origin_s
    if container.duration is None:
        return None
    counts_from_0 = container.format.name in ("matroska,webm", "asf", "nut")  # stamps may begin hours later
    return Fraction(container.duration, av.time_base) - (origin_s if counts_from_0 else 0)


def _origin_s(container: InputContainer) -> Fraction:
    """The instant of the streams' clocks that is time 0: the container's start, as players count."""
    return Fraction(container.start_time or 0, av.time_base)


def _seconds(stream: Stream, ticks: int) -> Fraction:
    return ticks * Fraction(stream.time_base)


# --- decoding --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _VideoPacket:
    place: int  # among all packets of the file
    stamp_s: Fraction | None  # when its picture is shown, of the stream's clock
    order_s: Fraction | None  # when it is decoded: ascending, save where the clock restarts


@dataclass(frozen=True)
class _Shown:
    packet: int  # the ordinal of its packet among the video's
    duration_s: Fraction
    is_key: bool
    is_corrupt: bool


@dataclass(frozen=True)
class _Heard:
    place: int  # among all packets of the file, of the packet that gave it
    stamp_s: Fraction | None
    rate: int
    samples: np.ndarray  # float32 (n,)


class _Decoded:
    """Every packet of the two streams, decoded in the order of the file."""

    def __init__(self, container: InputContainer, video: VideoStream, audio: AudioStream | None) -> None:
        self._container, self._video, self._audio = container, video, audio
        self._counts_only = container.format.name in _COUNTS_ONLY
        self._to_mono = _ToMono()
        self.packets: list[_VideoPacket] = []
        self.shown: list[_Shown] = []  # in the order of the decoder
        self.errors: list[int] = []  # ordinals of the video packets that the decoder refused
        self.heard: list[_Heard] = []

    def read(self) -> None:
        for place, packet in enumerate(_packets(self._container, self._video, self._audio)):
            if packet.stream is self._video:
                self._take_video(packet, place)
            else:
                self._hear(packet, place)

    def _take_video(self, packet: Packet, place: int) -> None:
        ordinal = len(self.packets)
        if packet.size:
            stamp = packet.pts if packet.pts is not None and not self._counts_only else packet.dts
            order = packet.dts if packet.dts is not None else packet.pts
            self.packets.append(_VideoPacket(place, self._video_s(stamp), self._video_s(order)))
            packet.opaque = [ordinal]  # a list of its own: PyAV mixes up packets that share an object
        for frame in _pictures(self._video, packet, self.errors, ordinal):
            duration_s = self._video_s(frame.duration)
            self.shown.append(_Shown(frame.opaque[0], duration_s, bool(frame.key_frame), frame.is_corrupt))

    def _video_s(self, ticks: int | None) -> Fraction | None:
        return None if ticks is None else _seconds(self._video, ticks)

    def _hear(self, packet: Packet, place: int) -> None:
        try:
            frames = self._audio.codec_context.decode(packet if packet.size else None)
        except av.FFmpegError:
            return  # a gap, which the next stamp shows
        for frame in frames:
            if frame.sample_rate in _RATE_LIMITS:
                stamp_s = None if frame.pts is None else _seconds(self._audio, frame.pts)
                self.heard.append(_Heard(place, stamp_s, frame.sample_rate, self._to_mono(frame)))


def _packets(container: InputContainer, *streams: Stream | None) -> Iterator[Packet]:
    """The packets of the streams in the order of the file until it ends or cannot be read on; at the end
    an empty one of each, with which its decoder gives what it still holds."""
    read = [stream for stream in streams if stream is not None]
    for stream in read:
        stream.codec_context.thread_count = 1
        stream.codec_context.copy_opaque = True  # a picture carries the ordinal of its own packet
    try:
        for packet in container.demux(read):
            if packet.size:
                yield packet
    except av.FFmpegError:
        pass  # cut or damaged from here on
    for stream in read:
        end = Packet()
        end.stream = stream
        yield end


def _pictures(video: VideoStream, packet: Packet, errors: list[int], ordinal: int) -> list[VideoFrame]:
    """The pictures that a packet releases; `ordinal` joins `errors` where the decoder refuses it."""
    try:
        return video.codec_context.decode(packet if packet.size else None)
    except av.FFmpegError:
        errors.append(ordinal)
        return []


def _wanted_frames(path: str | Path, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """(packet, frame) of the pictures of the wanted packets, from a second decode of the whole file."""
    with av.open(str(path), metadata_errors="replace") as container:
        video = _first(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        ordinal = 0
        for packet in _packets(container, video):
            packet.opaque = [ordinal]
            for frame in _pictures(video, packet, [], ordinal):
                if frame.opaque[0] in wanted:
                    yield frame.opaque[0], frame
            ordinal += 1


class _ToMono:
    """Mixes frames of samples to one channel."""

    def __init__(self) -> None:
        self._packers: dict[tuple[str, str, int], AudioResampler] = {}

    def __call__(self, frame: AudioFrame) -> np.ndarray:
        """float32 (samples,), full scale 1."""
        # Packed first: PyAV's arrays of planar frames end at 8 channels.
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key not in self._packers:
            self._packers[key] = AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
        pts, count = frame.pts, frame.samples
        frame.pts = None
        packed = np.concatenate([f.to_ndarray().reshape(-1) for f in self._packers[key].resample(frame)])
        frame.pts = pts
        names = [channel.name for channel in frame.layout.channels]
        weights = np.array([_weight(name) for name in names], np.float32)
        weights = weights if weights.any() else np.ones_like(weights)
        mono = packed.reshape(count, len(names)) @ (weights / weights.sum())
        return np.nan_to_num(mono, nan=0.0, posinf=1.0, neginf=-1.0).astype(np.float32)


def _weight(channel: str) -> float:
    if channel in _LFE:
        return 0.0
    return 1.0 if channel in _FRONT else _SURROUND_WEIGHT


# --- pictures on the timeline ----------------------------------------------------------------------------


def _place_pictures(
    decoded: _Decoded, container: InputContainer, video: VideoStream
) -> tuple[list[Picture], list[tuple[int, Fraction]]]:
    """The pictures, and for each part (the file's place of its first packet, what is added to its stamps)."""
    parts = _parts([p.order_s for p in decoded.packets], may_restart=container.format.name in _MAY_RESTART)
    damaged = _damaged(decoded)
    pictures: list[Picture] = []
    offsets: list[tuple[int, Fraction]] = []
    for number in range(max(parts, default=-1) + 1):
        shown = [s for s in decoded.shown if parts[s.packet] == number]
        stamps_s = _stamps_s(shown, decoded.packets)
        if not stamps_s:
            continue  # without any stamp nothing can be placed
        offset_s = pictures[-1].stop_s - stamps_s[0] if pictures else -_origin_s(container)
        offsets.append((decoded.packets[parts.index(number)].place, offset_s))
        stops_s = [*stamps_s[1:], stamps_s[-1] + _last_duration_s(shown[-1], stamps_s)]
        pictures += [
            Picture(one.packet, number, begin + offset_s, stop + offset_s, one.packet in damaged)
            for one, begin, stop in zip(shown, stamps_s, stops_s, strict=True)
        ]
    return pictures, offsets


def _stamps_s(shown: list[_Shown], packets: list[_VideoPacket]) -> list[Fraction]:
    """When each picture is shown, of the stream's clock: the n-th smallest of their packets' stamps; pictures
    without one lie evenly between their neighbours, at the end each after the last one's duration."""
    own_s = [packets[one.packet].stamp_s for one in shown]
    known_s = iter(sorted(s for s in own_s if s is not None))
    ranked_s = [None if s is None else next(known_s) for s in own_s]
    at = [i for i, s in enumerate(ranked_s) if s is not None]
    if not at:
        return []
    for i in reversed(range(at[0])):
        ranked_s[i] = ranked_s[i + 1] - shown[i].duration_s
    for a, b in zip(at, at[1:], strict=False):
        for i in range(a + 1, b):
            ranked_s[i] = ranked_s[a] + (ranked_s[b] - ranked_s[a]) * (i - a) / (b - a)
    for i in range(at[-1] + 1, len(shown)):
        ranked_s[i] = ranked_s[i - 1] + shown[i - 1].duration_s
    return ranked_s


def _parts(stamps_s: list[Fraction | None], *, may_restart: bool) -> list[int]:
    """For each stamp, in the order of the file, the number of the run of the clock that it belongs to."""
    back_s = _SHORT_STEP_BACK_S if may_restart else _LONG_STEP_BACK_S
    parts: list[int] = []
    part, last_s = 0, None
    for stamp_s in stamps_s:
        if stamp_s is not None:
            if last_s is not None and (
                stamp_s < last_s - back_s or (may_restart and stamp_s > last_s + _STEP_FORWARD_S)
            ):
                part += 1
            last_s = stamp_s
        parts.append(part)
    return parts


def _last_duration_s(last: _Shown, stamps_s: list[Fraction]) -> Fraction:
    if last.duration_s:
        return last.duration_s
    tail = stamps_s[-_LAST_STEPS - 1 :]
    return max((b - a for a, b in zip(tail, tail[1:], strict=False)), default=Fraction(0))


def _damaged(decoded: _Decoded) -> set[int]:
    """The packets whose pictures are damaged: from a broken one, in decode order, to the next clean keyframe;
    also those stored after that keyframe and shown before it, which lean on what came before."""
    place = {one.packet: at for at, one in enumerate(decoded.shown)}
    broken = sorted({*decoded.errors, *(one.packet for one in decoded.shown if one.is_corrupt)})
    keys = [one.packet for one in decoded.shown if one.is_key and one.packet not in broken]
    damaged: set[int] = set()
    for first in broken:
        key = min((k for k in keys if k > first), default=len(decoded.packets))
        leading = {p for p in place if p > key and place[p] < place[key]} if key in place else set()
        damaged |= {p for p in place if first <= p < key} | leading
    return damaged


# --- sound on the timeline -------------------------------------------------------------------------------


def _place_sounds(
    decoded: _Decoded, container: InputContainer, audio: AudioStream, offsets: list[tuple[int, Fraction]]
) -> list[Sound]:
    """The sound, each run of its clock with the part of the video that lies around it in the file."""
    is_vorbis = audio.codec_context.name == "vorbis"
    rounded_s = (_VORBIS_ROUNDED_S if is_vorbis else _ROUNDED_S) + Fraction(audio.time_base)
    heard = _stamped_at_begin(decoded.heard) if is_vorbis else decoded.heard
    runs = _parts([h.stamp_s for h in heard], may_restart=container.format.name in _MAY_RESTART)
    sounds: list[Sound] = []
    for number in range(max(runs, default=-1) + 1):
        run = [h for h, r in zip(heard, runs, strict=True) if r == number]
        middle = run[len(run) // 2].place
        part = max(bisect_right([place for place, _ in offsets], middle) - 1, 0)
        offset_s = offsets[part][1] if offsets else -_origin_s(container)
        for piece in _same_rate(run):
            sounds += [
                Sound(part, time_s + offset_s, piece[0].rate, samples)
                for time_s, samples in _stretches(piece, rounded_s)
            ]
    return sounds


def _stamped_at_begin(heard: list[_Heard]) -> list[_Heard]:
    """Vorbis with stamps that say when its samples begin to sound. Some muxers stamp a packet with the end of
    what it gives (its granule position): told by the stamps, which then agree with the count of samples."""

    def spread_s(at_end: bool) -> Fraction:
        origins_s = sorted(
            h.stamp_s - Fraction(count + at_end * len(h.samples), h.rate)
            for h, count in zip(heard, counts, strict=False)
            if h.stamp_s is not None
        )
        tenth = len(origins_s) // 10
        return origins_s[-1 - tenth] - origins_s[tenth] if origins_s else Fraction(0)

    counts = np.cumsum([0, *(len(h.samples) for h in heard)]).tolist()
    if spread_s(at_end=False) <= spread_s(at_end=True):
        return heard
    return [
        h if h.stamp_s is None else replace(h, stamp_s=h.stamp_s - Fraction(len(h.samples), h.rate))
        for h in heard
    ]


def _same_rate(heard: list[_Heard]) -> Iterator[list[_Heard]]:
    """Neighbours of one rate."""
    first = 0
    for i in range(1, len(heard) + 1):
        if i == len(heard) or heard[i].rate != heard[first].rate:
            yield heard[first:i]
            first = i


def _stretches(heard: list[_Heard], rounded_s: Fraction) -> Iterator[tuple[Fraction, np.ndarray]]:
    """(when it sounds, samples): as long as stamps agree with the count of samples, these run on from where
    the stamps together say; where they keep leaving it, each packet stands at its own stamp."""
    counts = np.cumsum([0, *(len(h.samples) for h in heard)]).tolist()
    origins_s = [
        None if h.stamp_s is None else h.stamp_s - Fraction(count, h.rate)
        for h, count in zip(heard, counts, strict=False)
    ]
    if (drifting := _drifting(heard, counts, rounded_s)) is not None:
        yield drifting
        return
    first = 0
    while first < len(heard):
        stop = _stretch_stop(origins_s, first, rounded_s)
        known_s = [o for o in origins_s[first:stop] if o is not None]
        if known_s and stop - first < _STEADY_FRAMES and stop < len(heard):
            for h in heard[first:stop]:
                if h.stamp_s is not None:
                    yield h.stamp_s, h.samples
        elif known_s:
            time_s = median_low(known_s) + Fraction(counts[first], heard[first].rate)
            yield time_s, np.concatenate([h.samples for h in heard[first:stop]])
        first = stop


def _drifting(
    heard: list[_Heard], counts: list[int], rounded_s: Fraction
) -> tuple[Fraction, np.ndarray] | None:
    """(when it sounds, samples) of sound whose stamps lie on a line that is not the count's: its true rate is
    another one. None where they do not."""
    known = [(count / h.rate, float(h.stamp_s)) for h, count in zip(heard, counts, strict=False) if h.stamp_s]
    if len(known) < _STEADY_FRAMES:
        return None
    counted_s, stamped_s = np.array(known).T
    slope, begin_s = np.polyfit(counted_s, stamped_s, 1)
    off_s = np.abs(begin_s + slope * counted_s - stamped_s).max()
    if off_s > rounded_s or abs(slope - 1) * counted_s[-1] <= 2 * rounded_s:
        return None
    samples = np.concatenate([h.samples for h in heard])
    places = np.arange(int(len(samples) * slope)) / slope
    return Fraction(begin_s), np.interp(places, np.arange(len(samples)), samples)


def _stretch_stop(origins_s: list[Fraction | None], first: int, rounded_s: Fraction) -> int:
    """Where the stamps leave what `origins_s[first]` says for good; a single one that does so is an error."""
    base_s = next((o for o in origins_s[first:] if o is not None), None)

    def agrees(at: int) -> bool:
        origin_s = origins_s[at]
        return origin_s is None or abs(origin_s - base_s) <= rounded_s

    for at in range(first + 1, len(origins_s)):
        following = range(at + 1, min(at + 3, len(origins_s)))
        if not agrees(at) and not (following and all(agrees(i) for i in following)):
            return at
    return len(origins_s)


def _window(sounds: list[Sound], start: int, spec: ClipSpec) -> tuple[np.ndarray, Fraction]:
    """float32 (spec.samples,) at the spec's rate from sample `start` on, and the seconds that have sound."""
    total, sounding_s = np.zeros(spec.samples, np.float32), Fraction(0)
    for rate in {sound.rate for sound in sounds}:
        common = gcd(rate, spec.sample_rate)
        up, down = spec.sample_rate // common, rate // common
        margin = 16 * max(up, down) // up + 1
        first = (start * down // up - margin) // down * down  # native sample, on the grid of both rates
        native = np.zeros((start + spec.samples) * down // up + margin - first, np.float32)
        has_sound = np.zeros(len(native), bool)
        for sound in (s for s in sounds if s.rate == rate):
            place = round(sound.time_s * rate) - first
            a, b = max(place, 0), min(place + len(sound.samples), len(native))
            if a < b:
                native[a:b] = sound.samples[a - place : b - place]
                has_sound[a:b] = True
        begin = start - first // down * up
        total += resample_poly(native, up, down)[begin : begin + spec.samples]
        inside = slice(start * down // up - first, (start + spec.samples) * down // up - first)
        sounding_s += Fraction(int(has_sound[inside].sum()), rate)
    return total, sounding_s
