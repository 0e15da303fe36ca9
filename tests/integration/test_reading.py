"""docs/reading.md prints what it says, without torchcodec."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

from avprep.shards.latents import EncoderHeader
from avprep.spec import ClipSpec
from tests.avmodel.made_latents import write_latents
from tests.made_clips import write_clips

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"
SPEC = ClipSpec(size=64, n_mels=64)
HEADER = EncoderHeader(
    spec=SPEC,
    channels=4,
    planes=("v_hw", "v_tw", "v_th", "a_hw", "a_tw", "a_th"),
    rows=32,
    columns=32,
    valid_rows=(32, 16, 16, 32, 16, 16),
    weights="0" * 64,
    config={},
)


@pytest.mark.timeout(120)
def test_the_page_prints_what_it_says(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs Hugging Face datasets")
    labels = {"source 0": ("dog",), "source 1": ("rain",), "source 2": ()}
    write_clips(
        tmp_path / "clips",
        spec=SPEC,
        sources=3,
        clips_each=2,
        shard_size=4,
        codec="jpeg",
        labels_of=labels.get,
    )
    write_latents(tmp_path / "latents", HEADER, count=6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # an import of it fails
    text = PAGE.read_text()
    examples = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == text.count("```python") == 6
    names: dict[str, object] = {"__name__": "docs"}
    for code, expected in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, PAGE.name, "exec"), names)
        assert printed.getvalue() == expected, code
