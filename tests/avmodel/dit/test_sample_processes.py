"""`avmodel sample` of two processes by torchrun on gloo: the bytes of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avmodel.data import LatentData
from avmodel.dit.train import train_dit
from avprep.shards.lock import lock
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from tests.avmodel.dit.made_training import config
from tests.avmodel.dit.test_sample import digest

TOP = Path(__file__).parents[3]
SHARD_SIZE, CLIPS = 5, 8
NO_FAILURE = (-1, 0)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def command(latents, mdsa, tmp_path_factory) -> list[str]:
    """Without `--out`. Batches of 2: both processes have some of each shard, not in the order of ranks."""
    out = tmp_path_factory.mktemp("dit")
    train_dit(config(latents, out, steps=2, eval_every=2, mdsa=mdsa))
    files = f"--dit {out / 'dit.pt'} --mdsa {mdsa}"
    return f"sample {files} --n {CLIPS} --batch-size 2 --steps 3 --device cpu".split()


def run(processes: int, arguments: list[str], failure: tuple[int, int] = NO_FAILURE):
    """In `processes` processes; that of rank `failure[0]` cannot write its clip of number `failure[1]`."""
    alone = [sys.executable, "-m", "tests.avmodel.dit.sample_driver"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
    ]
    launcher = alone if processes == 1 else [*torchrun, *alone[2:]]
    return subprocess.run(
        [*launcher, *map(str, (SHARD_SIZE, *failure)), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=TOP,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOP)},
    )


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> dict[str, str]:
    """The files of one process, by their hashes."""
    out = tmp_path_factory.mktemp("samples") / "whole"
    done = run(1, [*command, "--out", str(out)])
    assert done.returncode == 0, done.stderr[-3000:]
    return digest(out)


def test_two_processes_give_the_bytes_of_one(command, whole, tmp_path):
    done = run(2, [*command, "--out", str(tmp_path)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert digest(tmp_path) == whole
    assert not list(verify(open_store(tmp_path))) and len(LatentData(tmp_path)) == CLIPS
    lines = done.stdout.splitlines()
    assert sorted(line.split(".mp4")[0] for line in lines if ".mp4  " in line) == sorted(
        name.removesuffix(".mp4") for name in whole if name.endswith(".mp4")
    )
    assert len([line for line in lines if "sheet.png shows them" in line]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("first", "failure", "second"), [(2, (1, 3), 1), (1, (0, 6), 2)])
def test_a_run_that_failed_goes_on_with_another_number_of_processes(
    command, whole, tmp_path, first, failure, second
):
    """The failure is in the second shard. Both processes end; nothing stands in the folder of samples."""
    failed = run(first, [*command, "--out", str(tmp_path)], failure)
    assert failed.returncode != 0 and "No space left on device" in failed.stderr + failed.stdout
    assert ("another process cannot make its clips" in failed.stderr) == (first == 2)
    assert not list(tmp_path.glob("*.mp4"))
    done = run(second, [*command, "--out", str(tmp_path)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{SHARD_SIZE} of {CLIPS} clips are made already" in done.stdout
    assert digest(tmp_path) == whole


@pytest.mark.slow
def test_a_folder_that_another_run_writes_into_ends_both_processes(command, tmp_path):
    with lock(open_store(tmp_path)):
        done = run(2, [*command, "--out", str(tmp_path)])
    assert done.returncode != 0 and "is writing there" in done.stderr.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
