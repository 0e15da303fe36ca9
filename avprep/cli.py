"""`avprep`: the command line. Options become frozen dataclasses here and travel no further as options."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from fractions import Fraction
from itertools import islice
from pathlib import Path

import click
import torch
from tqdm import tqdm

from avprep.datasets import DATASETS, default_root, list_dataset
from avprep.datasets.source import DatasetError, DatasetOptions, Listing
from avprep.job import JobConfig, JobError, JobReport, Progress, Stopped, dry_run, run_clip_job
from avprep.media.decode import read_clips
from avprep.media.frames import CROPS
from avprep.media.griffin_lim import ITERATIONS, MOMENTUM
from avprep.media.probe import Deadline, open_source
from avprep.media.synth import SynthError, write_scenes
from avprep.plan import PlanOptions
from avprep.reasons import MediaError, Reason
from avprep.runner import RunnerConfig, RunnerError, available_cpus
from avprep.shards.clips import VIDEO_CODECS, ShardError
from avprep.shards.ledger import STATUSES, Sums, finished_shards, read_ledgers
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store, open_store
from avprep.shards.verify import read_header, verify
from avprep.spec import ClipSpec, SpecError
from avprep.stages.clip import ClipOptions
from avprep.stages.invert_audio import InvertOptions, invert_to_wav, mel_stacks

DEFAULT = ClipSpec()
# Bytes a clip of the default spec, for the dry run's estimate: measured, see the README's table.
_BYTES_A_CLIP = {"raw": 3_240_000, "jpeg": 473_000, "h264": 152_000}


class _Refused(click.ClickException):
    """A sentence on stderr and exit code 2."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="avprep")
def main() -> None:
    """Turns sounding video into training data: clips of frames and mel spectrograms, exact in time."""


@main.command()
@click.option("--dataset", type=click.Choice(sorted(DATASETS)), required=True, help="Where labels come from.")
@click.option("--root", type=click.Path(path_type=Path), help="The media. [default: $AVPREP_DATA/DATASET]")
@click.option("--out", required=True, help="Folder, or a URI that pyarrow.fs opens, for the shards.")
@click.option("--split", help="One of the dataset's splits. [default: all]")
@click.option("--list", "csv", type=click.Path(path_type=Path), help="The list (csv, tsv, parquet), "
              "where it does not lie under the root.")
@click.option("--label-from-folder", is_flag=True, help="folder: the parent folder's name is the label.")
@click.option("--fps", type=int, default=DEFAULT.fps, show_default=True, help="Frames a second.")
@click.option("--frames", type=int, default=DEFAULT.frames, show_default=True, help="Frames a clip.")
@click.option("--size", type=int, default=DEFAULT.size, show_default=True, help="Pixels, height and width.")
@click.option("--sample-rate", type=int, default=DEFAULT.sample_rate, show_default=True, help="Hz, mono.")
@click.option("--n-fft", type=int, default=DEFAULT.n_fft, show_default=True, help="Samples, STFT window.")
@click.option("--hop", type=int, default=DEFAULT.hop, show_default=True, help="Samples between columns.")
@click.option("--n-mels", type=int, default=DEFAULT.n_mels, show_default=True, help="Mel bands.")
@click.option("--stride", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="From one clip's start to the next's. [default: a clip's length]")
@click.option("--clips-per-source", type=click.IntRange(1), help="At most, spread over it. [default: all]")
@click.option("--crop", type=click.Choice(CROPS), default="center", show_default=True,
              help="The largest centred square, all of it between black bars, or all of it stretched.")
@click.option("--limit", type=click.IntRange(1), help="Clips in all.")
@click.option("--shard-size", type=click.IntRange(1), default=256, show_default=True, help="Clips a shard.")
@click.option("--video-codec", type=click.Choice(VIDEO_CODECS), default="jpeg", show_default=True,
              help="How frames are stored.")
@click.option("--drop-silent", type=float, metavar="DB", help="Leave out clips below this RMS, e.g. -60.")
@click.option("--drop-static", type=click.FloatRange(0, 255), metavar="LEVEL",
              help="Leave out clips whose frames change less than this on average, e.g. 0.5.")
