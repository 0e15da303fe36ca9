"""Whose fault an exception is that ends the reading of a file: the file's, or that of this program.

One file must not end a run of weeks, so both become a MediaError, and their reasons differ: a file that is
called damaged is thrown away, while a fault of the program is to be mended and its files tried again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import NamedTuple

import av

from avprep.errors import AvprepError, shown
from avprep.reasons import MediaError, Reason

# FFmpeg's errors that no file causes: an option or a filter that it does not have.
NOT_OF_FILES = (av.OptionNotFoundError, av.FilterNotFoundError)
# How PyAV refuses what a file holds and it does not support, and how it fails at the file's numbers.
_REFUSALS = (ArithmeticError, RuntimeError, ValueError)
# What code raises that was given something that its author did not think of.
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@contextmanager
def blamed() -> Iterator[None]:
    """Turns what reading a file raises into a MediaError. Errors of avprep and of the machine (OSError) pass.

    Raises:
        MediaError: CORRUPT for what FFmpeg or PyAV refuses, and for what takes too much memory; UNFORESEEN,
            with the type and the place in the code, for any other error of a program.
    """
    try:
        yield
    except NOT_OF_FILES as error:
        raise _unforeseen(error) from error
    except (av.FFmpegError, MemoryError) as error:
        raise _corrupt(error) from error
    except AvprepError:
        raise
    except _FAULTS as error:
        raise (_corrupt(error) if _is_refusal(error) else _unforeseen(error)) from error


def _is_refusal(error: Exception) -> bool:
    """Whether PyAV raised it, over what the file holds: it is the program that builds a graph of filters."""
    origin = _places(error)[-1].function
    is_pyav = origin.startswith("av.") and not origin.startswith("av.filter.")
    return isinstance(error, _REFUSALS) and is_pyav


def _corrupt(error: Exception) -> MediaError:
    return MediaError(Reason.CORRUPT, f"cannot be read: {type(error).__name__}: {shown(error)}")


def _unforeseen(error: Exception) -> MediaError:
    places = _places(error)
    place = next((place for place in reversed(places) if place.module.startswith("avprep.")), places[-1])
    where = f"{place.module}, {place.function}, line {place.line}"
    return MediaError(Reason.UNFORESEEN, f"{type(error).__name__} in {where}: {shown(error)}")


class _Place(NamedTuple):
    module: str  # '' in compiled modules
    function: str  # in compiled modules with the module's name
    line: int


def _places(error: Exception) -> list[_Place]:
    """Of every call that the error came through, that of its origin last."""
    return [
        _Place(frame.f_globals.get("__name__") or "", frame.f_code.co_name, line)
        for frame, line in walk_tb(error.__traceback__)
    ]
