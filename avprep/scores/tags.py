"""What a clip sounds like, by YAMNet: speech, music, and the AudioSet classes that it hears most."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avprep.errors import ArgumentError
from avprep.scores.base import Column, Measure, Score, ScoreUnavailable, Value, WeightPaths
from avprep.scores.clip import ScoredClip

CLASS_MAP = "yamnet_class_map.csv"  # beside the weights
_TOP = 5
_HEARD = 0.1  # a class below is not among the tags


def open_tags(paths: WeightPaths) -> Measure:
    """Loads YAMNet on the CPU. Raises ScoreUnavailable where a file is missing or of another kind."""
    import torch

    from avprep.dsp.resample import resample_to
    from avprep.dsp.yamnet import SAMPLE_RATE, load_yamnet, read_class_names

    if paths.yamnet is None:
        raise ScoreUnavailable("needs the yamnet weights: no path is given")
    try:
        network = load_yamnet(paths.yamnet)
        names = read_class_names(_class_map(paths.yamnet))
    except ArgumentError as error:
        raise ScoreUnavailable(f"needs the yamnet weights: {error}") from error
    speech, music = names.index("Speech"), names.index("Music")

    def tags(clip: ScoredClip) -> dict[str, Value]:
        """YAMNet's outputs, each the highest of the clip's patches of 0.96 s.

        They are sigmoids of separate classes, trained on clips of 10 s with weak labels: they rank clips,
        they are no calibrated probabilities. `tags`: up to five classes of at least 0.1, the highest first,
        joined by '; '. None: the clip is digital silence.
        """
        if not clip.waveform.any():
            return {"speech": None, "music": None, "tag": None, "tag_score": None, "tags": None}
        heard = _heard(clip)
        order = np.argsort(-heard, kind="stable")
        return {
            "speech": float(heard[speech]),
            "music": float(heard[music]),
            "tag": names[order[0]],
            "tag_score": float(heard[order[0]]),
            "tags": "; ".join(names[i] for i in order[:_TOP] if heard[i] >= _HEARD),
        }

    def _heard(clip: ScoredClip) -> np.ndarray:
        waveform = resample_to(clip.waveform, clip.spec.sample_rate, SAMPLE_RATE)
        with torch.inference_mode():
            scores, _ = network(torch.from_numpy(waveform))
        return scores.amax(dim=0).numpy()

    return tags


def _class_map(weights: Path) -> Path:
    return weights.with_name(CLASS_MAP)


def _share(name: str, meaning: str) -> Column:
    return Column(name=name, kind="float", unit="sigmoid", low=0, high=1, meaning=meaning)


TAGS = Score(
    name="tags",
    columns=(
        _share("speech", "the class Speech"),
        _share("music", "the class Music"),
        Column(name="tag", kind="text", unit="", meaning="the AudioSet class heard most"),
        _share("tag_score", "of that class"),
        Column(name="tags", kind="text", unit="", meaning="up to five classes, the highest first"),
    ),
    needs=("waveform",),
    cost="network",
    open=open_tags,
    source="Plakal and Ellis, YAMNet, tensorflow/models, 2020; trained on AudioSet",
    weights="yamnet",
)
