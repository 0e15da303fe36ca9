"""Click options whose defaults are those of the dataclass fields they set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from avprep.checks import DEVICES


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
