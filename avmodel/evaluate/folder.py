"""A folder of video files as windows: every start of every file, one frame apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avmodel.evaluate.options import Crop
from avmodel.metrics import MetricError
from avprep.spec import ClipSpec

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
READ_TIMEOUT_S = 120.0  # per file
_SHOWN = 3  # different values of a field, in a message


@dataclass(frozen=True, kw_only=True)
class Native:
    """What the files are before they are cut; 'a, b' where they differ."""

    fps: str
    size: str  # pixels
    codec: str
    is_square: bool  # all of them: nothing is cropped


def has_videos(path: Path) -> bool:
    return path.is_dir() and any(_is_video(entry) for entry in path.iterdir())


class VideoFolder:
    """The windows of a folder's files, ascending by name and then by start.

    Files that cannot be read, or are shorter than a clip, are left out and named in `left_out`.

    Raises:
        MetricError: PyAV is not installed, or no file has a window.
    """

    def __init__(self, path: Path, spec: ClipSpec, crop: Crop) -> None:
        self._spec, self._crop = spec, crop
        self.left_out: list[str] = []
        self._files: list[Path] = []
        windows: list[_Windows] = []
        with _needs_pyav(path):
            for file in sorted(entry for entry in path.iterdir() if _is_video(entry)):
                found = self._windows(file)
                if found is None:
                    continue
                self._files.append(file)
                windows.append(found)
        if not self._files:
            raise MetricError(f"{path}: no clip can be read. {'; '.join(self.left_out[:_SHOWN])}")
        self._starts = np.concatenate([np.array(of_file.starts, np.int64) for of_file in windows])
        self.videos = np.repeat(np.arange(len(windows)), [len(of_file.starts) for of_file in windows])
        self.native = Native(
            fps=_listed({of_file.fps for of_file in windows}),
            size=_listed({f"{of_file.width}x{of_file.height}" for of_file in windows}),
            codec=_listed({of_file.codec for of_file in windows}),
            is_square=all(of_file.width == of_file.height for of_file in windows),
        )

    def read(self, positions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Frames uint8 (T, size, size, RGB) and sound float32 (samples,) of windows, whose positions ascend:
        each file is read once.

        Raises:
            MetricError: one cannot be decoded.
        """
        found = []
        for video in np.unique(self.videos[positions]):
            found += self._read_file(
                self._files[video], self._starts[positions[self.videos[positions] == video]]
            )
        return found

    def _read_file(self, file: Path, starts: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        from avprep import read_clips
        from avprep.reasons import MediaError

        seconds = [int(start) / self._spec.sample_rate for start in starts]
        try:
            clips = list(
                read_clips(file, starts=seconds, spec=self._spec, crop=self._crop, timeout_s=READ_TIMEOUT_S)
            )
        except MediaError as error:
            raise MetricError(
                f"{file}: of the clips from {seconds[0]:.3f} s on, one cannot be read: {error}"
            ) from error
        return [(clip.frames, clip.waveform) for clip in clips]

    def _windows(self, file: Path) -> _Windows | None:
        from avprep.media.limits import Deadline
        from avprep.media.probe import probe
        from avprep.media.source import open_source
        from avprep.media.timeline import starts_of_parts
        from avprep.reasons import MediaError

        spec = self._spec
        try:
            info = probe(file, Deadline(READ_TIMEOUT_S))
            with open_source(file) as source:
                rate = source.video.average_rate
        except MediaError as error:
            self.left_out.append(f"{file.name}: {error}")
            return None
        starts = starts_of_parts(info.parts, spec=spec, stride_samples=spec.samples_per_frame)
        if not starts:
            self.left_out.append(f"{file.name}: shorter than a clip of {float(spec.seconds):g} s")
            return None
        fps = "unknown" if rate is None else f"{float(rate):.4g}"
        return _Windows(starts, fps, info.width, info.height, info.video_codec)


@dataclass(frozen=True)
class _Windows:
    starts: list[int]  # samples
    fps: str
    width: int
    height: int
    codec: str


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _listed(values: set[str]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(sorted(values)[:_SHOWN]) + more


@contextmanager
def _needs_pyav(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MetricError(f"{path}: video files are read with PyAV, which is not installed") from error
