"""Trainings of two processes by torchrun on gloo: the same as of one, to rounding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from avmodel.cli import main
from avmodel.config import MDSA_PRESETS
from avmodel.data import LatentData, Steps
from avmodel.mdsa.checkpoint import mdsa_payload, read_codec_header
from avmodel.mdsa.model import MDSA
from avmodel.training.checkpoints import load_checkpoint, save_checkpoint
from avmodel.training.machine import DistributedContext
from avmodel.training.trainer import Trainer
from avprep.shards.order import ClipOrder
from tests.avmodel.dit.made_training import losses
from tests.avmodel.made_latents import write_latents
from tests.made_clips import TINY, write_clips

TOP = Path(__file__).parents[3]
COMMON = "--device cpu --loader-workers 0 --log-every 1 --lr 1e-3"
ROUNDING = 2e-3


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save_checkpoint(folder / "mdsa.pt", mdsa_payload(MDSA(MDSA_PRESETS["tiny"]), TINY, 0))
    return write_latents(folder / "latents", read_codec_header(folder / "mdsa.pt"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", sources=6)


def one(text: str) -> None:
    done = CliRunner().invoke(main, f"{text} {COMMON}".split())
    assert done.exit_code == 0, done.output


def two(text: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "avmodel", *text.split(), *COMMON.split()],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOP)},
    )


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-3000:]


def assert_close(a: Path, b: Path, count: int) -> None:
    first, second = losses(a), losses(b)
    assert [step for step, _ in first] == [step for step, _ in second] == list(range(1, count + 1))
    assert [loss for _, loss in first] == pytest.approx([loss for _, loss in second], rel=ROUNDING)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)])
def test_a_steps_clips_are_the_same_however_they_are_divided(world, accumulate):
    """And so are the micro-batches by whose number random numbers are drawn."""
    order = ClipOrder([50], seed=3, shares=None)
    whole = next(iter(Steps(order, 8, first=5)))
    size = 8 // (world * accumulate)
    found: dict[int, list[int]] = {}
    for rank in range(world):
        batches = iter(Steps(order, size, first=5 * accumulate, rank=rank, world=world))
        process = SimpleNamespace(context=DistributedContext(torch.device("cpu"), rank, world))
        for i in range(accumulate):
            found[Trainer.number_of(process, i)] = next(batches)
    assert [clip for number in sorted(found) for clip in found[number]] == whole


@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", ["--one-time", pytest.param("--stream-times", marks=pytest.mark.slow)])
def test_a_dit_of_two_processes_has_the_losses_of_one_and_goes_on_with_either(latents, tmp_path, times):
    run = f"train-dit --latents {latents} --preset tiny --batch-size 8 --warmup-steps 2 --ema 0.9 {times}"
    one(f"{run} --out {tmp_path}/one --steps 9")
    check(two(f"{run} --out {tmp_path}/mixed --steps 3"))
    one(f"{run} --out {tmp_path}/mixed --steps 6")
    check(two(f"{run} --out {tmp_path}/mixed --steps 9"))
    assert_close(tmp_path / "one", tmp_path / "mixed", 9)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_mdsa_of_two_processes_has_the_losses_of_one_and_goes_on_with_either(clips, tmp_path):
    """Noise and frames are drawn by micro-batch: two processes share those of two micro-batches of one. The
    discriminators are left out, whose BatchNorm sees a process's clips alone on a CPU."""
    run = f"train-mdsa --clips {clips} --preset tiny --lpips none --no-adversarial --batch-size 4"
    run += " --eval-clips 2 --stage1-steps 3 --modality-dropout 0.3"
    one(f"{run} --out {tmp_path}/one --accumulate 2 --stage2-steps 6")
    check(two(f"{run} --out {tmp_path}/mixed --accumulate 1 --stage2-steps 1"))
    one(f"{run} --out {tmp_path}/mixed --accumulate 2 --stage2-steps 4")
    check(two(f"{run} --out {tmp_path}/mixed --accumulate 1 --stage2-steps 6"))
    assert_close(tmp_path / "one", tmp_path / "mixed", 9)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_damage_that_the_second_process_finds_ends_the_run_with_a_checkpoint(latents, tmp_path):
    """The damaged shard is in the second process's share of the checksums; its step is then not begun by
    either."""
    folder = tmp_path / "latents"
    shutil.copytree(latents, folder)
    shard = folder / "shards" / "latents-000001.tar"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # in the padding at the end: no latent is damaged
    shard.write_bytes(bytes(data))
    assert len(LatentData(folder)) == len(LatentData(latents))
    run = f"train-dit --latents {folder} --preset tiny --batch-size 8 --out {tmp_path}/out"
    done = two(f"{run} --steps 100000 --checkpoint-every 1000000 --eval-every 1000000")
    assert done.returncode != 0
    assert "latents-000001.tar" in done.stderr and "another process cannot read its data" in done.stderr
    step = load_checkpoint(tmp_path / "out" / "state.pt", "dit training state")["step"]
    assert step == (losses(tmp_path / "out") or [(0, 0.0)])[-1][0] < 100000


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers(clips, tmp_path):
    run = f"train-mdsa --clips {clips} --preset tiny --out {tmp_path} --batch-size 4 --accumulate 3"
    done = CliRunner().invoke(main, run.split())
    assert done.exit_code == 2
    assert "--batch-size 4: the samples of a step cannot be divided equally by 1 processes" in done.output
    assert "with --accumulate 3" in done.output
    assert torch.distributed.is_initialized() is False
