"""Sounding video into training data: the public Python API (docs/api.md).

A name is imported from its module when it is first asked for: `import avprep` alone loads neither torch nor
PyAV, Ray or pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avprep.api.clip_run import clip_dataset
    from avprep.api.clips import Clip, FailedClip, read_clips
    from avprep.api.data import ClipDataset, LatentDataset, read_ledger, web_dataset
    from avprep.api.encode_run import encode_dataset
    from avprep.api.runs import RunProgress, RunReport
    from avprep.api.score_run import score_dataset
    from avprep.api.selecting import select
    from avprep.api.sound import invert_mel, mel_stack
    from avprep.datasets.source import Source
    from avprep.errors import AvprepError
    from avprep.spec import ClipSpec

__version__ = "0.1.0"

_MODULES = {
    "AvprepError": "avprep.errors",
    "Clip": "avprep.api.clips",
    "ClipDataset": "avprep.api.data",
    "ClipSpec": "avprep.spec",
    "FailedClip": "avprep.api.clips",
    "LatentDataset": "avprep.api.data",
    "RunProgress": "avprep.api.runs",
    "RunReport": "avprep.api.runs",
    "Source": "avprep.datasets.source",
    "clip_dataset": "avprep.api.clip_run",
    "encode_dataset": "avprep.api.encode_run",
    "invert_mel": "avprep.api.sound",
    "mel_stack": "avprep.api.sound",
    "read_clips": "avprep.api.clips",
    "read_ledger": "avprep.api.data",
    "score_dataset": "avprep.api.score_run",
    "select": "avprep.api.selecting",
    "web_dataset": "avprep.api.data",
}
# Written out, so that type checkers and linters read it; a test holds it against the table.
__all__ = [
    "AvprepError",
    "Clip",
    "ClipDataset",
    "ClipSpec",
    "FailedClip",
    "LatentDataset",
    "RunProgress",
    "RunReport",
    "Source",
    "__version__",
    "clip_dataset",
    "encode_dataset",
    "invert_mel",
    "mel_stack",
    "read_clips",
    "read_ledger",
    "score_dataset",
    "select",
    "web_dataset",
]


if not TYPE_CHECKING:  # a type checker would take any name for exported

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'avprep' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
