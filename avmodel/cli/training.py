"""How the commands that train end."""

from __future__ import annotations

import click


def tell_end(skipped: int, stopped_by: int | None) -> None:
    """Says what a person must know of how a training run ended; exits where a signal ended it."""
    if skipped:
        click.echo(f"{skipped:,} steps left out: a loss or gradient was NaN or Inf")
    if stopped_by is not None:
        click.echo("stopped by a signal; run the same command again to go on", err=True)
        raise SystemExit(128 + stopped_by)
