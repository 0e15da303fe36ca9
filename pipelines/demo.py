"""The main job from nothing: scenes, clips, a check, and the sound back from the mel stacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OUT = Path("demo-out")

STEPS = (
    ("1. scenes: sounding mp4 files whose events are known",
     f"avprep synth --out {OUT}/scenes --n 20 --seed 0"),
    ("2. clips: 16 frames at 256 x 256 and the mel stack that sounds during them, in shards",
     f"avprep clip --dataset manifest --root {OUT}/scenes --out {OUT}/clips --workers 2 --shard-size 20"),
    ("3. status: every planned clip is written, filtered or failed",
     f"avprep status {OUT}/clips"),
    ("4. verify: every byte as written",
     f"avprep verify {OUT}/clips"),
    ("5. the sound back from eight mel stacks",
     f"avprep invert-audio {OUT}/clips --out {OUT}/wav --limit 8"),
)


def main() -> int:
    """Runs the steps. Returns 0, or the first exit code that is not."""
    commands = Path(sys.executable).parent
    for title, command in STEPS:
        print(f"\n{title}\n$ {command}", flush=True)
        done = subprocess.run([str(commands / "avprep"), *command.split()[1:]], check=False)
        if done.returncode:
            return done.returncode
    print(f"\nLook at {OUT}/scenes/*/*.mp4 (with sound), {OUT}/clips/shards/*.tar (plain WebDataset: "
          f"tar tf) and {OUT}/wav/*.wav.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
