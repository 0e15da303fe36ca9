"""`avmodel sample` with small shards, and with a disk that is full for one process:

python -m tests.avmodel.dit.sample_driver SHARD_SIZE FAILING_RANK CLIP sample --dit ...

The process of that rank cannot write its clip of that number; -1 for none.
"""

from __future__ import annotations

import os
import sys

from avmodel.cli import main
from avmodel.dit import output, sample


def run(shard_size: int, failing_rank: int, clip: int, command: list[str]) -> None:
    output.SHARD_SIZE = shard_size
    inner, calls = sample.write_mp4, []

    def write(*args, **options) -> None:
        calls.append(1)
        if int(os.environ.get("RANK", "0")) == failing_rank and len(calls) == clip:
            raise OSError(28, "No space left on device", "clip.mp4")
        inner(*args, **options)

    sample.write_mp4 = write
    main(command)


if __name__ == "__main__":
    run(*map(int, sys.argv[1:4]), sys.argv[4:])
