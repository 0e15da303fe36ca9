"""Fingerprints of a clip's picture and sound: near copies lie within a small Hamming distance.

    phash         64 bits of each of three frames: signs of low DCT coefficients around their median
    audio_print   32 bits of each of three windows of the sound: where its spectrum bends up or down

Both hold against re-encoding and a change of level; cropping and a shift in time change some bits. They
find candidates: clips of one sort (rain, a dark stage) come close without being copies.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from avprep.scores.base import Column, Measure, Score, Value, WeightPaths, without_weights
from avprep.scores.clip import ScoredClip

_FRAMES = (1 / 6, 1 / 2, 5 / 6)  # of the clip's length
_HASH_SIDE = 8
_BANDS = 32
_WINDOWS = 3  # each half of the clip long, half overlapping: a shift in time moves little of it
_SILENT = -0.98  # of the mel stack's [-1, 1]: nothing is louder in a clip without a print


def open_phash(paths: WeightPaths) -> Measure:
    """Loads imagehash, which brings SciPy's DCT with it."""
    import imagehash

    def phash(clip: ScoredClip) -> dict[str, Value]:
        """imagehash.phash of three frames. None: all three are of one colour, and have no print."""
        shown = [clip.grey[int(share * len(clip.grey))] for share in _FRAMES]
        if all(picture.min() == picture.max() for picture in shown):
            return {"phash": None}
        hashes = [imagehash.phash(Image.fromarray(picture), hash_size=_HASH_SIDE).hash for picture in shown]
        return {"phash": np.packbits(np.concatenate(hashes)).tobytes()}

    return phash


def audio_print(clip: ScoredClip) -> dict[str, Value]:
    """Signs of the bend of the log-mel spectrum, by bands and windows. None: the clip is silent.

    A sound has the same print at any level, as long as neither the floor of the mel stack nor clipping
    changes its spectrum.
    """
    bands = band_levels(clip.mel)
    if clip.mel.max() <= _SILENT:
        return {"audio_print": None}
    half = len(bands) // 2
    starts = [round(i * (len(bands) - half) / (_WINDOWS - 1)) for i in range(_WINDOWS)]
    levels = np.stack([bands[start : start + max(1, half)].mean(axis=0) for start in starts])
    bends = 2 * levels[:, 1:-1] - levels[:, :-2] - levels[:, 2:]
    return {"audio_print": np.packbits(bends > 0).tobytes()}


def hamming(a: bytes, b: bytes) -> int:
    """Bits in which two prints of one length differ."""
    if len(a) != len(b):
        raise ValueError(f"prints of {len(a)} and {len(b)} bytes")
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def band_levels(mel: np.ndarray) -> np.ndarray:
    """float32 (columns, _BANDS + 2): the mel stack (T, n_mels, W) in time order, by means of its bands."""
    edges = np.linspace(0, mel.shape[1], _BANDS + 3).astype(int)
    # Of fewer mel bands than edges, a band with none of its own takes the next one: reduceat does so.
    sums = np.add.reduceat(mel.astype(np.float32), edges[:-1], axis=1)
    counts = np.maximum(np.diff(edges), 1).astype(np.float32)
    return (sums / counts[:, None]).transpose(0, 2, 1).reshape(-1, len(counts))


PHASH = Score(
    name="phash",
    columns=(
        Column(name="phash", kind="bits", unit="bits", high=3 * _HASH_SIDE**2, meaning="of three frames"),
    ),
    needs=("frames",),
    cost="array",
    open=open_phash,
    source="Zauner, Implementation and benchmarking of perceptual image hash functions, 2010; imagehash",
    modules=("imagehash",),
    extra="tags",
)
AUDIO_PRINT = Score(
    name="audio_print",
    columns=(
        Column(
            name="audio_print", kind="bits", unit="bits", high=_WINDOWS * _BANDS, meaning="of the spectrum"
        ),
    ),
    needs=("mel",),
    cost="array",
    open=without_weights(audio_print),
    source="after Haitsma and Kalker, A highly robust audio fingerprinting system, ISMIR 2002",
)
