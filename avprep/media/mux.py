"""Frames and a waveform -> mp4: a file to watch, or one clip's frames as H.264 bytes for a shard.

PyAV is imported inside the functions: this module is also used where only numpy is installed.

All that is written here is 4:2:0, BT.709, limited range, chroma between its four pixels, and tagged so.
swscale is told to compute exactly: by default it returns every channel 1 to 1.5 levels darker.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avprep.errors import AvprepError

if TYPE_CHECKING:
    from av import AudioFrame, Packet, VideoFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.reformatter import Interpolation
    from av.video.stream import VideoStream

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


class MuxError(AvprepError, ValueError):
    """Frames, a waveform or bytes that cannot be written or read: the message says which and why."""


def write_mp4(
    path: str | Path,
    frames: np.ndarray,
    waveform: np.ndarray | None,
    *,
    fps: Fraction | int,
    sample_rate: int,
    crf: int = 18,
    preset: str = "veryfast",
) -> None:
    """Writes an mp4 (H.264, AAC) in which the first frame and sample 0 both play at time 0.

    AAC begins with 1024 samples of priming; the muxer's edit list takes them off again. Equal arguments
    give equal bytes.

    Args:
        path: the file, whatever its suffix. An existing one is overwritten in place.
        frames: (T, H, W, 3) uint8 RGB, H and W even.
        waveform: (N,) or (channels, N) floats with 1, 2 or 6 channels (5.1: FL FR FC LFE BL BR), in
            [-1, 1]; what lies outside is clipped, as a player would. None or N = 0: no audio stream.
        fps: frames per second.
        sample_rate: of the waveform, Hz; one of AAC's rates.
        crf: x264's quality, 0 (lossless) to 51.
        preset: x264's, 'ultrafast' to 'veryslow'.

    Raises:
        MuxError: an argument that an mp4 cannot hold.
    """
    import av

    _check_video(frames, fps=fps, crf=crf, preset=preset)
    samples = None if waveform is None or not waveform.size else _checked_samples(waveform, sample_rate)
    with av.open(str(path), "w", format="mp4") as container:
        video = _add_video(container, frames, fps=fps, crf=crf, preset=preset)
        audio = None if samples is None else _add_audio(container, len(samples), sample_rate)
        start = 0
        for k, packets in enumerate(_video_packets(video, frames), start=1):
            container.mux(packets)
            # By turns, a frame and what sounds with it, so that a player need not seek.
            stop = int(k * sample_rate / Fraction(fps))
            if audio is not None and start < samples.shape[1]:
                container.mux(audio.encode(_audio_frame(samples, start, stop, sample_rate)))
                start = stop
        if audio is not None:
            if start < samples.shape[1]:
                container.mux(audio.encode(_audio_frame(samples, start, samples.shape[1], sample_rate)))
            container.mux(audio.encode(None))


def encode_frames(
    frames: np.ndarray, *, fps: Fraction | int, crf: int = 18, preset: str = "veryfast"
) -> bytes:
    """One clip's frames as an H.264 mp4 in memory. Equal arguments give equal bytes.

    Args:
        frames: (T, H, W, 3) uint8 RGB, H and W even.
        fps, crf, preset: as in `write_mp4`.

    Raises:
        MuxError: an argument that an mp4 cannot hold.
    """
    import av

    _check_video(frames, fps=fps, crf=crf, preset=preset)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = _add_video(container, frames, fps=fps, crf=crf, preset=preset)
        for packets in _video_packets(video, frames):
            container.mux(packets)
    return file.getvalue()


def decode_frames(data: bytes, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The frames of `encode_frames`' bytes in display order: (T, H, W, 3) uint8 RGB.

    Args:
        shape: (T, H, W, 3) that they must have, where the bytes are not trusted: larger pictures are not
            decoded, nor more of them.

    Raises:
        MuxError: bytes that are no such mp4, or frames of another shape.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    to_rgb, interpolation = VideoReformatter(), _exact_bicubic()
    try:
        with av.open(io.BytesIO(data), format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # readers run one process a core
            decoded = container.decode(stream)
            if shape is not None:
                # Macroblocks are 16 x 16: what is coded may be larger than what is shown.
                pixels = (shape[1] + 16) * (shape[2] + 16)
                stream.codec_context.options = {"max_pixels": str(pixels)}
                decoded = _of_shape(decoded, shape)
            return np.stack(
                [
                    to_rgb.reformat(
                        frame,
                        format="rgb24",
                        interpolation=interpolation,
                        src_colorspace=Colorspace.ITU709,
                        src_color_range=ColorRange.MPEG,
                    ).to_ndarray()
                    for frame in decoded
                ]
            )
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise MuxError(f"{len(data)} bytes that do not decode as an H.264 mp4: {error}") from error


def _of_shape(frames: Iterator[VideoFrame], shape: tuple[int, ...]) -> Iterator[VideoFrame]:
    """The frames, as long as they are of the shape. Raises MuxError at the first that is not."""
    count = 0
    for count, frame in enumerate(frames, start=1):
        if count > shape[0] or (frame.height, frame.width) != tuple(shape[1:3]):
            raise MuxError(f"frame {count} is {frame.height} x {frame.width}; wanted are {tuple(shape)}")
        yield frame
    if count != shape[0]:
        raise MuxError(f"{count} frames; wanted are {tuple(shape)}")


def _exact_bicubic() -> Interpolation:
    """swscale's flags for 4:2:0 to RGB and back: chroma at full width, exact rounding, equal on any CPU."""
    from av.video.reformatter import Interpolation as Flag

    exact = Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP | Flag.ACCURATE_RND | Flag.BITEXACT
    return Flag.BICUBIC | exact


