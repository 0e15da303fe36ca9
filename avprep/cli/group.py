"""The click group of both command lines: commands are imported when they are asked for, errors are reported.

What it imports costs a start 0.05 s; a command's own module brings the rest.
"""

from __future__ import annotations

import errno
import re
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from typing import Any

import click

from avprep.credentials import REMEDY, credentials_in, scrubbed

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Refused(click.ClickException):
    """A message on stderr and exit code 2. Arguments in it get the names of the command's options, and
    credentials are removed from it."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(scrubbed(with_options(message)))


def with_options(message: str, command: click.Command | None = None) -> str:
    """A library's message for the command line: arguments are named as the command's options.

    The forms in which a message names an argument are those of `avprep.errors`:

        shard_size must be ...    ->  --shard-size must be ...
        limit = 0: ...            ->  --limit 0: ...
        ..., rebuild=True ...     ->  ..., --rebuild ...
        ... `batch_size` = 8 ...  ->  ... --batch-size 8 ...

    Args:
        command: whose parameters' names are the arguments' names; None: the one that runs.
    """
    if command is None:
        context = click.get_current_context(silent=True)
        command = context.command if context else None
    options = {p.name: p.opts[0] for p in command.params if isinstance(p, click.Option)} if command else {}

    leading = _LEADING.match(message)
    if leading and leading[1] in options:
        message = options[leading[1]] + (" " if leading[2] == " = " else "") + message[leading.end() :]

    def named(found: re.Match[str]) -> str:
        name, is_flag = found.groups()
        return options[name] + ("" if is_flag else " ") if name in options else found[0]

    message = _KEYWORD.sub(named, message)

    def quoted(found: re.Match[str]) -> str:
        name, is_given = found.groups()
        return options[name] + (" " if is_given else "") if name in options else found[0]

    return _QUOTED.sub(quoted, message)


_LEADING = re.compile(r"(\w+)( = True(?=:)| = |(?= must )|(?= needs ))")
_KEYWORD = re.compile(r"(?<![\w/.=-])([a-z]\w*)=(True\b)?")
_QUOTED = re.compile(r"`([a-z]\w*)`( = )?")


class LazyCommand(click.Command):
    """A command known by its name and its line of help; its module is imported when it is used."""

    def __init__(self, name: str, help: str, where: str) -> None:
        """`where`: 'module:attribute' of the click command."""
        super().__init__(name, help=help)
        self.where = where

    def load(self) -> click.Command:
        module, _, attribute = self.where.partition(":")
        return getattr(import_module(module), attribute)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command itself, which is what click then invokes."""
        return self.load().make_context(info_name, args, parent, **extra)


class ErrorReportingGroup(click.Group):
    """Reports what its commands leave to it: damaged outputs, files that cannot be opened, Ctrl-C."""

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]], refusals: frozenset[str], **kwargs: Any
    ) -> None:
        """
        Args:
            lazy: name of a command -> (its line in the group's help, 'module:attribute').
            refusals: 'module.Class' of the errors whose message is for the person at the command line. By
                name: to import them would import torch, and what is not imported has not been raised.
        """
        super().__init__(*args, **kwargs)
        self._refusals = refusals
        for name, (help, where) in lazy.items():
            self.add_command(LazyCommand(name, help, where))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Refuses credentials before anything is parsed: click's own messages repeat what was given."""
        for before, given in pairwise(["", *args]):
            found = credentials_in(given)
            if found is not None:
                option = given.partition("=")[0] if given.startswith("-") else before
                named = option if option.startswith("-") else "an address"
                raise Refused(f"{named} must not hold credentials ({found}); {REMEDY}")
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click's own to end
                raise
            what = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
            raise click.ClickException(scrubbed(what)) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            if not self._is_refusal(error):
                raise
            raise Refused(with_options(str(error), self._loaded(ctx.invoked_subcommand))) from error

    def _loaded(self, name: str | None) -> click.Command | None:
        command = self.commands.get(name) if name else None
        return command.load() if isinstance(command, LazyCommand) else command

    def _is_refusal(self, error: Exception) -> bool:
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
        return not self._refusals.isdisjoint(kinds)
