"""The main job from nothing: scenes, clips, a check, and the sound back from the mel stacks."""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.steps import run

OUT = Path("demo-out")

STEPS = (
    ("scenes: sounding mp4 files whose events are known",
     f"avprep synth --out {OUT}/scenes --n 20 --seed 0"),
    ("clips: 16 frames at 256 x 256 and the mel stack that sounds during them, in shards",
     f"avprep clip --dataset manifest --root {OUT}/scenes --out {OUT}/clips --workers 2 --shard-size 20"),
    ("status: every planned clip is written, filtered or failed",
     f"avprep status {OUT}/clips"),
    ("verify: every byte as written",
     f"avprep verify {OUT}/clips"),
    ("the sound back from eight mel stacks",
     f"avprep invert-audio {OUT}/clips --out {OUT}/wav --limit 8"),
    ("the report: one page with counts, histograms and clips that play",
     f"avprep report {OUT}/clips --to {OUT}/report"),
)


def main() -> int:
    code = run(STEPS)
    if not code:
        print(f"\nLook at {OUT}/scenes/*/*.mp4 (with sound), {OUT}/clips/shards/*.tar (plain WebDataset: "
              f"tar tf) and {OUT}/wav/*.wav.")
        print(f"The report, to open in a browser: {(OUT / 'report' / 'index.html').absolute()}")
    return code


if __name__ == "__main__":
    sys.exit(main())
