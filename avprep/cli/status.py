"""`avprep status` and `avprep verify`: what an output holds, and whether it is as it was written."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from avprep.cli.common import Refused, existing, print_sums
from avprep.execution.child import Child, ChildDied
from avprep.media.decode import FailedClip
from avprep.media.frames import Crop
from avprep.media.limits import Deadline
from avprep.reasons import MediaError, Reason
from avprep.shards.ledger import Sums, finished_shards, read_ledgers
from avprep.shards.plan import PlanReader
from avprep.shards.store import Store
from avprep.shards.verify import kind_of, read_header, verify
from avprep.spec import ClipSpec
from avprep.stages.clip import read_source

_COMMANDS = {"clips": "avprep clip", "latents": "avprep encode"}  # that makes an output of the kind


@click.command()
@click.argument("out")
@click.option("--all", "show_all", is_flag=True, help="Every failed row, not the first of each reason.")
@click.option("--try", "key", metavar="KEY", help="Make this one clip again, here and now; write nothing.")
def status(out: str, show_all: bool, key: str | None) -> None:
    """Print the ledger's sums and every failure's reason, with the command that tries it alone."""
    store = existing(out)
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
    print_sums(sums)
    told: Counter[str] = Counter()
    for row in failed:
        told[row.reason] += 1
        if show_all or told[row.reason] <= 3:
            click.echo(f"  failed {row.source} at {row.start_s:.3f} s, {row.reason}: {row.detail}")
        elif told[row.reason] == 4:
            click.echo(f"  ... more of {row.reason}: avprep status {out} --all")
    if failed and kind_of(read_header(store)) == "clips":
        click.echo(f"to try one alone: avprep status {out} --try {failed[0].key}\n"
                   f"to try all again after a fix: the same avprep clip command with --only-failed")


@click.command("verify")
@click.argument("out")
def verify_command(out: str) -> None:
    """Re-read every shard against its ledger and checksums; exit 1 on any damage, naming it."""
    store = existing(out)
    done = finished_shards(store)
    with tqdm(total=len(done), unit="shard", leave=False, disable=None) as bar:
        found = 0
        for damage in verify(store, on_shard=lambda _: bar.update()):
            found += 1
            tqdm.write(f"DAMAGED {damage}")
    clips = sum(len(rows) for _, rows, _ in read_ledgers(store)) if not found else 0
    if found:
        command = _COMMANDS[kind_of(read_header(store))]
        click.echo(f"{found:,} damaged in {len(done):,} shards. Remove a damaged shard's ledger file and run "
                   f"the same {command} command: it makes that shard again.")
        sys.exit(1)
    click.echo(f"{len(done):,} shards, {clips:,} ledger rows: all as written")


def _try_again(store: Store, key: str) -> str:
    """Decodes one planned clip and says what came of it."""
    header = read_header(store)
    if kind_of(header) != "clips":
        raise Refused(f"--try {key}: {store.uri} holds {kind_of(header)}; it is a clip that is tried again: "
                      f"avprep status CLIPS --try KEY")
    plan = PlanReader(store)
    row = next((r for i in range(plan.shards) for r in plan.rows(i) if r.key == key), None)
    if row is None:
        raise Refused(f"--try {key}: the plan of {store.uri} has no such clip")
    spec = ClipSpec.from_dict(header["spec"])
    path = Path(header["root"]) / row.source
    began = time.monotonic()
    try:
        # In a process of its own: a clip that is tried may be one that crashes it.
        with closing(Child()) as child:
            told = child.call(partial(_read_one, row.start, spec, header["options"]["crop"]), str(path))
        told = f"read in {time.monotonic() - began:.2f} s, {told}"
    except MediaError as error:
        told = str(error)
    except ChildDied as death:
        told = f"{Reason.CRASHED}: decoding it ended the process ({death.detail})"
    return f"{path} at {row.start / spec.sample_rate:.3f} s: {told}"


def _read_one(start: int, spec: ClipSpec, crop: Crop, path: str) -> str:
    """Reads one clip. Returns what was found; raises MediaError for what keeps it from being one."""
    clip = next(read_source(path, [start], spec=spec, crop=crop, deadline=Deadline(None)))
    if isinstance(clip, FailedClip):
        raise clip.error
    return f"{clip.sound.sounding_s:.3f} s of sound, residual {clip.residual_ms:.1f} ms"
