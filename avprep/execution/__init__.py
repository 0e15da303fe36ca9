"""Runs a stage over tasks: in this process, in a child process, or on Ray.

A task is small (paths and spans, never media), so it runs anywhere. Errors of a clip are rows in the ledger
and never reach this package. What does reach it is a lost worker process, which is retried, or an exception
of the machine (a full disk), which ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from avprep.execution.base import (
    MakeWorker,
    Pool,
    PoolConfig,
    Runner,
    RunnerConfig,
    RunnerError,
    Worker,
    WorkerLost,
    available_cpus,
)

__all__ = [
    "MakeWorker",
    "Pool",
    "PoolConfig",
    "Runner",
    "RunnerConfig",
    "RunnerError",
    "Worker",
    "WorkerLost",
    "available_cpus",
    "open_pool",
    "open_runner",
]


@contextmanager
def open_runner(config: RunnerConfig) -> Iterator[Runner]:
    """The runner that the config asks for. It ends with the block, and so does the Ray that it started.

    Raises:
        RunnerError: Ray cannot be started or attached to.
    """
    from avprep.execution import local

    if config.uses_ray:
        from avprep.execution.ray import open_ray_runner

        with open_ray_runner(config) as runner:
            yield runner
    elif config.isolated:
        with closing(local.ChildRunner()) as runner:
            yield runner
    else:
        yield local.InProcessRunner()


@contextmanager
def open_pool(config: PoolConfig, make_worker: MakeWorker) -> Iterator[Pool]:
    """The workers that the config asks for. They end with the block.

    Raises:
        RunnerError: there is no such device, there are fewer GPUs than workers, or Ray does not answer.
    """
    if config.uses_ray:
        from avprep.execution.ray import open_ray_pool

        with open_ray_pool(config, make_worker) as ray_pool:
            yield ray_pool
    else:
        from avprep.execution.local import open_local_pool

        with open_local_pool(config, make_worker) as local_pool:
            yield local_pool
