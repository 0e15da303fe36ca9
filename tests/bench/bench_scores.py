"""What each score costs on one core: `python -m tests.bench.bench_scores CLIPS [--clips N] [--root MEDIA]`.

CLIPS is a finished output of `avprep clip`. Each row: clips per second of a score alone, with what it decodes
not counted; then of all scores that need no network together, each shared picture computed once, without and
with reading and decoding the shard. With MEDIA, first: what those scores add to `avprep clip` of this folder,
measured clip by clip in one run (`worker_seconds` of stats.json; the first clip's imports are in it).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from avprep.media.mux import decode_frames
from avprep.scores.base import WeightPaths, needed_fields, open_scores
from avprep.scores.catalogue import SCORES
from avprep.scores.clip import ScoredClip
from avprep.shards.dataset import ClipDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clips")
    parser.add_argument("--clips", type=int, default=100, dest="count")
    parser.add_argument("--weights-yamnet", type=Path)
    parser.add_argument("--root", type=Path)
    arguments = parser.parse_args()
    if arguments.root:
        _clip_and_score(arguments.root)
    torch.set_num_threads(1)
    _use_one_thread()
    opened, left_out = open_scores(SCORES, WeightPaths(yamnet=arguments.weights_yamnet))
    arrays = [score for score in opened if score.score.cost == "array"]
    fields = needed_fields(score.score for score in opened)
    started = time.perf_counter()
    dataset = ClipDataset(arguments.clips, fields=fields, decode_h264=decode_frames)
    items = [dataset[i] for i in range(min(arguments.count, len(dataset)))]
    read_s = (time.perf_counter() - started) / len(items)
    for score in opened:
        seconds = _seconds(lambda clip, score=score: score(clip), dataset.spec, items)
        print(f"{score.score.name:14} {1 / seconds:9,.1f} clips/s  {1000 * seconds:7.2f} ms", flush=True)
    together = _seconds(lambda clip: [score(clip) for score in arrays], dataset.spec, items)
    print(f"all arrays     {1 / together:9,.1f} clips/s  {1000 * together:7.2f} ms")
    print(f"  and reading  {1 / (together + read_s):9,.1f} clips/s  {1000 * (together + read_s):7.2f} ms")
    for left in left_out:
        print(f"left out: {left.why}")


def _clip_and_score(root: Path) -> None:
    names = ",".join(score.name for score in SCORES if score.cost == "array")
    with tempfile.TemporaryDirectory() as out:
        media = ("--dataset", "folder", "--root", str(root), "--clips-per-source", "8")
        command = (sys.executable, "-m", "avprep", "clip", *media, "--out", f"{out}/clips", "--workers", "0")
        subprocess.run([*command, "--score", names], check=True)
        stats = json.loads(Path(out, "clips", "stats.json").read_text())
    clips, seconds = stats["clips"]["written"], stats["last_run"]["worker_seconds"]
    score_s = seconds.pop("score")
    clip_s = sum(seconds.values())
    print(f"clip           {clips / clip_s:9,.1f} clips/s  {clips:,} clips: {seconds}")
    print(f"its scores     {clips / score_s:9,.1f} clips/s  {clip_s / score_s:.1f} times the rate of clip")
    print(f"--score adds   {score_s / clip_s:9.0%}")


def _seconds(measure: Callable[[ScoredClip], object], spec, items: list[dict]) -> float:
    """Per clip, after one that warms up. Each clip is new: nothing that scores share is kept."""
    measure(ScoredClip(spec, items[0]))
    started = time.perf_counter()
    for fields in islice(items, len(items)):
        measure(ScoredClip(spec, fields))
    return (time.perf_counter() - started) / len(items)


def _use_one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


if __name__ == "__main__":
    main()
