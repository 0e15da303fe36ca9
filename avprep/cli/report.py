"""`avprep report`: one page that shows an output or a training folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("out")
@click.option("--to", type=click.Path(path_type=Path), help="Where it is written. [default: OUT-report]")
@click.option(
    "--single-file", "is_single_file", is_flag=True, help="One self-contained page: OUT-report.html."
)
@click.option(
    "--clips", type=click.IntRange(0, 1000), default=48, show_default=True, help="That play, at most."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random ones.")
@click.option(
    "--select",
    metavar="NAME",
    help="Show the clips of this selection only, and count their values.",
)
@click.option("--decoded", metavar="FOLDER", help="What avprep decode wrote of these latents: their videos.")
def report(out: str, to: Path | None, **options) -> None:
    """Write one page that shows OUT: clips, latents, samples or a training folder.

    Damage is listed on the page and does not keep it from being written.
    """
    from avprep.report.build import write_report
    from avprep.report.config import ReportConfig

    config = ReportConfig(**options)
    path, page = write_report(out, to or _beside(out, config.is_single_file), config)
    click.echo(f"{path}: {len(page.players):,} clips; open it in a browser")
    if page.damaged:
        click.echo(f"{page.damaged:,} damaged; the page lists what could not be read")


def _beside(out: str, is_single_file: bool) -> Path:
    """OUT-report; of an object store in the working folder."""
    bare = out.rstrip("/")
    name = bare.rpartition("/")[2] if "://" in bare else str(Path(bare).absolute())
    return Path(f"{name}-report{'.html' if is_single_file else ''}")
