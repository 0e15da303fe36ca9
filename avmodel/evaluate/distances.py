"""From the rows of both sides to numbers with intervals.

The names carry the features: `FAD-yamnet` is not the FAD of a paper.

    i3d            FVD, KVD                           StyleGAN-V's network: the papers' line of work
    audioclip      FAD-audioclip (x 10,000), KAD-audioclip
    other sound    FAD-NAME, KAD-NAME
    other video    FD-NAME, KD-NAME

Of each side alone:

    texts and sound in one space       NAME_text_audio
    imagebind                          IB-AV, AVHScore, JavisScore
    other pictures and sound           cs_NAME

An interval is value +- 1.96 standard deviations over resamples of the clips of both sides. Percentiles of the
resamples would be wrong: a resample holds fewer different clips, which raises a Fréchet distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from avmodel.evaluate.observe import FEATURES, FRAMES, SOUNDS, TEXTS, Rows
from avmodel.evaluate.report import Measurement
from avmodel.metrics import MetricError
from avmodel.metrics.av_align import Events, shuffled_baseline
from avmodel.metrics.features import Extractor
from avmodel.metrics.frechet import resampled_frechet
from avmodel.metrics.mmd import Kernel, cubic_kernel, gaussian_kernel, median_distance, resampled_mmd2
from avmodel.metrics.similarity import (
    frame_similarity,
    javis_score,
    shuffled_frame_similarity,
    shuffled_javis_score,
    shuffled_similarity,
    similarity,
)
from avprep.dsp.av_align import alignment

_NORMAL_95 = 1.96
_KAD_SCALE = 100
_AUDIOCLIP_SCALE = 10_000
_AV_ALIGN = {
    "align": "AV-Align, within 1 frame",
    "align_wide": "AV-Align, within 3 frames",
    "iou": "AV-Align, IoU",
}


class PairScore(NamedTuple):
    """A similarity of pictures and sound."""

    pictures: str  # which rows
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of each clip, from pictures and sounds
    shuffled: Callable[[np.ndarray, np.ndarray], float]  # of the pictures and the sounds of other clips


_IMAGEBIND = {
    "IB-AV": PairScore(FEATURES, similarity, shuffled_similarity),
    "AVHScore": PairScore(FRAMES, frame_similarity, shuffled_frame_similarity),
    "JavisScore": PairScore(FRAMES, javis_score, shuffled_javis_score),
}


class Times(NamedTuple):
    """How often each resample takes each clip: (B, n) and (B, m). The first row takes each once."""

    generated: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows of one seed's clips."""

    generated: Rows
    reference: Rows
    times: Times


# The distance of every resample, float64 (B,), from features (n, d) and (m, d).
Distance = Callable[[np.ndarray, np.ndarray, Times], np.ndarray]


def resamples(generated: int, reference: int, count: int, seed: int) -> Times:
    """The clips themselves, and `count` resamples of both sides with replacement."""
    rng = np.random.default_rng([seed, 1])
    drawn = (
        np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), count)])
        for n in (generated, reference)
    )
    return Times(*drawn)


def distance_names(features: str, side: str) -> tuple[str, str]:
    """The names of the Fréchet and the kernel distance on these features, of 'video' or 'audio'."""
    if features == "i3d":
        return "FVD", "KVD"
    return (f"FAD-{features}", f"KAD-{features}") if side == "audio" else (f"FD-{features}", f"KD-{features}")


def feature_distances(selections: list[Selection], extractor: Extractor, prefix: str) -> list[Measurement]:
    """The Fréchet and the kernel distance on an extractor's features.

    Args:
        selections: one per seed.
        prefix: of the metrics' names: 'r' for reconstructions.
    """
    frechet_name, kernel_name = distance_names(extractor.name, extractor.side)
    scale = _AUDIOCLIP_SCALE if extractor.name == "audioclip" else 1
    kernel: Distance = _kernel_audio if extractor.side == "audio" else partial(_kernel, cubic_kernel)
    measured = []
    for name, distance, note in (
        (frechet_name, partial(_frechet, scale), f"x {scale:,}" if scale > 1 else ""),
        (kernel_name, kernel, "x 100" if extractor.side == "audio" else ""),
    ):
        column = f"{FEATURES}{extractor.name}"
        found = [distance(one.generated[column], one.reference[column], one.times) for one in selections]
        measured.append(
            measurement(
                f"{prefix}{name}",
                found,
                side="both",
                better="lower",
                clips=_counts(selections[0]),
                features=f"{extractor.name} {extractor.sha256[:12]}",
                note=note,
            )
        )
    return measured


