"""From a dataset's files to generated clips, at the paper's sizes: the recipe of `pipelines.aist`,
`pipelines.audioset` and `pipelines.landscape`.

Needs $AVPREP_DATA/DATASET and GPUs; `torchrun --nproc-per-node N -m avmodel` for `avmodel` uses N, then with
`--accumulate` 8 / N for the autoencoder: a batch is that of the whole step.
Run it again to go on where it stopped: every command resumes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.steps import Step, folder_from_arguments, run


def main(
    dataset: str,
    *,
    clip_options: str,
    mdsa_steps: tuple[int, int],
    dit_steps: int,
    label: str,
    choice: Callable[[Path], Sequence[Step]] | None = None,
) -> int:
    """Runs the recipe for a dataset.

    Args:
        clip_options: of `avprep clip`: the split, and how frames are stored.
        mdsa_steps: of the autoencoder's two stages.
        dit_steps: of the diffusion transformer.
        label: of the clips that are generated at the end.
        choice: the steps that score the clips in OUT/clips and make the selection `chosen`, which is then
            trained on; None = all clips are.
    """
    out = folder_from_arguments(f"usage: python -m pipelines.{dataset} OUT")
    chosen, select = (choice(out), " --select chosen") if choice else ((), "")
    return run((
        ("clips: 16 frames at 256 x 256 and the mel stack that sounds during them",
         f"avprep clip --dataset {dataset} {clip_options.format(out=out)} --out {out}/clips"),
        ("every byte as written",
         f"avprep verify {out}/clips"),
        *chosen,
        ("the autoencoder: L1, LPIPS and KL, then discriminators too; 32 clips per step",
         f"avmodel train-mdsa --preset paper --clips {out}/clips{select} --out {out}/mdsa --batch-size 32 "
         f"--accumulate 8 --stage1-steps {mdsa_steps[0]} --stage2-steps {mdsa_steps[1]} "
         f"--kl-stage1-weight 6e-6 --checkpoint-activations"),
        ("what it keeps, to watch and to hear",
         f"avmodel reconstruct --ckpt {out}/mdsa/mdsa.pt --clips {out}/clips --out {out}/seen --limit 16"),
        ("every clip as a latent",
         f"avprep encode --clips {out}/clips{select} --ckpt {out}/mdsa/mdsa.pt --out {out}/latents"),
        ("the diffusion transformer on the latents",
         f"avmodel train-dit --preset paper --latents {out}/latents --out {out}/dit --steps {dit_steps} "
         f"--mdsa {out}/mdsa/mdsa.pt"),
        ("generated clips",
         f"avmodel sample --dit {out}/dit/dit.pt --mdsa {out}/mdsa/mdsa.pt --label {shlex.quote(label)} "
         f"--n 16 --out {out}/samples"),
    ))
