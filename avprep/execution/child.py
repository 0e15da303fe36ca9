"""A child process that runs calls one after the other, for runs without Ray: a native crash ends the child,
not the run.

The child is a new interpreter. A fork would start faster, but a copy of a process whose libraries have
threads (Ray, object stores, torch) crashes now and then, and healthy files would be blamed for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class ChildDied(Exception):
    """The process ended during a call; `detail` says by which signal or with which exit code."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Child:
    """Starts its process at the first call, and a new one at the first call after that one has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def call(self, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """`function(argument)`, computed in the child.

        Raises:
            ChildDied: the process ended before it answered.
            Exception: whatever the function raises.
        """
        if self._process is None or self._pipe is None:
            self._process, self._pipe = _start()
        try:
            self._pipe.send((function, argument))
            is_result, outcome = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ChildDied(self._end(self._process, self._pipe)) from None
        if is_result:
            return outcome
        raise outcome

    def close(self) -> None:
        """Ends the process, with what it has in hand."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._end(self._process, self._pipe)

    def _end(self, process: subprocess.Popen[bytes], pipe: Connection) -> str:
        """Forgets a process that has ended or is about to. Returns how it ended."""
        self._process = self._pipe = None
        pipe.close()
        code = process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _start() -> tuple[subprocess.Popen[bytes], Connection]:
    """A new child, and this end of its pipe."""
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "avprep.execution.child", str(theirs.fileno()), str(os.getpid())]
    # A process group of its own: a signal to the parent's (Ctrl-C, timeout, Slurm) is the parent's to
    # answer, which lets the call in hand finish.
    # This code and no other: where it was started, another version of it may lie.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0, env=environment)
    theirs.close()  # the child holds the only other end: its death is the end of the pipe
    ours.send(sys.path)
    return process, ours


def serve(pipe: Connection, parent: int) -> None:
    """The child's whole life: it is ended from outside, or with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.path[:] = pipe.recv()
    while os.getppid() == parent:
        function, argument = pipe.recv()
        try:
            outcome = True, function(argument)
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            error.add_note(f"In the child process: {traceback.format_exc()}")
            outcome = False, error
        pipe.send(outcome)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