@click.option("--drop-black", type=click.FloatRange(0, 255), metavar="LEVEL",
              help="Leave out clips darker than this on average, e.g. 3.")
@click.option("--workers", type=click.IntRange(0), help="Ray workers; 0 = in this process. [default: CPUs]")
@click.option("--address", help="Join this Ray cluster ('auto', or host:port).")
@click.option("--source-timeout", type=click.FloatRange(min=0, min_open=True), default=600.0,
              show_default=True, metavar="SECONDS", help="Time limit for the clips of one source in a shard.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print clips, shards and disk; write nothing.")
@click.option("--rebuild", is_flag=True, help="Start the output over.")
@click.option("--only-failed", is_flag=True, help="Try failed sources of a finished run again.")
def clip(**options) -> None:
    """Clip videos into frame-aligned audio-video shards. To resume, run the same command again."""
    config, listing = _clip_config(options)
    _print_listing(options["dataset"], listing)
    progress = _BarProgress()
    try:
        if options["is_dry_run"]:
            _print_dry_run(dry_run(listing.sources, config, progress.hooks), config)
            return
        report = run_clip_job(listing.sources, config, progress.hooks)
    except (JobError, RunnerError) as error:
        raise _Refused(str(error)) from error
    except Stopped as stopped:
        progress.close()
        click.echo("Stopped; the shards in hand are finished. Run the same command again to go on.", err=True)
        sys.exit(128 + stopped.signal_number)
    except OSError as error:
        progress.close()
        raise click.ClickException(
            f"--out {config.out} cannot be written: {error.strerror or error}. No shard is half done; "
            f"when there is room, run the same command again."
        ) from error
    progress.close()
    _print_report(report, config)


def _clip_config(options: dict) -> tuple[JobConfig, Listing]:
    try:
        spec = ClipSpec(**{name: options[name] for name in DEFAULT.to_dict()})
        dataset = options["dataset"]
        root = options["root"] or default_root(dataset, os.environ)
        listing = list_dataset(dataset, DatasetOptions(
            root=root, split=options["split"], csv=options["csv"],
            label_from_folder=options["label_from_folder"],
        ))
    except (SpecError, DatasetError) as error:
        raise _Refused(str(error)) from error
    workers = options["workers"]
    if workers is None:
        workers = 0 if options["address"] else available_cpus()
    config = JobConfig(
        dataset=dataset,
        split=options["split"],
        root=listing.root.absolute(),
        out=options["out"] if "://" in options["out"] else os.path.abspath(options["out"]),
        plan=PlanOptions(
            spec=spec,
            stride_samples=_stride_samples(options["stride"], spec),
            clips_per_source=options["clips_per_source"],
            limit=options["limit"],
            shard_size=options["shard_size"],
        ),
        clip=ClipOptions(
            spec=spec, crop=options["crop"], video_codec=options["video_codec"],
            drop_silent_db=options["drop_silent"], drop_static=options["drop_static"],
            drop_black=options["drop_black"],
        ),
        runner=RunnerConfig(workers=workers, address=options["address"]),
        source_timeout_s=options["source_timeout"],
        rebuild=options["rebuild"],
        only_failed=options["only_failed"],
    )
    return config, listing


def _stride_samples(stride_s: float | None, spec: ClipSpec) -> int:
    if stride_s is None:
        return spec.samples
    samples = round(Fraction(stride_s).limit_denominator(1_000_000) * spec.sample_rate)
    if samples < 1:
        raise _Refused(f"--stride {stride_s:g} s is less than one sample of --sample-rate {spec.sample_rate}")
    return samples


