"""AudioSet's balanced training list (527 labels, several a clip): from its files to generated clips.

Needs $AVPREP_DATA/audioset and GPUs; `torchrun --nproc-per-node N -m avmodel` in place of `avmodel` uses N.
Run it again to go on where it stopped: every command resumes.
"""

from __future__ import annotations

import sys

from pipelines.steps import folder_from_arguments, run


def main() -> int:
    out = folder_from_arguments("usage: python -m pipelines.audioset OUT")
    return run((
        ("clips: 16 frames at 256 x 256 and the mel stack that sounds during them",
         f"avprep clip --dataset audioset --split balanced_train --video-codec h264 --out {out}/clips"),
        ("every byte as written",
         f"avprep verify {out}/clips"),
        ("the autoencoder: L1 and LPIPS, then KL and discriminators; 32 clips a step",
         f"avmodel train-mdsa --preset paper --clips {out}/clips --out {out}/mdsa --batch-size 4 "
         f"--accumulate 8 --stage1-steps 160000 --stage2-steps 40000 --checkpoint-activations"),
        ("what it keeps, to watch and to hear",
         f"avmodel reconstruct --ckpt {out}/mdsa/mdsa.pt --clips {out}/clips --out {out}/seen --limit 16"),
        ("every clip as a latent",
         f"avprep encode --clips {out}/clips --ckpt {out}/mdsa/mdsa.pt --out {out}/latents"),
        ("the diffusion transformer on the latents",
         f"avmodel train-dit --preset paper --latents {out}/latents --out {out}/dit --steps 400000 "
         f"--mdsa {out}/mdsa/mdsa.pt"),
        ("generated clips",
         f"avmodel sample --dit {out}/dit/dit.pt --mdsa {out}/mdsa/mdsa.pt --label Rain --n 16 "
         f"--out {out}/samples"),
    ))


if __name__ == "__main__":
    sys.exit(main())
