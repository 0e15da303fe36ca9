"""Level of a clip's sound: loudness, peak, clipping, silence, and how much of it the source has."""

from __future__ import annotations

import math

import numpy as np

from avprep.dsp.loudness import integrated_loudness
from avprep.scores.base import Column, Score, Value, without_weights
from avprep.scores.clip import ScoredClip
from avprep.scores.stored import number_of

# Stored sound has 16 bits: what was clipped is at the largest values that it has.
FULL_SCALE = 32766 / 32768
SILENT_DBFS = -60.0
WINDOW_S = 0.02  # of the windows that are silent or not


def loudness(clip: ScoredClip) -> dict[str, Value]:
    """Integrated loudness of the clip alone, BS.1770-4, of the stored mono mix.

    A clip of 1.6 s has 13 blocks of 400 ms. None: no block is above -70 LUFS, or the clip is shorter than
    a block.
    """
    return {"loudness_lufs": integrated_loudness(clip.waveform, clip.spec.sample_rate)}


def peak(clip: ScoredClip) -> dict[str, Value]:
    """The largest sample (not the true peak between samples) and the share of samples at full scale.

    The sound was mixed to mono and resampled: where a source was clipped below full scale, or in one of its
    channels, its samples do not show here. The peak of digital silence is None.
    """
    sizes = np.abs(clip.waveform)
    largest = float(sizes.max())
    return {
        "peak_dbfs": 20 * math.log10(largest) if largest > 0 else None,
        "clipped_share": float((sizes >= FULL_SCALE).mean()),
    }


def silence(clip: ScoredClip) -> dict[str, Value]:
    """The share of 20 ms windows whose RMS is below -60 dBFS; the share of the clip with sound in the source.

    A source without an audio stream has sounding_share 0; one whose audio stream is silent has 1.
    None: the clip's header does not say (`sounding_s`).
    """
    length = max(1, round(WINDOW_S * clip.spec.sample_rate))
    whole = len(clip.waveform) // length * length
    rms_squared = np.square(clip.waveform[:whole].reshape(-1, length), dtype=np.float64).mean(axis=1)
    sounding_s = number_of(clip.header, "sounding_s")
    return {
        "silent_share": float((rms_squared < 10 ** (SILENT_DBFS / 10)).mean()),
        "sounding_share": None if sounding_s is None else _share(sounding_s / float(clip.spec.seconds)),
    }


def _share(value: float) -> float:
    """A share that rounding may have taken a little out of its range."""
    return float(min(max(value, 0.0), 1.0)) if -1e-3 <= value <= 1 + 1e-3 else float(value)


LOUDNESS = Score(
    name="loudness",
    columns=(Column(name="loudness_lufs", kind="float", unit="LUFS", low=-70, meaning="gated loudness"),),
    needs=("waveform",),
    cost="array",
    open=without_weights(loudness),
    source="ITU-R BS.1770-4",
)
PEAK = Score(
    name="peak",
    columns=(
        Column(name="peak_dbfs", kind="float", unit="dBFS", high=0.0, meaning="the largest sample"),
        Column(
            name="clipped_share", kind="float", unit="share", low=0, high=1, meaning="samples at full scale"
        ),
    ),
    needs=("waveform",),
    cost="array",
    open=without_weights(peak),
    source="AES17 (sample peak)",
)
SILENCE = Score(
    name="silence",
    columns=(
        Column(
            name="silent_share", kind="float", unit="share", low=0, high=1, meaning="20 ms windows < -60 dBFS"
        ),
        Column(
            name="sounding_share", kind="float", unit="share", low=0, high=1, meaning="of the clip with sound"
        ),
    ),
    needs=("waveform", "json"),
    cost="array",
    open=without_weights(silence),
    source="avprep",
)
