"""Landscape (9 classes of nature), the paper's first dataset: from its files to generated clips.

See `pipelines.paper` for the steps.
"""

from __future__ import annotations

import sys

from pipelines.paper import main

if __name__ == "__main__":
    sys.exit(main(
        "landscape",
        clip_options="--split train",
        mdsa_steps=(80_000, 20_000),
        dit_steps=200_000,
        label="raining",
    ))
