"""Cosine similarities of embeddings of picture, sound and text; higher is nearer, in [-1, 1].

    name              embeddings                      function
    cs_audioclip      AudioCLIP image and audio       frame_similarity
    AVHScore          ImageBind frame and audio       frame_similarity
    JavisScore        ImageBind frame and audio       javis_score
    IB-AV             ImageBind video and audio       similarity
    clap_text_audio   CLAP text and audio             similarity

A value says something only under one network's name. CLAP has no video side, so nothing here is comparable
with the paper's 'CLAP similarity' of 0.306.

Sources: Guzhov et al., 2022 (AudioCLIP); Wu et al., 2023 (CLAP); Girdhar et al., 2023 (ImageBind); Mao et
al., "TAVGBench", 2024 (AVHScore); Liu et al., "JavisDiT", 2025 (JavisScore).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avmodel.metrics import MetricError

_AT_ONCE = 64  # clips
_MOST_SHIFTS = 255


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity along the last axis, float64 (...), of embeddings (..., d); shapes broadcast.

    Raises:
        MetricError: shapes that do not broadcast, values that are not finite, or an embedding of length 0.
    """
    a, b = _unit(a), _unit(b)
    try:
        return (a * b).sum(axis=-1)
    except ValueError as error:
        raise MetricError(f"embeddings {a.shape} and {b.shape} cannot be compared") from error


def frame_similarity(frames: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """The mean over frames, (n,), of frame embeddings (n, T, d) and audio embeddings (n, d)."""
    return _per_frame(frames, audio).mean(axis=1)


def javis_score(frames: np.ndarray, audio: np.ndarray, *, share: float = 0.4) -> np.ndarray:
    """The mean over the `share` of frames least like the sound, (n,); arguments as `frame_similarity`.

    The published score takes windows of 2 s. A clip of 1.6 s is one window.
    """
    if not 0 < share <= 1:
        raise MetricError(f"share must be in (0, 1], not {share}")
    return _mean_of_lowest(_per_frame(frames, audio), share)


def shuffled_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """The mean similarity of each row of a (n, d) and every other row of b (n, d): what pairs have by chance.

    Raises:
        MetricError: as `similarity`, or fewer than two pairs.
    """
    _require_pairs(a, b)
    return _mean_of_other_pairs(_unit(a), _unit(b))


def shuffled_frame_similarity(frames: np.ndarray, audio: np.ndarray) -> float:
    """The mean `frame_similarity` of each clip's frames (n, T, d) and every other clip's audio (n, d).

    Raises:
        MetricError: as `shuffled_similarity`.
    """
    _require_pairs(frames, audio)
    # The mean similarity is linear in the unit embeddings: their mean stands for the frames of a clip.
    means, units = np.concatenate([_unit(part).mean(axis=1) for part in _parts(frames)]), _unit(audio)
    return _mean_of_other_pairs(means, units)


def shuffled_javis_score(
    frames: np.ndarray, audio: np.ndarray, *, share: float = 0.4, seed: int = 0
) -> float:
    """The mean `javis_score` of each clip's frames (n, T, d) and other clips' audio (n, d).

    Up to 256 clips these are all other clips. Of more, it is the audio of 255 clips: those at 255 distances
    in the order of the clips, cyclic, drawn by `seed`; each audio is taken as often as any other.

    Raises:
        MetricError: as `shuffled_similarity`.
    """
    _require_pairs(frames, audio)
    distances = np.arange(1, len(frames))
    if len(distances) > _MOST_SHIFTS:
        distances = np.random.default_rng(seed).choice(distances, _MOST_SHIFTS, replace=False)
    unit_frames = np.concatenate([_unit(part).astype(np.float32) for part in _parts(frames)])
    unit_audio = _unit(audio).astype(np.float32)
    means = [
        _mean_of_lowest((unit_frames @ np.roll(unit_audio, shift, axis=0)[..., None])[..., 0], share).mean()
        for shift in distances
    ]
    return float(np.mean(means))


def sound_prompt(labels: Sequence[str]) -> str:
    """The text of a sound with labels and no caption, as LAION-CLAP classifies sounds; '' without labels."""
    return f"This is a sound of {', '.join(labels)}." if labels else ""


def _require_pairs(pictures: np.ndarray, audio: np.ndarray) -> None:
    """Of pictures (n, d) or (n, T, d)."""
    shape = (*pictures.shape[:1], *pictures.shape[-1:])
    if len(pictures) < 2 or shape != audio.shape:
        raise MetricError(
            f"a shuffled baseline needs 2 pairs, not embeddings {pictures.shape} and {audio.shape}"
        )


def _mean_of_other_pairs(a: np.ndarray, b: np.ndarray) -> float:
    """The mean of a_i . b_j over i != j."""
    return float((a.sum(axis=0) @ b.sum(axis=0) - (a * b).sum()) / (len(a) * (len(a) - 1)))


def _mean_of_lowest(per_frame: np.ndarray, share: float) -> np.ndarray:
    """(n, T) -> (n,)"""
    lowest = max(1, round(share * per_frame.shape[1]))
    return np.sort(per_frame, axis=1)[:, :lowest].mean(axis=1)


def _per_frame(frames: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """float64 (n, T)"""
    if len(frames) != len(audio):
        raise MetricError(f"embeddings {frames.shape} and {audio.shape} cannot be compared")
    pairs = zip(_parts(frames), _parts(audio[:, None]), strict=True)
    return np.concatenate([similarity(*pair) for pair in pairs])


def _parts(embeddings: np.ndarray) -> list[np.ndarray]:
    """A few clips at once: float64 copies of all frames would be twice as large as what is kept."""
    return [embeddings[first : first + _AT_ONCE] for first in range(0, max(1, len(embeddings)), _AT_ONCE)]


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or not (length > 0).all():
        raise MetricError("an embedding is not finite, or 0 in every value")
    return embeddings / length
