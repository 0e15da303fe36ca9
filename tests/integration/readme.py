"""What the README promises to print: found in its text, run, and written back.

`python -m tests.integration.readme` writes the outputs of the README anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
PYTHON = re.compile(r"```python\n(?P<code>.*?)```\n```text\n(?P<output>.*?)```", re.DOTALL)
CONSOLE = re.compile(r"```console\n(?P<session>.*?)```", re.DOTALL)
# The commands of this checkout; `avprep clip` without Ray, which prints the same and starts faster.
SHELL = f"""
avmodel() {{ {sys.executable} -m avmodel "$@"; }}
avprep() {{ if [ "$1" = clip ]; then set -- "$@" --workers 0; fi; {sys.executable} -m avprep "$@"; }}
"""


def python_block(text: str) -> re.Match[str]:
    """The README's Python example and what it prints."""
    (found,) = PYTHON.finditer(text)
    return found


def sessions(text: str) -> list[re.Match[str]]:
    return list(CONSOLE.finditer(text))


def commands_of(session: str) -> list[str]:
    return [line.removeprefix("$ ") for line in session.splitlines() if line.startswith("$ ")]


def run_python(code: str, folder: Path) -> str:
    """What the code prints when it is pasted into a file."""
    (folder / "pasted.py").write_text(code)
    return _stdout([sys.executable, "pasted.py"], folder)


def run_command(command: str, folder: Path) -> str:
    """What a shell prints for it; progress bars go to stderr."""
    return _stdout(["bash", "-ec", SHELL + command], folder)


def _stdout(command: list[str], folder: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(TOP)}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout.replace(f"{folder}/", "")


def without_timings(text: str) -> str:
    return re.sub(r"\d+(\.\d+)? (s|clips/s)\b", r"N \2", text)


def rewritten(text: str, folder: Path) -> str:
    """The text with the outputs as they are now."""
    block = python_block(text)
    output = run_python(block["code"], folder)
    text = text[: block.start("output")] + output + text[block.end("output") :]
    for number in range(len(sessions(text))):
        match = sessions(text)[number]
        session = "".join(f"$ {c}\n{run_command(c, folder)}" for c in commands_of(match["session"]))
        text = text[: match.start("session")] + session + text[match.end("session") :]
    return text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        README.write_text(rewritten(README.read_text(), Path(made).resolve()))
