"""The errors that a caller of avprep or avmodel may catch: all derive from `AvprepError`.

Each class stands where it is raised. A fault of the machine (a full disk, a file without permission) is an
OSError and is not one of them.

Messages name arguments of the public functions in three forms, which the command line turns into the names of
its options (`avprep.cli.group.with_options`): at the beginning, `NAME = VALUE: sentence`, `NAME must be ...`
or `NAME needs ...`; elsewhere as in a call, NAME=VALUE, or in backquotes, `NAME`.
"""

from __future__ import annotations

import unicodedata

LONGEST = 240  # characters shown of one text
_LONGEST_LINE = 900  # of a message

# Control, format (direction overrides), surrogate, private, unassigned, and line separators.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class AvprepError(Exception):
    """The base of every error that says that something which was given cannot be used.

    Its message may quote a file: control characters other than line ends are escaped, long lines are cut.
    """

    def __str__(self) -> str:
        return "\n".join(shown(line, _LONGEST_LINE) for line in Exception.__str__(self).split("\n"))


class ArgumentError(AvprepError, ValueError):
    """An argument of a public function: the message begins with its name."""


class ClipNotFound(AvprepError, KeyError):
    """A key that no clip of a dataset has."""


def shown(value: object, longest: int = LONGEST) -> str:
    """A text as a message or a page shows it: printable, cut at `longest` characters.

    HTML is not escaped here; the template engine does that.
    """
    text = str(value)
    return printable(text if len(text) <= longest else f"{text[: longest - 1]}…")


def printable(text: str) -> str:
    """The text with escapes such as \\n for what has no glyph: names of files may clear a screen."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED:
        return character
    return character.encode("unicode_escape").decode("ascii")
