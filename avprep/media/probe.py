"""What a file holds: opened safely, its streams chosen, its header checked for what cannot be.

Media is hostile. FFmpeg is given one local file by the `file:` protocol, a list of containers it may take
it for (no playlists, no `concat`, nothing that opens other files or addresses), and bounds on pixels.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from avprep.media.timeline import Clock
from avprep.reasons import MediaError, Reason

# FFmpeg's names of the demuxers that read one file and nothing else.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,wav,mp3,aac,flac,"
    "h264,hevc,m4v,ivf,dv,rm,nut,mxf,gxf,wtv,swf,nsv,amr"
)
MAX_SECONDS = 24 * 3600      # a header that claims more is not believed
MAX_PIXELS = 1 << 26         # 8192 x 8192
SAMPLE_RATES = range(1000, 768001)
MAX_CHANNELS = 64
_NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]", b"<smil")


# What a hostile file can make FFmpeg or the arithmetic on its numbers raise. Inside `open_source` it is the
# file's fault, whatever it is: one file must not end a run of weeks.
_UNFORESEEN = (
    av.FFmpegError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError, MemoryError,
)


class MediaGone(Exception):
    """The folder of the media is not there any more, or empty: a fault of the machine, not of the sources."""


def require_media(root: str) -> None:
    """For whoever finds a source missing or unreadable: that it is not all of them.

    Raises:
        MediaGone: `root` is no folder, is empty (a disk that is not mounted), or does not answer.
    """
    try:
        with os.scandir(root) as entries:
            if next(entries, None) is not None:
                return
        why = "is empty"
    except OSError as error:
        why = f"cannot be listed ({error.strerror or error})"
    raise MediaGone(f"--root {root} {why} on {os.uname().nodename}: is its disk mounted? Its sources are not "
                    f"taken for missing; when it is back, run the same command again")


class Deadline:
    """The time a source may take. `check()` is called between packets and raises past it.

    It cannot interrupt native code that never returns; the runner's watchdog does that.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._ends = None if seconds is None else time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Leaves out time that was not spent on the source."""
        if self._ends is not None:
            self._ends += seconds

    def check(self) -> None:
        """Raises MediaError(TIMEOUT) once the time is up."""
        if self._ends is not None and time.monotonic() > self._ends:
            raise MediaError(Reason.TIMEOUT, f"not done after the time limit of {self.seconds:g} s")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header says. Seconds are of the source's time, whose 0 is the container's start."""

    format: str
    video_start_s: Fraction
    video_stop_s: Fraction      # as the header claims it; a cut file ends earlier
    width: int                  # pixels as stored, before rotation and sample aspect ratio
    height: int
    video_codec: str
    audio_codec: str | None     # None: no audio stream that can be decoded


@dataclass(frozen=True)
class OpenSource:
    """An open file, with the one video and the one audio stream that a player would choose."""

    container: InputContainer
    video: VideoStream
    audio: AudioStream | None
    video_clock: Clock
    audio_clock: Clock | None
    header: Header


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[OpenSource]:
    """Opens a media file for decoding on one thread.

    Raises:
        MediaError: MISSING, UNREADABLE, NOT_MEDIA, NO_VIDEO or BAD_HEADER, with what was found; CORRUPT
            for anything that reading it inside the `with` block raises.
    """
    path = os.path.abspath(path)
    _check_regular_file(path)
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(Reason.NOT_MEDIA, _why_not_media(path, error)) from error
    try:
        with container:
            yield _choose_streams(container)
    except _UNFORESEEN as error:
        raise MediaError(Reason.CORRUPT, f"cannot be read: {type(error).__name__}: {error}") from error


def probe(path: str | os.PathLike[str]) -> Header:
    """The header of a file. Raises MediaError as `open_source` does."""
    with open_source(path) as source:
        return source.header


def _check_regular_file(path: str) -> None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(Reason.MISSING, "no such file") from error
    except (OSError, ValueError) as error:
        raise MediaError(Reason.UNREADABLE, f"cannot be looked up: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(Reason.UNREADABLE, "not a regular file (a folder, a pipe or a device)")
    if found.st_size == 0:
        raise MediaError(Reason.NOT_MEDIA, "the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise MediaError(Reason.UNREADABLE, "no permission to read it")


def _why_not_media(path: str, error: Exception) -> str:
    """A sentence for a person, from the file's first bytes and FFmpeg's word."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as cause:
        raise MediaError(Reason.UNREADABLE, f"cannot be read: {cause.strerror or cause}") from cause
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAYLISTS):
        return "a playlist or description that points at other media; refused without following it"
    word = getattr(error, "strerror", None) or str(error)
    if b"ftyp" in head[:16]:
        return f"an MP4 or MOV without a readable index (cut off, or encrypted): {word}"
    return f"no accepted media container: {word}"


