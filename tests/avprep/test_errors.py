from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.errors import LONGEST, ArgumentError, AvprepError, ClipNotFound, shown


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


@pytest.mark.parametrize("kind", [AvprepError, ArgumentError, ClipNotFound])
def test_a_message_sends_nothing_to_the_terminal_but_text(kind):
    """A file's name may hold escapes that clear the screen or turn the direction of writing."""
    assert str(kind("clip \x1b[2J\u202e.mp4:\nis empty")) == "clip \\x1b[2J\\u202e.mp4:\nis empty"
