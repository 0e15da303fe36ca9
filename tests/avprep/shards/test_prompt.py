"""The prompt of labels, which datasets, the encode job and avmodel share."""

from __future__ import annotations

import pytest

from avprep.datasets.source import caption_of
from avprep.shards.layout import prompt_of


@pytest.mark.parametrize(
    ("labels", "prompt"),
    [((), ""), (("rain",), "a video of rain"), (("rain", "wind"), "a video of rain, wind")],
)
def test_labels_give_the_papers_prompt_and_a_source_has_it_for_its_caption(labels, prompt):
    assert prompt_of(*labels) == caption_of(labels) == prompt
