"""Text from files, made safe to show: no control characters, no override of the writing direction."""

from __future__ import annotations

import unicodedata

LONGEST = 240  # characters shown of one text

# Control, format (direction overrides), surrogate, private, unassigned, and line separators.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(value: object, longest: int = LONGEST) -> str:
    """A text as the page shows it: escapes such as \\n for what has no glyph, cut at `longest` characters.

    HTML is not escaped here; the template engine does that.
    """
    text = str(value)
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(map(_visible, cut))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED:
        return character
    return character.encode("unicode_escape").decode("ascii")
