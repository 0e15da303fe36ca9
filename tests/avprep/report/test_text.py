from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.report.text import LONGEST, shown


@settings(deadline=None)
@given(st.text(st.characters(), max_size=400))
def test_no_control_or_format_character_is_left(text):
    categories = {unicodedata.category(character) for character in shown(text)}
    assert categories.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    shown(text).encode("utf-8")


def test_plain_text_stays_and_long_text_is_cut():
    assert shown("dog, café, 犬") == "dog, café, 犬"
    assert shown("a\nb\u202ec\udcff") == r"a\nb\u202ec\udcff"
    assert len(shown("x" * 4096)) == LONGEST and shown("x" * 4096).endswith("…")
