"""The errors that a caller of avprep or avmodel may catch: all derive from `AvprepError`.

Each class stands where it is raised. A fault of the machine (a full disk, a file without permission) is an
OSError and is not one of them.

Messages name arguments of the public functions in three forms, which the command line turns into the names of
its options (`avprep.cli.group.with_options`): at the beginning, `NAME = VALUE: sentence`, `NAME must be ...`
or `NAME needs ...`; elsewhere as in a call, NAME=VALUE, or in backquotes, `NAME`.
"""

from __future__ import annotations


class AvprepError(Exception):
    """The base of every error that says that something which was given cannot be used."""


class ArgumentError(AvprepError, ValueError):
    """An argument of a public function: the message begins with its name."""


class ClipNotFound(AvprepError, KeyError):
    """A key that no clip of a dataset has."""

    __str__ = Exception.__str__  # KeyError's is the repr of the message
