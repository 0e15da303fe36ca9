"""Checks of argument values, for the option dataclasses and the public functions.

Each raises ArgumentError with a message that begins with the argument's name.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from avprep.errors import ArgumentError
from avprep.spec import ClipSpec

DEVICES = ("auto", "cpu", "cuda")  # auto: a GPU if there is one


def require_one_of(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def require_whole(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"{name} must be a whole number, at least {least}, not {value!r}")


def require_number(name: str, value: Any, *, above: float) -> None:
    """Raises ArgumentError where it is not a finite number greater than `above`."""
    if not _is_finite(value) or not value > above:
        raise ArgumentError(f"{name} must be a number above {above:g}, not {value!r}")


def require_between(name: str, value: Any, lowest: float, highest: float) -> None:
    if not _is_real(value) or not lowest <= value <= highest:
        raise ArgumentError(f"{name} must be from {lowest:g} to {highest:g}, not {value!r}")


def require_shares(split: Any) -> None:
    """Raises ArgumentError where these are no shares that add up to 1."""
    if not isinstance(split, Mapping) or not all(
        isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1
        for share in split.values()
    ):
        raise ArgumentError(f"split must map names to shares above 0, not {split!r}")
    if split and not math.isclose(sum(split.values()), 1, abs_tol=1e-6):
        raise ArgumentError(f"split must have shares that add up to 1, not to {sum(split.values()):g}")


def require_decibels(name: str, value: Any) -> None:
    """A level relative to full scale, which no sound exceeds: above 0, a minus sign was forgotten."""
    if not _is_real(value) or not value <= 0:
        raise ArgumentError(f"{name} must be at most 0 dB of full scale, not {value!r}")


def require_spec(spec: object) -> None:
    if not isinstance(spec, ClipSpec):
        raise ArgumentError(f"spec must be a ClipSpec, not {spec!r}")


def samples_of(name: str, seconds: Any, spec: ClipSpec, *, least: int) -> int:
    """Seconds as whole samples of the spec's rate."""
    if not _is_finite(seconds):
        raise ArgumentError(f"{name} must be a number of seconds, not {seconds!r}")
    samples = round(Fraction(float(seconds)).limit_denominator(1_000_000) * spec.sample_rate)
    if samples < least:
        raise ArgumentError(
            f"{name} = {seconds:g} s is sample {samples} at {spec.sample_rate} Hz; the least is {least}"
        )
    return samples


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real)


def _is_finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
