"""A child process that runs calls one after the other, for runs without Ray: a native crash ends the child,
not the run.

The child is forked, as the workers of torch's DataLoader are: that takes milliseconds, while a new
interpreter takes seconds to import torch. Libraries whose threads hold locks (the clients of object stores)
must not be forked; `start_method` 'spawn' starts a new interpreter instead.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Literal, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")
StartMethod = Literal["fork", "spawn"]

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class ChildDied(Exception):
    """The process ended during a call; `detail` says by which signal or with which exit code."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Child:
    """Starts its process at the first call, and a new one at the first call after that one has died."""

    def __init__(self, start_method: StartMethod) -> None:
        self._context = multiprocessing.get_context(start_method)
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def call(self, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """`function(argument)`, computed in the child.

        Raises:
            ChildDied: the process ended before it answered.
            Exception: whatever the function raises.
        """
        if self._process is None:
            self._start()
        try:
            self._pipe.send((function, argument))
            is_result, outcome = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ChildDied(self._end()) from None
        if is_result:
            return outcome
        raise outcome

    def close(self) -> None:
        """Ends the process, with what it has in hand."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()  # the child holds the only other end: its death is the end of the pipe

    def _end(self) -> str:
        """Forgets a process that has ended or is about to. Returns how it ended."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        pipe.close()
        process.join()
        code = process.exitcode
        process.close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _serve(pipe: Connection, parent: int) -> None:
    """The child's whole life: it is ended from outside, or with its parent."""
    # A signal to the parent's process group (Ctrl-C, timeout, Slurm) is the parent's to answer: it lets the
    # call in hand finish.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    while os.getppid() == parent:
        function, argument = pipe.recv()
        try:
            outcome = True, function(argument)
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            error.add_note(f"In the child process: {traceback.format_exc()}")
            outcome = False, error
        pipe.send(outcome)
