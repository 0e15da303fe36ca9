"""AudioSet's balanced training list (527 labels, several per clip): from its files to generated clips.

See `pipelines.paper` for the steps.
"""

from __future__ import annotations

import sys

from pipelines.paper import main

if __name__ == "__main__":
    sys.exit(main(
        "audioset",
        clip_options="--split balanced_train --video-codec h264",
        mdsa_steps=(160_000, 40_000),
        dit_steps=400_000,
        label="Rain",
    ))
