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
    return similarity(frames, audio[:, None]).mean(axis=1)


def javis_score(frames: np.ndarray, audio: np.ndarray, *, share: float = 0.4) -> np.ndarray:
    """The mean over the `share` of frames least like the sound, (n,); arguments as `frame_similarity`.

    The published score takes windows of 2 s. A clip of 1.6 s is one window.
    """
    if not 0 < share <= 1:
        raise MetricError(f"share must be in (0, 1], not {share}")
    per_frame = np.sort(similarity(frames, audio[:, None]), axis=1)
    lowest = max(1, round(share * per_frame.shape[1]))
    return per_frame[:, :lowest].mean(axis=1)


def shuffled_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """The mean similarity of each row of a (n, d) and every other row of b (n, d): what pairs have by chance.

    Raises:
        MetricError: as `similarity`, or fewer than two pairs.
    """
    if len(a) < 2 or a.shape != b.shape:
        raise MetricError(f"a shuffled baseline needs 2 pairs, not embeddings {a.shape} and {b.shape}")
    a, b = _unit(a), _unit(b)
    return float((a.sum(axis=0) @ b.sum(axis=0) - (a * b).sum()) / (len(a) * (len(a) - 1)))


def sound_prompt(labels: Sequence[str]) -> str:
    """The text of a sound with labels and no caption, as LAION-CLAP classifies sounds; '' without labels."""
    return f"This is a sound of {', '.join(labels)}." if labels else ""


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or not (length > 0).all():
        raise MetricError("an embedding is not finite, or 0 in every value")
    return embeddings / length