def _choose_streams(container: InputContainer) -> OpenSource:
    shown = [s for s in container.streams.video if not s.disposition & _NOT_SHOWN]
    video = _first(s for s in shown if s.codec_context is not None)
    if shown and video is None:
        raise MediaError(Reason.NO_VIDEO, "a video stream of a kind that there is no decoder for")
    if video is None:
        held = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
        raise MediaError(Reason.NO_VIDEO, f"no video stream (holds: {held})")
    audio = _first(s for s in container.streams.audio if s.codec_context is not None)
    origin = Fraction(container.start_time or 0, av.time_base)
    for stream in (video, audio):
        if stream is not None:
            stream.codec_context.thread_count = 1
    video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    video_clock = Clock(_time_base(video), origin)
    audio_clock = None if audio is None else Clock(_time_base(audio), origin)
    header = _header(container, video, audio, video_clock)
    return OpenSource(container, video, audio, video_clock, audio_clock, header)


def _first(streams: Iterable[VideoStream | AudioStream]) -> VideoStream | AudioStream | None:
    """The stream a player starts with: the first that is marked default, else the first."""
    streams = list(streams)
    marked = [s for s in streams if s.disposition & Disposition.default]
    return next(iter(marked or streams), None)


def _time_base(stream: VideoStream | AudioStream) -> Fraction:
    if not stream.time_base or stream.time_base <= 0:
        raise MediaError(Reason.BAD_HEADER, f"the {stream.type} stream has no time base")
    return Fraction(stream.time_base)


def _header(
    container: InputContainer, video: VideoStream, audio: AudioStream | None, clock: Clock
) -> Header:
    codec = video.codec_context
    start_s = clock.seconds(video.start_time) if video.start_time is not None else Fraction(0)
    if video.duration is not None:
        stop_s = start_s + video.duration * clock.time_base
    elif container.duration is not None:
        stop_s = Fraction(container.duration, av.time_base)
    else:
        raise MediaError(Reason.BAD_HEADER, "the header does not say how long the video is")
    if not -MAX_SECONDS <= start_s <= stop_s <= MAX_SECONDS:
        raise MediaError(
            Reason.BAD_HEADER,
            f"the header claims video from {float(start_s):.3f} s to {float(stop_s):.3f} s; "
            f"more than {MAX_SECONDS // 3600} h is not believed",
        )
    if codec.width < 2 or codec.height < 2 or codec.width * codec.height > MAX_PIXELS:
        raise MediaError(Reason.BAD_HEADER, f"a picture of {codec.width} x {codec.height} pixels")
    if audio is not None and (
        audio.codec_context.sample_rate not in SAMPLE_RATES
        or not 1 <= audio.codec_context.channels <= MAX_CHANNELS
    ):
        found = f"{audio.codec_context.sample_rate} Hz, {audio.codec_context.channels} channels"
        raise MediaError(Reason.BAD_HEADER, f"sound of {found}")
    return Header(
        format=container.format.name,
        video_start_s=start_s,
        video_stop_s=stop_s,
        width=codec.width,
        height=codec.height,
        video_codec=codec.name,
        audio_codec=None if audio is None else audio.codec_context.name,
    )
