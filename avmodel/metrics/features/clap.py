"""CLAP's embeddings of sound and text in one space: `FAD-clap`, `KAD-clap`, `clap_text_audio`.

The network is transformers'. Its weights are a local folder as `save_pretrained` leaves it and the Hugging
Face Hub serves it: config.json, model.safetensors, the feature extractor's and the tokenizer's files. Nothing
is downloaded, no pickle is read, and no code of the folder is run.

Source: Wu et al., "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and
Keyword-to-Caption Augmentation", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn import functional as F

from avmodel.metrics import MetricError
from avmodel.metrics.features.base import Clips, Published, sha256_of, waveforms_at

PUBLISHED = Published(
    "the folder of model.safetensors, config.json, preprocessor_config.json and the tokenizer's files",
    "https://huggingface.co/laion/clap-htsat-unfused",
)
WEIGHTS_FILE = "model.safetensors"
_SAMPLE_RATE = 48000
_BAD_FOLDER = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


class ClapFeatures:
    """One row per clip: its embedding, of length 1. Shorter sounds are repeated to the network's 10 s, as it
    was trained."""

    name = "clap"
    side: Literal["audio"] = "audio"

    def __init__(self, model: Any, sound: Any, tokenizer: Any, sha256: str) -> None:
        """
        Args:
            model: transformers' ClapModel.
            sound: its ClapFeatureExtractor.
            tokenizer: of its text model.
        """
        self._model, self._sound, self._tokenizer = model.float().eval(), sound, tokenizer
        self.sha256, self.width = sha256, int(model.config.projection_dim)
        positions = int(model.config.text_config.max_position_embeddings)
        self._most_tokens = min(int(tokenizer.model_max_length), positions - 2)  # RoBERTa counts from 2

    @torch.no_grad()
    def __call__(self, clips: Clips) -> np.ndarray:
        """Raises MetricError for clips longer than the network hears: it would take a random part of them."""
        waveforms, most = waveforms_at(_SAMPLE_RATE, clips), int(self._sound.nb_max_samples)
        if waveforms.shape[1] > most:
            raise MetricError(f"CLAP hears {most / _SAMPLE_RATE:g} s; the clips are longer")
        return np.stack([self._of_sound(row)[None] for row in waveforms])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of length 1, float32 (n, width). A text beyond the network's tokens is cut."""
        return np.stack([self._of_text(text) for text in texts])

    # One by one: neither padding nor the size of a batch changes a bit.

    def _of_sound(self, waveform: np.ndarray) -> np.ndarray:
        heard = self._sound(waveform, sampling_rate=_SAMPLE_RATE, return_tensors="pt")
        features = heard["input_features"].float()
        pooled = self._model.audio_model(features, is_longer=heard["is_longer"]).pooler_output
        return self._unit(self._model.audio_projection(pooled))

    def _of_text(self, text: str) -> np.ndarray:
        tokens = self._tokenizer([text], truncation=True, max_length=self._most_tokens, return_tensors="pt")
        pooled = self._model.text_model(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        return self._unit(self._model.text_projection(pooled))

    @staticmethod
    def _unit(embedding: torch.Tensor) -> np.ndarray:
        return F.normalize(embedding[0], dim=-1).numpy()


def load_clap(weights: Path) -> ClapFeatures:
    """
    Args:
        weights: the folder.

    Raises:
        MetricError: transformers is not installed, or the folder does not hold a whole CLAP.
    """
    try:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel
    except ImportError as error:
        raise MetricError("CLAP needs transformers: pip install 'avprep[clap]'") from error
    sha256 = sha256_of(weights / WEIGHTS_FILE, PUBLISHED)
    try:
        model, loading = ClapModel.from_pretrained(
            weights, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        sound = ClapFeatureExtractor.from_pretrained(weights, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    except _BAD_FOLDER as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise MetricError(f"{weights} does not hold a CLAP: {first}") from error
    # transformers fills what a file lacks with random numbers, and only warns.
    if loading["missing_keys"]:
        lacking = sorted(loading["missing_keys"])
        raise MetricError(f"{weights} does not hold a CLAP: {len(lacking)} tensors lack, first {lacking[0]}")
    if sound.sampling_rate != _SAMPLE_RATE:
        raise MetricError(f"{weights} is no published CLAP: it hears {sound.sampling_rate} Hz")
    return ClapFeatures(model, sound, tokenizer, sha256)
