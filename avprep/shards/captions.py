"""The texts of a clip, and the file of their embeddings: what `avprep encode` writes and `avmodel` reads.

captions.safetensors    {"a dog barks": float16 (tokens, width), ...} beside the latents
"""

from __future__ import annotations

CAPTIONS_FILE = "captions.safetensors"


def prompt_of(*labels: str) -> str:
    """The paper's caption for labels, 'a video of LABEL, LABEL'; '' without labels."""
    return f"a video of {', '.join(labels)}" if labels else ""
