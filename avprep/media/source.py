"""One media file, opened safely, with the streams that a player would choose.

Media is hostile. FFmpeg gets one local file by the `file:` protocol, a list of accepted containers (no
playlists, no `concat`, nothing that opens other files or addresses), and a limit on pixels.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from avprep.errors import AvprepError
from avprep.media.blame import NOT_OF_FILES, blamed
from avprep.media.timeline import Clock
from avprep.reasons import MediaError, Reason

_Stream = TypeVar("_Stream", VideoStream, AudioStream)

# FFmpeg's names of the demuxers that read one file and nothing else.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,wav,mp3,aac,flac,"
    "h264,hevc,m4v,ivf,dv,rm,nut,mxf,gxf,wtv,swf,nsv,amr,mjpeg,obu,yuv4mpegpipe,h261,h263,vc1,bink,smk,xmv"
)
MAX_PIXELS = 1 << 26  # 8192 x 8192
SAMPLE_RATES = range(1000, 768001)
MAX_CHANNELS = 64
_DEFINED_LAYOUTS = {7: "6.1", 8: "7.1"}  # by their channels; any other count has channels without names
_NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]", b"<smil")
# Containers whose index was found to make seeks land where they should.
_SEEKABLE = ("mov", "matroska")
# Its packets' stamps waver with the block size; only from the first on can they be counted (see `sound`).
_UNSEEKABLE_AUDIO = ("vorbis",)


class MediaGone(AvprepError):
    """The media folder is gone or empty: a fault of the machine, not of the sources."""


def require_media(root: str) -> None:
    """Checks that the root itself is available. Called when a source is missing or unreadable.

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
    raise MediaGone(
        f"root = {root}: it {why} on {os.uname().nodename}; is its disk mounted? Its sources are not "
        f"taken for missing; when it is back, run the same command again"
    )


@dataclass(frozen=True)
class OpenSource:
    """An open file, with its video stream and the audio stream that belongs to it."""

    path: str
    container: InputContainer
    video: VideoStream
    audio: AudioStream | None
    video_clock: Clock
    can_seek: bool  # over a gap; what arrives is checked in any case


def file_version(path: str) -> str:
    """What tells a file from one that took its place: 'BYTES-NANOSECONDS' of its size and its time of
    modification; '' where there is none, or it does not answer."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[OpenSource]:
    """Opens a media file for decoding on one thread.

    Raises:
        MediaError: MISSING, UNREADABLE, NOT_MEDIA, NO_VIDEO or BAD_HEADER, with what was found; CORRUPT or
            UNFORESEEN for what reading it inside the `with` block raises: see `blamed`.
    """
    path = os.path.abspath(path)
    _check_regular_file(path)
    with blamed():
        with _open_container(path) as container:
            yield _choose_streams(path, container)


def _open_container(path: str) -> InputContainer:
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        return av.open(f"file:{path}", options=options, metadata_errors="replace")
    except NOT_OF_FILES:
        raise
    except av.FFmpegError as error:
        raise MediaError(Reason.NOT_MEDIA, _why_not_media(path, error)) from error


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
    """The reason in one sentence, from the file's first bytes and FFmpeg's message."""
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


def _choose_streams(path: str, container: InputContainer) -> OpenSource:
    shown = [s for s in container.streams.video if not s.disposition & _NOT_SHOWN]
    video = _first(s for s in shown if s.codec_context is not None)
    if shown and video is None:
        raise MediaError(Reason.NO_VIDEO, "a video stream of a kind that there is no decoder for")
    if video is None:
        held = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
        raise MediaError(Reason.NO_VIDEO, f"no video stream (holds: {held})")
    audio = _partner(container, video)
    for stream in (video, audio):
        if stream is not None:
            time_base_of(stream)
            stream.codec_context.thread_count = 1
    _check_pictures(video)
    if audio is not None:
        _own_layout(audio)
        _check_sound(audio)
    video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    clock = Clock(time_base_of(video), Fraction(container.start_time or 0, av.time_base))
    can_seek = _is_indexed(container, video) and (
        audio is None or audio.codec_context.name not in _UNSEEKABLE_AUDIO
    )
    return OpenSource(path, container, video, audio, clock, can_seek)


def _is_indexed(container: InputContainer, video: VideoStream) -> bool:
    """Whether the container's index covers the whole file, not only the first fragment of an MP4."""
    count = len(video.index_entries)
    is_whole = count == video.frames or not container.format.name.startswith("mov")
    return container.format.name.startswith(_SEEKABLE) and count > 1 and is_whole


def _partner(container: InputContainer, video: VideoStream) -> AudioStream | None:
    """The video's sound: of its own programme where a transport stream has several."""
    streams = [s for s in container.streams.audio if s.codec_context is not None]
    if container.format.name == "mpegts" and len(streams) > 1:
        related = container.streams.best("audio", related=video)
        return next((s for s in streams if s == related), None) or _first(streams)
    return _first(streams)


def _first(streams: Iterable[_Stream]) -> _Stream | None:
    """The stream a player starts with: the first that is marked default, else the first."""
    streams = list(streams)
    marked = [s for s in streams if s.disposition & Disposition.default]
    return next(iter(marked or streams), None)


def time_base_of(stream: Stream) -> Fraction:
    """Seconds per tick of a stream. Raises MediaError(BAD_HEADER) where it has none."""
    if not stream.time_base or stream.time_base <= 0:
        raise MediaError(Reason.BAD_HEADER, f"the {stream.type} stream has no time base")
    return stream.time_base


def _check_pictures(video: VideoStream) -> None:
    codec = video.codec_context
    if codec.width < 2 or codec.height < 2 or codec.width * codec.height > MAX_PIXELS:
        raise MediaError(Reason.BAD_HEADER, f"a picture of {codec.width} x {codec.height} pixels")


def _own_layout(audio: AudioStream) -> None:
    """Replaces a custom channel layout (MOV's for 8-channel PCM) by one that FFmpeg defines.

    PyAV 18.1 copies a custom layout without the map that it points to, and frees the map with each copy: the
    process crashes when the stream is closed. Its setter releases the map, which then has one owner.
    """
    layout = audio.codec_context.layout
    if " channels (" in layout.name:
        count = layout.nb_channels
        audio.codec_context.layout = _DEFINED_LAYOUTS.get(count, f"{count} channels")


def _check_sound(audio: AudioStream) -> None:
    codec = audio.codec_context
    if codec.sample_rate == 0 and codec.channels == 0:
        return  # it begins long after the file does: only its decoder will find out
    if codec.sample_rate not in SAMPLE_RATES or not 1 <= codec.channels <= MAX_CHANNELS:
        found = f"{codec.sample_rate} Hz, {codec.channels} channels"
        raise MediaError(Reason.BAD_HEADER, f"sound of {found}")
