"""One pass over the clips of a side: what every metric needs of each, as arrays with a row per clip.

    features/NAME     float32 (n, width)    the mean over a clip's rows, where a network gives one per frame
    texts/NAME        float32 (n, width)    of its text, where a network takes texts; NaN without one
    frames/NAME       float32 (n, T, width) of each frame, where a network has pictures and sound in one space
    sounds/NAME       float32 (n, width)    of its sound, likewise
    onsets            float64 (n, most)     seconds; NaN where there are fewer
    peaks             bool (n, T)           frames that more moves into than into their neighbours
    planes/A, B       float32 (n, pairs, 2, C)    of a side of latents, for mutual information
    pairs/NAME        float64 (n,)          of a reconstruction: how near it is

Only these rows are kept, so that memory does not grow with the pictures. Networks see clips one by one, on
one thread, so that neither batches nor workers change a bit of any row.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from avmodel.evaluate.options import Features
from avmodel.evaluate.planes import plane_pairs
from avmodel.evaluate.sides import LatentSide, Shown, Side, SideRequest
from avmodel.metrics.av_align import audio_onsets, motion_peaks
from avmodel.metrics.features import Clips, Extractor, PairedExtractor, TextExtractor, load_extractor
from avmodel.metrics.similarity import sound_prompt
from avprep.dsp.av_align import ONSET_RATE

CHUNK = 8  # clips that a worker reads, decodes and returns at once
_ONSET_HOP = 512  # samples at ONSET_RATE: no two onsets are nearer
FEATURES, TEXTS, FRAMES, SOUNDS = "features/", "texts/", "frames/", "sounds/"

Rows = dict[str, np.ndarray]
Progress = Callable[[int], None]  # called with the number of clips just done


class Observer(Protocol):
    """Looks at clips by position."""

    def __call__(self, positions: np.ndarray) -> Rows:
        """Arrays with a row per position."""
        ...


class ObserverRequest(Protocol):
    """Opens an observer, in this process or in another."""

    def open(self) -> Observer: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class SideObserverRequest:
    """Looks at the clips of one side."""

    side: SideRequest
    looks: Looks
    plane_pairs: int = 0  # of each pair of planes, of a side of latents

    def open(self) -> SideObserver:
        return SideObserver(self.side.open(batch_size=CHUNK), self.looks.open(), self.plane_pairs)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What is computed of each clip."""

    features: tuple[Features, ...]  # each with its file
    size: int | None  # pixels that video networks see
    has_av_align: bool

    def open(self) -> Look:
        loaded = [load_extractor(one.name, one.weights) for one in self.features if one.weights is not None]
        return Look(loaded, self.size, self.has_av_align)


class Look:
    """Computes the rows of one clip."""

    def __init__(self, extractors: list[Extractor], size: int | None, has_av_align: bool) -> None:
        self.extractors, self._size, self._has_av_align = extractors, size, has_av_align

    def __call__(self, shown: Shown, side: Side) -> Rows:
        spec = side.spec
        rows: Rows = {}
        if self.extractors:
            clip = Clips(
                frames=resized(shown.frames, self._size)[None],
                waveform=shown.waveform[None],
                fps=spec.fps,
                sample_rate=spec.sample_rate,
            )
            for extractor in self.extractors:
                rows[f"{FEATURES}{extractor.name}"] = extractor(clip)[0].mean(axis=0)
                if isinstance(extractor, TextExtractor):
                    rows[f"{TEXTS}{extractor.name}"] = _text_embedding(extractor, shown)
                if isinstance(extractor, PairedExtractor):
                    rows[f"{FRAMES}{extractor.name}"] = extractor.frames(clip)[0]
                    rows[f"{SOUNDS}{extractor.name}"] = extractor.sounds(clip)[0]
        if self._has_av_align:
            most = int(spec.seconds * ONSET_RATE) // _ONSET_HOP + 2
            rows["onsets"] = np.full(most, np.nan)
            onsets = audio_onsets(shown.waveform, spec.sample_rate)
            rows["onsets"][: len(onsets)] = onsets
            rows["peaks"] = np.zeros(len(shown.frames), bool)
            rows["peaks"][motion_peaks(shown.frames)] = True
        return rows


def _text_embedding(extractor: TextExtractor, shown: Shown) -> np.ndarray:
    text = shown.caption or sound_prompt(shown.labels)
    return extractor.texts([text])[0] if text else np.full(extractor.width, np.nan, np.float32)


class SideObserver:
    def __init__(self, side: Side, look: Look, plane_pairs: int) -> None:
        self._side, self._look, self._plane_pairs = side, look, plane_pairs

    def __call__(self, positions: np.ndarray) -> Rows:
        rows = stacked([self._look(shown, self._side) for shown in self._side.read(positions)])
        if self._plane_pairs and isinstance(self._side, LatentSide):
            data, layout, most = self._side.data, self._side.layout, self._plane_pairs
            rows |= stacked(
                [plane_pairs(data[int(i)]["latent"], layout, most, seed=int(i)) for i in positions]
            )
        return rows


def stacked(rows: list[Rows]) -> Rows:
    """Rows of single clips as arrays."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def resized(frames: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 (T, H, W, RGB) -> (T, size, size, RGB), antialiased; as they are where `size` is None."""
    if size is None or frames.shape[1:3] == (size, size):
        return frames
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def observe(request: ObserverRequest, positions: np.ndarray, *, workers: int, progress: Progress) -> Rows:
    """The rows of the clips at these positions, in their order; equal for any number of workers.

    Raises:
        AvprepError: a clip is damaged, or a network refuses it.
        BrokenProcessPool: a worker died: the machine is at fault, as for lack of memory.
    """
    chunks = [positions[first : first + CHUNK] for first in range(0, len(positions), CHUNK)]
    rows: Rows = {}
    done = 0
    for chunk, found in zip(chunks, _each(request, chunks, workers), strict=True):
        for name, values in found.items():
            # Copied at once: small arrays that outlive large ones keep the memory of those from other use.
            if name not in rows:
                rows[name] = np.empty((len(positions), *values.shape[1:]), values.dtype)
            rows[name][done : done + len(chunk)] = values
        done += len(chunk)
        progress(len(chunk))
    return rows


def _each(request: ObserverRequest, chunks: list[np.ndarray], workers: int) -> Iterator[Rows]:
    if workers == 1:
        with _one_thread():
            yield from map(request.open(), chunks)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
    with ProcessPoolExecutor(workers, context) as pool:
        waiting: deque[Future[Rows]] = deque()
        for chunk in chunks:
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_work, request, chunk))
        while waiting:
            yield waiting.popleft().result()


def _work(request: ObserverRequest, positions: np.ndarray) -> Rows:
    with _one_thread():
        return _opened(request)(positions)


@lru_cache(maxsize=1)
def _opened(request: ObserverRequest) -> Observer:
    """In a worker process: the networks are loaded once."""
    return request.open()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over threads depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