def av_align_of(selections: list[Selection], side: str, fps: float) -> list[Measurement]:
    """AV-Align of one side ('generated' or 'reference') with its shuffled baseline."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in _AV_ALIGN}
    chance: dict[str, list[float]] = {name: [] for name in _AV_ALIGN}
    counted = skipped = 0
    for one in selections:
        rows, times = getattr(one, side), getattr(one.times, side)
        events = _events(rows)
        scores = [alignment(clip.onsets_s, clip.peaks, fps) for clip in events]
        has_score = np.array([score is not None for score in scores])
        counted, skipped = int(has_score.sum()), int((~has_score).sum())
        if not counted:
            raise MetricError(f"AV-Align: nothing sounds up and nothing moves in any {side} clip")
        baseline = shuffled_baseline(events, fps) if len(events) > 1 else None
        for name in _AV_ALIGN:
            values = np.array([getattr(score, name) for score in scores if score is not None])
            weights = times[:, has_score]
            found[name].append(weights @ values / np.maximum(weights.sum(1), 1))
            if baseline is not None and baseline.mean is not None:
                chance[name].append(float(getattr(baseline.mean, name)))
    return [
        measurement(
            title,
            found[name],
            side=side,
            better="higher",
            clips=str(counted),
            features="",
            note=f"{_chance(chance[name])}; {skipped} clips without onset and peak skipped",
        )
        for name, title in _AV_ALIGN.items()
    ]


def text_similarity(selections: list[Selection], extractor: Extractor, side: str) -> list[Measurement]:
    """The similarity of one side's sound with its texts, beside that with the texts of other clips.

    Raises:
        MetricError: no clip of this side has a text.
    """
    found, chance = [], []
    counted = without = 0
    for one in selections:
        rows, times = getattr(one, side), getattr(one.times, side)
        texts, sounds = rows[f"{TEXTS}{extractor.name}"], rows[f"{FEATURES}{extractor.name}"]
        has_text = np.isfinite(texts).all(axis=1)
        counted, without = int(has_text.sum()), int((~has_text).sum())
        if not counted:
            raise MetricError(f"no {side} clip has a caption or a label")
        weights = times[:, has_text]
        found.append(weights @ similarity(sounds[has_text], texts[has_text]) / np.maximum(weights.sum(1), 1))
        if counted > 1:
            chance.append(shuffled_similarity(sounds[has_text], texts[has_text]))
    measured = measurement(
        text_similarity_name(extractor.name),
        found,
        side=side,
        better="higher",
        clips=str(counted),
        features=f"{extractor.name} {extractor.sha256[:12]}",
        note=f"{_chance(chance)}; {without} clips without text left out",
    )
    return [measured]


def text_similarity_name(features: str) -> str:
    return f"{features}_text_audio"


def pair_similarities(selections: list[Selection], extractor: Extractor, side: str) -> list[Measurement]:
    """The similarities of one side's pictures with its sounds, beside those with the sounds of other clips.

    Raises:
        MetricError: an embedding is 0 in every value or not finite.
    """
    measured = []
    for name, (pictures_of, score, shuffled) in _pair_scores(extractor.name).items():
        found, chance = [], []
        for one in selections:
            rows, times = getattr(one, side), getattr(one.times, side)
            pictures, sounds = rows[f"{pictures_of}{extractor.name}"], rows[f"{SOUNDS}{extractor.name}"]
            found.append(times @ score(pictures, sounds) / times.sum(1))
            if len(sounds) > 1:
                chance.append(shuffled(pictures, sounds))
        measured.append(
            measurement(
                name,
                found,
                side=side,
                better="higher",
                clips=str(len(sounds)),
                features=f"{extractor.name} {extractor.sha256[:12]}",
                note=_chance(chance),
            )
        )
    return measured


def pair_similarity_names(features: str) -> tuple[str, ...]:
    return tuple(_pair_scores(features))


def _pair_scores(features: str) -> dict[str, PairScore]:
    if features == "imagebind":
        return _IMAGEBIND
    return {f"cs_{features}": PairScore(FRAMES, frame_similarity, shuffled_frame_similarity)}


def clip_mean(name: str, selections: list[Selection], column: str, *, better: str, note: str) -> Measurement:
    """The mean over clips of a number that each clip has."""
    found = [one.times.generated @ one.generated[column] / one.times.generated.sum(1) for one in selections]
    clips = str(len(selections[0].generated[column]))
    return measurement(name, found, side="both", better=better, clips=clips, features="", note=note)


def measurement(
    metric: str, found: list[np.ndarray], *, side: str, better: str, clips: str, features: str, note: str
) -> Measurement:
    """
    Args:
        found: per seed, the value of the clips and then those of their resamples.
    """
    per_seed = tuple(float(values[0]) for values in found)
    value = float(np.mean(per_seed))
    drawn = found[0][1:]
    half = _NORMAL_95 * float(np.std(drawn, ddof=1)) if len(drawn) > 1 else None
    return Measurement(
        metric=metric,
        side=side,
        value=value,
        low=None if half is None else value - half,
        high=None if half is None else value + half,
        per_seed=per_seed,
        clips=clips,
        better=better,
        features=features,
        note=note,
    )


def _frechet(scale: float, x: np.ndarray, y: np.ndarray, times: Times) -> np.ndarray:
    return scale * resampled_frechet(x, y, times.generated, times.reference)


def _kernel(kernel: Kernel, x: np.ndarray, y: np.ndarray, times: Times) -> np.ndarray:
    return resampled_mmd2(x, y, kernel, times.generated, times.reference)


def _kernel_audio(x: np.ndarray, y: np.ndarray, times: Times) -> np.ndarray:
    """KAD; the bandwidth is that of the reference itself, for every resample."""
    bandwidth = median_distance(y)
    if not bandwidth:
        raise MetricError("the reference's features are all equal: no bandwidth for KAD")
    return _KAD_SCALE * _kernel(gaussian_kernel(bandwidth), x, y, times)


def _events(rows: Rows) -> list[Events]:
    return [
        Events(onsets_s=onsets[np.isfinite(onsets)], peaks=np.flatnonzero(peaks))
        for onsets, peaks in zip(rows["onsets"], rows["peaks"], strict=True)
    ]


def _chance(baselines: list[float]) -> str:
    return f"shuffled baseline {np.mean(baselines):.3f}" if baselines else "no shuffled baseline"


def _counts(one: Selection) -> str:
    return " and ".join(f"{times.shape[1]}" for times in one.times)
