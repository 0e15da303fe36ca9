"""From nothing to generated clips on a CPU: scenes, clips, autoencoder, latents, transformer, samples.

About half an hour on two cores. Run it again to go on where it stopped: every command resumes.
"""

from __future__ import annotations

import sys

from pipelines.steps import folder_from_arguments, run


def main() -> int:
    out = folder_from_arguments("usage: python -m pipelines.generate OUT")
    return run((
        ("scenes: sounding mp4 files of ten classes",
         f"avprep synth --out {out}/scenes --n 300 --seed 1 --workers 2"),
        ("clips: 16 frames at 64 x 64 and the mel stack that sounds during them",
         f"avprep clip --dataset folder --label-from-folder --root {out}/scenes --out {out}/clips --size 64 "
         f"--n-mels 64 --video-codec raw --workers 2"),
        ("the autoencoder",
         f"avmodel train-mdsa --preset small --clips {out}/clips --out {out}/mdsa --stage1-steps 200 "
         f"--stage2-steps 1400 --no-adversarial --lpips none --pixel-weight 2 --mse-weight 12 "
         f"--optimizer muon --muon-lr 0.01 --lr 1e-3 --betas 0.8 0.95 "
         f"--warmup-steps 50 --cooldown-steps 600"),
        ("what it keeps, to watch and to hear",
         f"avmodel reconstruct --ckpt {out}/mdsa/mdsa.pt --clips {out}/clips --out {out}/seen --limit 8"),
        ("every clip as a latent",
         f"avprep encode --clips {out}/clips --ckpt {out}/mdsa/mdsa.pt --out {out}/latents --workers 2"),
        ("the diffusion transformer on the latents",
         f"avmodel train-dit --preset small --latents {out}/latents --out {out}/dit --steps 1000 "
         f"--batch-size 16 --optimizer muon --lr 1e-3 --warmup-steps 50 --cooldown-steps 400 --ema 0.99 "
         f"--packed"),
        ("generated clips",
         f"avmodel sample --dit {out}/dit/dit.pt --mdsa {out}/mdsa/mdsa.pt --n 160 --guidance 2 "
         f"--out {out}/samples"),
    ))


if __name__ == "__main__":
    sys.exit(main())
