"""Options that name finished outputs: one, or several with their shares."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

import click

Given = TypeVar("Given")
_SHARE = re.compile(r"(?P<out>.+):(?P<share>\d+(?:\.\d*)?|\.\d+)")


class MixedOutput(NamedTuple):
    """An output, and its share of what is drawn; None where it is not given."""

    out: str
    share: float | None


class MixedOutputType(click.ParamType):
    """OUT or OUT:SHARE. A number after the last colon is a share."""

    name = "OUT[:SHARE]"

    def convert(
        self, value: str | MixedOutput, param: click.Parameter | None, ctx: click.Context | None
    ) -> MixedOutput:
        if isinstance(value, MixedOutput):
            return value
        found = _SHARE.fullmatch(value)
        if found is None:
            return MixedOutput(value, None)
        share = float(found["share"])
        if share <= 0:
            self.fail(f"{value}: a share must be above 0", param, ctx)
        return MixedOutput(found["out"], share)


def mixture(given: tuple[MixedOutput, ...], option: str) -> tuple[list[str], list[float] | None]:
    """The outputs, and their shares if they have any. Raises click.UsageError if only some have one."""
    without = [output.out for output in given if output.share is None]
    if without and len(without) < len(given):
        raise click.UsageError(f"{option} {without[0]}: it has no share, and others have one")
    shares = [output.share for output in given if output.share is not None]
    return [output.out for output in given], shares or None


def one_output(ctx: click.Context, param: click.Parameter, given: tuple[Given, ...]) -> Given | None:
    """A callback of a `multiple` option that takes one output: click alone would take the last of several."""
    if len(given) > 1:
        raise click.UsageError(
            f"{param.opts[0]} is given {len(given)} times, and {ctx.info_name} takes one output; "
            f"avprep merge makes one of several"
        )
    return given[0] if given else None