class _BarProgress:
    """tqdm over clips, with clips/s and failures; planning shows a line of its own."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._failed = 0
        self._told = time.monotonic()
        self.hooks = Progress(self._planned, self._shard_done, self._worker_lost, self._planning)

    def _planning(self, sources: int) -> None:
        if time.monotonic() - self._told > 5:
            self._told = time.monotonic()
            click.echo(f"planning: {sources:,} headers read", err=True)

    def _planned(self, clips: int, shards: int) -> None:
        if clips:
            self._bar = tqdm(total=clips, unit="clip", desc=f"{shards:,} shards", smoothing=0.05)

    def _shard_done(self, sums: Sums) -> None:
        self._failed += sums.by_status["failed"]
        self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(sums.planned)

    def _worker_lost(self, what: str) -> None:
        tqdm.write(f"worker lost, {what}; its shard is tried again", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _print_listing(dataset: str, listing: Listing) -> None:
    click.echo(f"{dataset}: {len(listing.sources):,} sources under {listing.root}")
    for what, count in listing.notes.items():
        click.echo(f"  {count:,} {what}")


def _print_dry_run(shards, config: JobConfig) -> None:
    count, clips, sources, reasons = 0, 0, 0, Counter()
    for rows in shards:
        count += 1
        makes = [row for row in rows if not row.reason]
        clips += len(makes)
        sources += len({row.source for row in rows})
        reasons.update(row.reason for row in rows if row.reason)
    spec = config.clip.spec
    scale = spec.frames * spec.size**2 / (DEFAULT.frames * DEFAULT.size**2)
    size = clips * _BYTES_A_CLIP[config.clip.video_codec] * scale
    click.echo(f"plan: {clips:,} clips of {float(spec.seconds):g} s from {sources:,} sources "
               f"in {count:,} shards")
    for reason, number in sorted(reasons.items()):
        click.echo(f"  {number:,} sources give none: {reason} ({Reason(reason).meaning})")
    click.echo(f"disk: about {_bytes(size)} as {config.clip.video_codec}; nothing was written")


def _print_report(report: JobReport, config: JobConfig) -> None:
    if report.new_sources:
        click.echo(f"{report.new_sources:,} sources are new since the plan was made and not in it: "
                   f"--rebuild plans anew, another --out takes them apart")
    if not report.made:
        click.echo(f"nothing to do: all {report.shards:,} shards are there")
    else:
        rate = report.made_sums.planned / max(report.elapsed_s, 1e-9)
        click.echo(f"made {report.made:,} of {report.shards:,} shards in {report.elapsed_s:.1f} s, "
                   f"{rate:.1f} clips/s")
    _print_sums(report.sums)
    click.echo(f"{config.out}: avprep status, avprep verify and plain webdataset read it")


def _print_sums(sums: Sums) -> None:
    counts = ", ".join(f"{sums.by_status[status]:,} {status}" for status in STATUSES)
    click.echo(f"{sums.planned:,} planned = {counts}")
    for reason, count in sums.by_reason.most_common():
        click.echo(f"  {count:>9,} {reason}: {Reason(reason).meaning}")


@main.command("invert-audio")
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the .wav files.")
@click.option("--iterations", type=click.IntRange(1), default=ITERATIONS, show_default=True,
              help="Of Griffin-Lim: more is nearer and slower.")
@click.option("--momentum", type=click.FloatRange(0, 1.5), default=MOMENTUM, show_default=True,
              help="0 is plain Griffin-Lim.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Clips at once.")
@click.option("--limit", type=click.IntRange(1), help="Clips in all.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first phases.")
def invert_audio(source: str, out: Path, limit: int | None, **options) -> None:
    """Mel stacks (a clips directory, a shard or a .npy) to .wav; prints the mel PSNR of each round trip."""
    if options["device"].startswith("cuda") and not torch.cuda.is_available():
        raise _Refused(f"--device {options['device']}: there is no CUDA device here")
    try:
        spec, stacks = mel_stacks(source, None)
        psnrs = []
        for done in invert_to_wav(islice(stacks, limit), spec, out, InvertOptions(**options)):
            psnrs.append(done.mel_psnr)
            click.echo(f"{done.key}.wav  {done.mel_psnr:6.2f} dB")
    except (ShardError, SpecError, ValueError) as error:
        raise _Refused(f"{source}: {error}") from error
    if not psnrs:
        raise _Refused(f"{source}: no mel stacks there")
    click.echo(f"{len(psnrs):,} clips in {out}: mel PSNR mean {sum(psnrs) / len(psnrs):.2f} dB, "
               f"least {min(psnrs):.2f} dB")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the scenes.")
@click.option("--n", type=click.IntRange(1), default=24, show_default=True, help="How many scenes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same scenes.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=6.4, show_default=True, help="Of each.")
def synth(out: Path, n: int, seed: int, seconds: float) -> None:
    """Write procedural sounding scenes as mp4, a folder a class: class, event times and captions known."""
    try:
        with tqdm(total=n, unit="scene") as bar:
            write_scenes(out, n=n, seed=seed, seconds=seconds, on_scene=lambda _: bar.update())
    except SynthError as error:
        raise _Refused(str(error)) from error
    click.echo(f"{n} scenes in {out}: avprep clip --dataset manifest --root {out} --out CLIPS")


@main.command()
@click.argument("out")
@click.option("--all", "show_all", is_flag=True, help="Every failed row, not the first of each reason.")
@click.option("--try", "key", metavar="KEY", help="Make this one clip again, here and now; write nothing.")
def status(out: str, show_all: bool, key: str | None) -> None:
    """Print the ledger's sums and every failure's reason, with the command that tries it alone."""
    store = _existing(out)
    if key is not None:
        click.echo(_try_again(store, key))
        return
    sums, failed = Sums(), []
    for _, rows, _ in read_ledgers(store):
        sums.add(rows)
        failed += [row for row in rows if row.status == "failed"]
    plan = PlanReader(store)
    done = finished_shards(store)
    click.echo(f"{len(done):,} of {plan.shards:,} shards, {sums.planned:,} of {plan.clips:,} clips")
    _print_sums(sums)
    told: Counter[str] = Counter()
    for row in failed:
        told[row.reason] += 1
        if show_all or told[row.reason] <= 3:
            click.echo(f"  failed {row.source} at {row.start_s:.3f} s, {row.reason}: {row.detail}")
        elif told[row.reason] == 4:
            click.echo(f"  ... more of {row.reason}: avprep status {out} --all")
    if failed:
        click.echo(f"to try one alone: avprep status {out} --try {failed[0].key}\n"
                   f"to try all again after a fix: the same avprep clip command with --only-failed")


@main.command("verify")
@click.argument("out")
def verify_command(out: str) -> None:
    """Re-read every shard against its ledger and checksums; exit 1 on any damage, naming it."""
    store = _existing(out)
    done = finished_shards(store)
    with tqdm(total=len(done), unit="shard", leave=False) as bar:
        found = 0
        for damage in verify(store, on_shard=lambda _: bar.update()):
            found += 1
            tqdm.write(f"DAMAGED {damage}")
    clips = sum(len(rows) for _, rows, _ in read_ledgers(store)) if not found else 0
    if found:
        click.echo(f"{found:,} damaged in {len(done):,} shards. Remove a damaged shard's ledger file and run "
                   f"the same avprep clip command: it makes that shard again.")
        sys.exit(1)
    click.echo(f"{len(done):,} shards, {clips:,} ledger rows: all as written")


def _try_again(store: Store, key: str) -> str:
    """Decodes one planned clip and says what came of it."""
    header = read_header(store)
    plan = PlanReader(store)
    row = next((r for i in range(plan.shards) for r in plan.rows(i) if r.key == key), None)
    if row is None:
        raise _Refused(f"--try {key}: the plan of {store.uri} has no such clip")
    spec = ClipSpec.from_dict(header["spec"])
    path = Path(header["root"]) / row.source
    began = time.monotonic()
    try:
        with open_source(path) as source:
            outcome = next(read_clips(source, [row.start], spec=spec, crop=header["options"]["crop"],
                                      deadline=Deadline(None)))
        if isinstance(outcome, tuple):
            raise outcome[1]
    except MediaError as error:
        return f"{path} at {row.start / spec.sample_rate:.3f} s: {error}"
    return (f"{path} at {row.start / spec.sample_rate:.3f} s: read in {time.monotonic() - began:.2f} s, "
            f"{outcome.sound.sounding_s:.3f} s of sound, residual {outcome.residual_ms:.1f} ms")


def _existing(out: str) -> Store:
    store = open_store(out)
    try:
        read_header(store)
        PlanReader(store)
    except (ShardError, FileNotFoundError) as error:
        raise _Refused(str(error)) from error
    return store


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


