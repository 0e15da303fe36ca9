"""Runs a recipe: titled commands, one after the other. Each resumes by itself, so a recipe does too."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Step = tuple[str, str]  # title, command


def run(steps: Sequence[Step]) -> int:
    """Runs `(title, command)` in order, in this environment. Returns the first exit code that is not 0."""
    commands = Path(sys.executable).parent
    for number, (title, command) in enumerate(steps, 1):
        print(f"\n{number}. {title}\n$ {command}", flush=True)
        program, *arguments = shlex.split(command)
        done = subprocess.run([str(commands / program), *arguments], check=False)
        if done.returncode:
            return done.returncode
    return 0


def folder_from_arguments(usage: str) -> Path:
    """The one argument of a recipe: the folder for all it makes."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(usage, file=sys.stderr)
        raise SystemExit(2)
    return Path(sys.argv[1])
