"""Text embeddings by a real, tiny CLIP text model of random weights; skipped where transformers is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avprep.stages.captions import TextEncoderError, open_clip_text

transformers = pytest.importorskip("transformers", minversion="5", reason="needs transformers 5 (pip)")

TEXTS = ["rain", "a dog barks", "a video of " + "rain " * 40]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as `save_pretrained` leaves it: a letter is a token."""
    out = str(tmp_path_factory.mktemp("clip"))
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    size = len(names)
    tokenizer = transformers.CLIPTokenizerFast(
        vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=77
    )
    tokenizer.save_pretrained(out)
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(out)
    return out


def test_each_text_is_embedded_up_to_its_end_and_as_it_is_alone(weights):
    """Padding changes nothing: the states are those of the text given to the plain model without any."""
    found = open_clip_text(weights, "cpu")(TEXTS)
    assert [len(states) for states in found] == [4 + 2, 9 + 2, 77]
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(weights)
    model = transformers.CLIPTextModel.from_pretrained(weights).eval()
    for text, states in zip(TEXTS, found, strict=True):
        tokens = tokenizer([text], truncation=True, return_tensors="pt")
        with torch.no_grad():
            plain = model(**tokens).last_hidden_state[0].numpy()
        assert states.dtype == np.float16
        assert np.allclose(states.astype(np.float32), plain, atol=2e-3)


def test_no_model_there_is_a_sentence(tmp_path):
    with pytest.raises(TextEncoderError, match="no CLIP text model there"):
        open_clip_text(str(tmp_path), "cpu")
