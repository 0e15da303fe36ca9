"""CLAP through a real ClapModel, tiny and of random weights, against transformers' own logits.

Random weights test the arithmetic; no metric is computed with them.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from avmodel.metrics import MetricError
from avmodel.metrics.features import Clips, TextExtractor, load_extractor
from avmodel.metrics.features.clap import ClapFeatures
from avmodel.metrics.similarity import similarity

transformers = pytest.importorskip("transformers", minversion="5", reason="needs transformers 5 (pip)")

TEXTS = ["rain", "a dog barks", "rain " * 40]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "rain", "a", "dog", "barks"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `save_pretrained` leaves it: a word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    out = tmp_path_factory.mktemp("clap")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(out)
    transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(out)
    torch.manual_seed(0)
    transformers.ClapModel(_config()).save_pretrained(out)
    return out


def _config() -> Any:
    small = {"projection_dim": 16, "hidden_size": 32}
    return transformers.ClapConfig(
        text_config={
            **small, "vocab_size": len(WORDS), "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "max_position_embeddings": 34,
        },
        audio_config={
            **small, "patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1],
            "num_attention_heads": [1, 2], "num_hidden_layers": 2,
        },
        projection_dim=16,
    )  # fmt: skip


@pytest.fixture(scope="module")
def clap(folder: Path) -> ClapFeatures:
    loaded = load_extractor("clap", folder)
    assert isinstance(loaded, ClapFeatures) and isinstance(loaded, TextExtractor)
    return loaded


def made_clips(n: int = 3, rate: int = 48000, seconds: float = 1.6) -> Clips:
    t = np.arange(int(seconds * rate)) / rate
    tones = np.stack([np.sin(2 * np.pi * 300 * (i + 1) * t) * (1 + np.sin(9 * t)) / 4 for i in range(n)])
    frames = np.zeros((n, 2, 8, 8, 3), np.uint8)
    return Clips(frames=frames, waveform=tones.astype(np.float32), fps=10, sample_rate=rate)


def test_the_similarity_is_that_of_the_library_s_logits(clap: ClapFeatures, folder: Path):
    """The library pads the texts of a batch and puts the logits together itself; 48 kHz in both."""
    model = transformers.ClapModel.from_pretrained(folder).eval()
    processor = transformers.ClapProcessor.from_pretrained(folder)
    clips = made_clips()
    texts = TEXTS[:2]
    inputs = processor(
        text=texts, audio=list(clips.waveform), sampling_rate=48000, return_tensors="pt", padding=True
    )
    with torch.no_grad():
        logits = model(**inputs).logits_per_audio / model.logit_scale_a.exp()
    ours = similarity(clap(clips), clap.texts(texts)[None])
    np.testing.assert_allclose(ours, logits.numpy(), atol=1e-5)
    assert np.ptp(ours) > 1e-3


def test_rows_have_their_stated_form_and_do_not_depend_on_the_batch(clap: ClapFeatures):
    clips = made_clips()
    rows, texts = clap(clips), clap.texts(TEXTS)
    assert rows.shape == (3, 1, 16) and rows.dtype == texts.dtype == np.float32 and texts.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=-1), 1, atol=1e-6)
    for i in range(3):
        alone = Clips(frames=clips.frames[:1], waveform=clips.waveform[i : i + 1], fps=10, sample_rate=48000)
        np.testing.assert_array_equal(clap(alone)[0], rows[i])
        np.testing.assert_array_equal(clap.texts(TEXTS[i : i + 1])[0], texts[i])


def test_sound_is_resampled_to_48_khz(clap: ClapFeatures):
    at_16k, at_48k = (clap(made_clips(rate=rate))[:, 0] for rate in (16000, 48000))
    assert (similarity(at_16k, at_48k) > 0.999).all()
    as_if_48k = Clips(
        frames=np.zeros((3, 2, 8, 8, 3), np.uint8),
        waveform=made_clips(rate=16000).waveform,
        fps=10,
        sample_rate=48000,
    )
    assert (similarity(clap(as_if_48k)[:, 0], at_48k) < 0.999).any()


def test_a_clip_longer_than_the_network_hears_is_refused(clap: ClapFeatures):
    with pytest.raises(MetricError, match="CLAP hears 10 s"):
        clap(made_clips(1, rate=8000, seconds=10.5))


def test_the_checksum_is_that_of_the_weights_and_no_network_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    import hashlib

    def refuse(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert load_extractor("clap", folder).sha256 == expected


def changed(folder: Path, out: Path) -> Path:
    """A copy of the folder."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    return out


def test_weights_that_lack_a_tensor_are_refused(folder: Path, tmp_path: Path):
    """transformers would fill it with random numbers."""
    out = changed(folder, tmp_path / "lacking")
    tensors = load_file(out / "model.safetensors")
    del tensors["audio_projection.linear1.weight"]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MetricError, match="1 tensors lack, first audio_projection.linear1.weight"):
        load_extractor("clap", out)


def test_tensors_of_another_shape_are_refused(folder: Path, tmp_path: Path):
    out = changed(folder, tmp_path / "other")
    tensors = load_file(out / "model.safetensors")
    tensors["audio_projection.linear1.weight"] = torch.zeros(3, 3)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MetricError, match="does not hold a CLAP"):
        load_extractor("clap", out)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_refused(file: str, folder: Path, tmp_path: Path):
    out = changed(folder, tmp_path / "damaged")
    (out / file).write_bytes(b"not what it says")
    with pytest.raises(MetricError, match="does not hold a CLAP"):
        load_extractor("clap", out)


def test_a_pickle_is_not_read(folder: Path, tmp_path: Path):
    out = changed(folder, tmp_path / "pickled")
    torch.save(load_file(out / "model.safetensors"), out / "pytorch_model.bin")
    (out / "model.safetensors").unlink()
    with pytest.raises(
        MetricError, match=r"no weights at .*model.safetensors: they are .*checksum not known"
    ):
        load_extractor("clap", out)


def test_no_code_of_the_folder_is_run(folder: Path, tmp_path: Path):
    out = changed(folder, tmp_path / "hostile")
    (out / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        stored = json.loads((out / name).read_text())
        stored["auto_map"] = {"AutoModel": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
        stored["tokenizer_class"] = "Own"
        (out / name).write_text(json.dumps(stored))
    try:
        load_extractor("clap", out)
    except MetricError:
        pass
    assert not (tmp_path / "ran").exists()


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MetricError, match=r"pip install 'avprep\[clap\]'"):
        load_extractor("clap", folder)