def _check_video(frames: np.ndarray, *, fps: Fraction | int, crf: int, preset: str) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise MuxError(f"frames must be (T, H, W, 3) uint8, T > 0, not {frames.shape} {frames.dtype}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise MuxError(f"frames must have even height and width (4:2:0), not {frames.shape[1:3]}")
    if fps <= 0:
        raise MuxError(f"fps must be positive, not {fps}")
    if not 0 <= crf <= 51:
        raise MuxError(f"crf must be from 0 to 51, not {crf}")
    if preset not in _PRESETS:
        raise MuxError(f"preset must be one of {', '.join(_PRESETS)}, not {preset!r}")


def _checked_samples(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """(channels, N) float32 in [-1, 1], contiguous."""
    import av

    rates = av.Codec("aac", "w").audio_rates
    if sample_rate not in rates:
        raise MuxError(f"sample_rate must be one of AAC's {sorted(rates)} Hz, not {sample_rate}")
    samples = np.atleast_2d(waveform)
    if samples.ndim != 2 or len(samples) not in _LAYOUTS or samples.dtype.kind != "f":
        raise MuxError(
            f"waveform must be (N,) or (channels, N) floats with 1, 2 or 6 channels, "
            f"not {waveform.shape} {waveform.dtype}"
        )
    if not np.isfinite(samples).all():
        raise MuxError("waveform holds NaN or infinity")
    return np.ascontiguousarray(samples.clip(-1, 1), dtype=np.float32)


def _add_video(
    container: OutputContainer, frames: np.ndarray, *, fps: Fraction | int, crf: int, preset: str
) -> VideoStream:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    # No creation time and no library version in the file: the same frames give the same bytes.
    container.flags |= av.container.Flags.bitexact.value
    options = {"crf": str(crf), "preset": preset, "x264-params": _x264_params(frames.shape[2])}
    stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    context.time_base = 1 / Fraction(fps)
    context.thread_count = 1  # x264's bytes depend on the number of threads
    context.flags |= av.codec.context.Flags.bitexact
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _x264_params(width: int) -> str:
    # chromaloc 1: chroma sits between its four pixels, where swscale puts it (H.264's own default is left).
    # mbtree works on many macroblocks at once and, where a row of them ends early, on memory that nobody
    # wrote (seen with AVX-512): the bytes then differ from run to run. Off, files are half as large again.
    return "chromaloc=1" if width % 128 == 0 else "chromaloc=1:mbtree=0"


def _add_audio(container: OutputContainer, channels: int, sample_rate: int) -> AudioStream:
    import av

    # At such rates the fast coder is three times as fast as the default one and, measured, closer.
    stream = container.add_stream(
        "aac", rate=sample_rate, layout=_LAYOUTS[channels], options={"aac_coder": "fast"}
    )
    # 4 bits a sample leave noise and clicks recognisable; AAC's limit is 6.
    stream.codec_context.bit_rate = channels * 4 * min(sample_rate, 48000)
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream


def _video_packets(stream: VideoStream, frames: np.ndarray) -> Iterator[list[Packet]]:
    """The packets that become ready with each frame, and the encoder's rest."""
    import av
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    to_yuv, interpolation = VideoReformatter(), _exact_bicubic()
    for k, rgb in enumerate(frames):
        frame = to_yuv.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"),
            format="yuv420p",
            interpolation=interpolation,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts, frame.time_base = k, stream.codec_context.time_base
        yield stream.encode(frame)
    yield stream.encode(None)


def _audio_frame(samples: np.ndarray, start: int, stop: int, sample_rate: int) -> AudioFrame:
    """Samples [start, stop) of (channels, N), as many as there are, at their own time."""
    import av

    part = np.ascontiguousarray(samples[:, start:stop])
    frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=_LAYOUTS[len(samples)])
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
    return frame
