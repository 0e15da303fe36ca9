"""`avprep invert-audio` and `avprep synth`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avprep.cli.group import Refused
from avprep.cli.options import from_options, option
from avprep.errors import AvprepError
from avprep.stages.options import InvertOptions

if TYPE_CHECKING:
    from avprep.stages.invert_audio import InvertedClip


@click.command("invert-audio")
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the .wav files.")
@option(
    InvertOptions,
    "iterations",
    "--iterations",
    type=click.IntRange(1),
    help="Of Griffin-Lim: more is nearer and slower. The first two thirds see every second column.",
)
@option(
    InvertOptions,
    "momentum",
    "--momentum",
    type=click.FloatRange(0, 1.5),
    help="0 is plain Griffin-Lim.",
)
@option(InvertOptions, "batch_size", "--batch-size", type=click.IntRange(1), help="Clips at once.")
@option(InvertOptions, "limit", "--limit", type=click.IntRange(1), help="Clips in all.")
@option(InvertOptions, "device", "--device", type=click.Choice(["cpu", "cuda"]))
@option(InvertOptions, "seed", "--seed", type=int, help="Of the first phases.")
def invert_audio(source: str, out: Path, **options: Any) -> None:
    """Mel stacks (a clips directory, a shard or a .npy) to .wav files.

    Two mel PSNRs are printed per clip: of the solution, with the samples beside the clip that its edge
    columns reach into; and of the file, which has none, measured between silence.
    """
    from avprep.dsp.device import choose_device
    from avprep.stages.invert_audio import invert_to_wav, mel_stacks

    choose_device(options["device"])
    try:
        spec, stacks = mel_stacks(source, None)
        clips = []
        for clip in invert_to_wav(stacks, spec, out, from_options(InvertOptions, options)):
            clips.append(clip)
            click.echo(f"{clip.key}.wav  {clip.solution_psnr:6.2f} dB, file {clip.file_psnr:6.2f} dB")
    except (AvprepError, ValueError) as error:
        raise Refused(f"{source}: {error}") from error
    if not clips:
        raise Refused(f"{source}: no mel stacks there")
    kept = sum(clip.is_kept for clip in clips)
    earlier = f", {kept:,} of them by an earlier run" if kept else ""
    sounding = [clip for clip in clips if not clip.is_silent]
    click.echo(f"{len(clips):,} clips in {out}{earlier}: {_summary(sounding)}")


def _summary(sounding: list[InvertedClip]) -> str:
    """Without the silent clips, whose 120 dB would lift the mean."""
    if not sounding:
        return "all silent"
    solution = _mean_and_least([clip.solution_psnr for clip in sounding])
    file = _mean_and_least([clip.file_psnr for clip in sounding])
    return f"mel PSNR {solution}; of the files {file} ({len(sounding):,} sounding)"


def _mean_and_least(decibels: list[float]) -> str:
    return f"mean {sum(decibels) / len(decibels):.2f} dB, least {min(decibels):.2f} dB"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the scenes.")
@click.option("--n", type=click.IntRange(1), default=24, show_default=True, help="How many scenes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same scenes.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=6.4, show_default=True, help="Of each.")
@click.option(
    "--workers", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes that draw."
)
def synth(out: Path, n: int, seed: int, seconds: float, workers: int) -> None:
    """Write procedural sounding scenes as mp4, a folder a class: class, event times and captions known."""
    from tqdm import tqdm

    from avprep.scenes.synth import SynthError, write_scenes

    try:
        with tqdm(total=n, unit="scene") as bar:
            write_scenes(
                out, n=n, seed=seed, seconds=seconds, workers=workers, on_scene=lambda _: bar.update()
            )
    except SynthError as error:
        raise Refused(str(error)) from error
    click.echo(f"{n} scenes in {out}: avprep clip --dataset manifest --root {out} --out CLIPS")
