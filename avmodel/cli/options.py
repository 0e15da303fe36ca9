"""Click options whose defaults are those of the dataclass fields they set, and option names in errors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import click

from avmodel.training.options import DEVICES
from avprep.cli.group import ErrorReportingGroup, Refused

# An argument in a message of the library: its first word before ' = ' or ' must ', or any word in backquotes.
_ARGUMENT = re.compile(r"^(?P<first>[a-z]\w*)(?= = | must )|`(?P<quoted>[a-z]\w*)`")


def option(config: type, field: str, *flags: str, **attributes: Any) -> Callable:
    """The option that sets a field of `config`; --field-name unless `flags` are given. Without a default the
    option is required."""
    default = default_of(config, field)
    if default is dataclasses.MISSING:
        attributes |= {"required": True}
    elif not attributes.get("multiple"):
        attributes |= {"default": default, "show_default": default not in (None, "")}
    return click.option(*(flags or (f"--{field.replace('_', '-')}",)), field, **attributes)


def default_of(config: type, field: str) -> Any:
    """The default of a dataclass field; MISSING if it has none."""
    return {f.name: f.default for f in dataclasses.fields(config)}[field]


def device_option(config: type) -> Callable:
    return option(config, "device", type=click.Choice(DEVICES), help="auto: a GPU if there is one.")


class OptionNamingGroup(ErrorReportingGroup):
    """Names options where an error of the library names arguments: 'batch_size must be ...' becomes
    '--batch-size must be ...'. The names are those of the command's own parameters."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as refused:
            command = self.commands.get(ctx.invoked_subcommand or "")
            parameters = command.load().params if command is not None else ()
            refused.message = with_option_names(refused.message, parameters)
            raise


def with_option_names(message: str, parameters: Iterable[click.Parameter]) -> str:
    """The message with the option's name for each argument of the command that it names."""
    names = {parameter.name: parameter.opts[0] for parameter in parameters}

    def named(match: re.Match[str]) -> str:
        return names.get(match["first"] or match["quoted"], match[0])

    return _ARGUMENT.sub(named, message)
