"""A Ray cluster: one that is started on this machine for a run, or one that is attached to.

Whoever reaches a Ray cluster can run any program on it. A cluster that is started here therefore listens on
the loopback interface only, asks for a token, and keeps its files in a folder that no other user can open.
For a cluster that is attached to, all this is up to its owner: see `RunnerConfig`.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from avprep.execution.base import RunnerError

_PREFIX, _LOCK = "avprep-", "run.lock"  # of the folder for Ray's files
_MAX_FOLDER = 40  # characters: a socket's path has 107, and Ray's own part of it takes up to 65
_REMOVE_S = 10.0  # Ray's processes end, and write their last lines, for a while after the shutdown
# Read by Ray when it is imported, and then by each of its processes. '0' makes 127.0.0.1 this node's address,
# whatever the platform; `_node_ip_address` does not, as Ray translates it into the machine's own address.
_ANY_INTERFACE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def open_cluster(address: str | None, *, workers: int | None, cpus: int, store_bytes: int) -> Iterator[None]:
    """Attaches to the cluster at `address`, or to one that is started here and ends with the block.

    `cpus` and `store_bytes` are what a cluster that is started has. `workers` is for messages only.

    Raises:
        RunnerError: Ray cannot be started or attached to.
    """
    with ExitStack() as ends:
        if address is None:
            folder = ends.enter_context(_private_folder())
            ends.enter_context(_environment(folder))
            _start(folder, workers, cpus, store_bytes, ends)
        else:
            _attach(address, ends)
        yield


def _attach(address: str, ends: ExitStack) -> None:
    try:
        _init(ends, address=address)
    except _ray_errors() as error:
        raise RunnerError(
            f"address = {address}: Ray does not answer ({error}). If the cluster asks for a token, set "
            f"RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on its nodes."
        ) from error


def _start(folder: Path, workers: int | None, cpus: int, store_bytes: int, ends: ExitStack) -> None:
    import ray

    try:
        _init(
            ends,
            address="local",  # by default Ray attaches to a cluster of anyone's on this machine
            include_dashboard=False,
            num_cpus=cpus,
            object_store_memory=store_bytes,
            _temp_dir=str(folder / "ray"),
        )
    except _ray_errors() as error:
        raise RunnerError(f"workers = {workers}: Ray does not start ({error})") from error
    node = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(node).is_loopback:
        raise RunnerError(
            f"workers = {workers}: Ray listens on {node}, which other machines may reach, instead of "
            f"127.0.0.1. Set {_ANY_INTERFACE}=0 before Ray is imported."
        )


def _ray_errors() -> tuple[type[Exception], ...]:
    """What ray.init raises where there is no cluster, or none can be started."""
    import ray

    return ray.exceptions.RayError, OSError, RuntimeError, ValueError


def _init(ends: ExitStack, **options: Any) -> None:
    """Connects this process; `ends` disconnects it, and ends what was started for it."""
    import ray

    ends.callback(ray.shutdown)  # of a start that fails half way too
    with _sigterm_kept():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """How a run answers SIGTERM is its own, during the block and after it.

    ray.init replaces the handler twice: in Python, by one that exits with the code 15, and below Python, by
    one that prints a stack and aborts at the second signal. The first is kept from it; the second goes when
    the caller's handler is set again.
    """
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    set_handler = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = set_handler
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


# --- a cluster that is started here ------------------------------------------------------------------------


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can open, removed at the end. Those of killed runs are removed first.

    Ray makes its own folders in it readable and writable for everyone, hence one around them. A umask would
    do as much for the files, but the workers would inherit it and write the run's output with it.

    Raises:
        RunnerError: there is no place for it with a path short enough for sockets.
    """
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    usable = [p for p in places if len(p) <= _MAX_FOLDER - len("/avprep-12345678") and os.access(p, os.W_OK)]
    if not usable:
        raise RunnerError(
            f"Ray needs a writable folder for temporary files with a path of at most "
            f"{_MAX_FOLDER - len('/avprep-12345678')} characters, and none of {', '.join(places)} is one. "
            f"Set TMPDIR, or use workers = 0."
        )
    for place in usable:
        _remove_abandoned(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=usable[0]))  # with mode 0700
    try:
        with _owned(folder):
            yield folder
    finally:
        _remove(folder)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with this process. It gets its name when it is held: another run
    may look for abandoned folders at any time."""
    unnamed = folder / f"{_LOCK}.new"
    with open(unnamed, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.replace(unnamed, folder / _LOCK)
        yield


def _remove_abandoned(place: str) -> None:
    """Removes this user's folders whose runs have ended without removing them, as by SIGKILL."""
    with os.scandir(place) as entries:
        folders = [entry for entry in entries if entry.name.startswith(_PREFIX)]
    for folder in folders:
        try:
            if not folder.is_dir(follow_symlinks=False):
                continue
            found = folder.stat(follow_symlinks=False)
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
                continue  # another user could have put anything there
            with open(os.path.join(folder.path, _LOCK)) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder.path, ignore_errors=True)
        except OSError:  # its run goes on, or has just begun, or another run removes it
            continue


def _remove(folder: Path) -> None:
    until = time.monotonic() + _REMOVE_S
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)  # a process that is about to end may add a file meanwhile
        time.sleep(0.05)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """The environment that Ray's processes inherit: loopback only, and a token for this user only."""
    token = folder / "token"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    ours = {
        _ANY_INTERFACE: "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_AUTH_TOKEN": None,  # would take precedence
    }
    before = {name: os.environ.get(name) for name in ours}
    _set_environment(ours)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: dict[str, str | None]) -> None:
    """Sets the variables, or unsets those that are None, and has this process's Ray read them anew."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    import ray  # not before the variables are set; this costs a second, which a run without Ray does not pay

    ray._private.ray_constants.ENABLE_RAY_CLUSTER = os.environ.get(_ANY_INTERFACE) != "0"
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
