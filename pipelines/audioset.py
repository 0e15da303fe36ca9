"""AudioSet (527 labels, several per clip): a published choice of its clips, and from it to generated clips.

The paper trains on '100k high-quality videos selected from AudioSet' and publishes neither the list nor its
criterion. This recipe's choice can be looked at, repeated and published:

    pool             the unbalanced training list; two clips of each video; missing.tsv names what is gone
    label quality    labels that raters confirmed in less than 7 of 10 segments are left out
    content          not silent, not distorted, not dark, not a still picture, little written text
    media            at least 240 lines, no cut inside, no wide bars, every frame near its instant
    correspondence   what is heard comes with what is seen to move
    leakage          no video of the evaluation list, no copies
    balanced draw    at most 400 clips of each label, 100,000 in all, by a seed
    the list         chosen.tsv: source, start and key of every chosen clip

Under $AVPREP_DATA/audioset, beside the lists: qa_true_counts.csv and eval_segments.csv. See `pipelines.paper`
for the other steps.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.paper import main
from pipelines.steps import Step

CONTENT = (
    "loudness_lufs > -45 and silent_share < 0.5 and clipped_share < 0.01 and luma > 0.05 and "
    "frozen_share < 0.8 and text_share < 0.05"
)
MEDIA = (
    "source_height >= 240 and cut == 0 and bars < 0.3 and -100 < residual_ms < 100 and "
    "sounding_share > 0.99"
)
CORRESPONDENCE = "onsets >= 1 and motion_peaks >= 1 and av_align > 0.1"


def choice(out: Path) -> Sequence[Step]:
    query = " and ".join((CONTENT, MEDIA, CORRESPONDENCE))
    eval_list = Path(os.environ.get("AVPREP_DATA", "data")) / "audioset" / "eval_segments.csv"
    return (
        ("scores of every clip: sound, picture, motion, written text, prints",
         f"avprep score {out}/clips"),
        ("the choice: content, media, correspondence; no evaluation video, no copies; a balanced draw",
         f"avprep select {out}/clips {shlex.quote(query)} --exclude-ids {shlex.quote(str(eval_list))} "
         f"--near-duplicates 60 --per-label 400 --limit 100000 --order random --seed 0 --name chosen "
         f"--ids {out}/chosen.tsv --rebuild"),
        ("the report: what each step removed, and chosen clips that play",
         f"avprep report {out}/clips --to {out}/report"),
    )


if __name__ == "__main__":
    sys.exit(main(
        "audioset",
        clip_options="--split unbalanced_train --min-label-quality 0.7 --clips-per-source 2 "
                     "--missing {out}/missing.tsv --video-codec h264",
        mdsa_steps=(160_000, 40_000),
        dit_steps=400_000,
        label="Rain",
        choice=choice,
    ))
