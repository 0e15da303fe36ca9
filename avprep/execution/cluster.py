"""A Ray cluster: one that is started on this machine for a run, or one that is attached to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from avprep.execution.base import RunnerError


@contextmanager
def open_cluster(address: str | None, *, workers: int | None, cpus: int, store_bytes: int) -> Iterator[None]:
    """Attaches to the cluster at `address`, or to one that is started here and ends with the block.

    `cpus` and `store_bytes` are what a cluster that is started has. `workers` is for messages only.

    Raises:
        RunnerError: Ray cannot be started or attached to.
    """
    import ray  # costs a second; not paid in-process

    at_sigterm = signal.getsignal(signal.SIGTERM)
    own = {"include_dashboard": False, "num_cpus": cpus, "object_store_memory": store_bytes}
    try:
        ray.init(
            # 'local': by default Ray attaches to a cluster that another program has started on this machine.
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            **(own if address is None else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"workers = {workers}" if address is None else f"address = {address}"
        raise RunnerError(
            f"{where}: Ray does not answer ({error}). Where the cluster asks for a token, "
            f"RAY_AUTH_MODE=token must be set here as it is there."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)  # ray.init takes it; how a run stops is the caller's
    try:
        yield
    finally:
        ray.shutdown()
