"""The format on disk: the names of an output's files, the version, and the output header (spec.json).

    OUT/
      spec.json               the output header: format, kind, spec, options, fingerprint
      plan.parquet            the plan
      shards/clips-000000.tar (latents-000000.tar): KEY.SUFFIX for each file of each clip
      ledger/000000.parquet   committed last: its presence means that the shard is whole
      stats.json              counts of the whole output
      scores/000000.parquet   a row per written clip of the shard; may be added or replaced at any time
      selections/NAME.parquet the keys of chosen clips, with the query and the funnel in its metadata
      cuts/000000.parquet     the cuts of sources, found when the plan was made
      captions.safetensors    embeddings of the distinct texts, beside latents

Nothing else in the project spells these names. This module loads no library, so that the command line can
read it for its help.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from avprep.errors import AvprepError
from avprep.spec import ClipSpec

if TYPE_CHECKING:
    from avprep.shards.store import Store

FORMAT_VERSION = 1  # of spec.json: a reader refuses another
_HEADER_BYTES = 4 << 20  # of spec.json
_LONGEST_INDEX = 12  # digits
MOST_CLIP_HEADER = 4 << 20  # bytes of KEY.json: parsed, it takes up to 25 times as much memory

HEADER_FILE = "spec.json"
PLAN_FILE = "plan.parquet"
STATS_FILE = "stats.json"
CAPTIONS_FILE = "captions.safetensors"
SHARDS_FOLDER, LEDGER_FOLDER = "shards", "ledger"
SCORES_FOLDER, SELECTIONS_FOLDER, CUTS_FOLDER = "scores", "selections", "cuts"
# What a run writes besides shards and ledgers; the header last, as it says whose the others are.
OUTPUT_FILES = (PLAN_FILE, STATS_FILE, CAPTIONS_FILE, HEADER_FILE)

Kind = Literal["clips", "latents"]
CLIPS: Kind = "clips"
LATENTS: Kind = "latents"

VideoCodec = Literal["raw", "jpeg", "h264"]  # how the frames of a clip are stored
VIDEO_CODECS: tuple[VideoCodec, ...] = ("raw", "jpeg", "h264")

# Suffixes: a clip's files, then a latent's. Both have KEY.json, the clip header.
CLIP_HEADER = "json"
AUDIO = "audio.flac"
MEL = "mel.npy"
RAW_FRAMES = "frames.npy"
H264_FRAMES = "frames.mp4"
LATENT = "latent.npy"
LOGVAR = "logvar.npy"


class ShardError(AvprepError, ValueError):
    """An output, or a shard of it, that is not what it should be: the message names it and what is wrong."""


def jpeg_frame(index: int, frames: int) -> str:
    """The suffix of one of `frames` JPEG frames: of one width, so that names sort as the frames follow."""
    return f"frame{index:0{max(2, len(str(frames - 1)))}d}.jpg"


def shard_name(kind: Kind, index: int) -> str:
    return f"{SHARDS_FOLDER}/{kind}-{index:06d}.tar"


def prompt_of(*labels: str) -> str:
    """The paper's caption for labels, 'a video of LABEL, LABEL': the text that CAPTIONS_FILE has for them; ''
    without labels."""
    return f"a video of {', '.join(labels)}" if labels else ""


def ledger_name(index: int) -> str:
    return f"{LEDGER_FOLDER}/{index:06d}.parquet"


def scores_name(index: int) -> str:
    return f"{SCORES_FOLDER}/{index:06d}.parquet"


def cuts_name(index: int) -> str:
    return f"{CUTS_FOLDER}/{index:06d}.parquet"


def ledger_index(name: str) -> int | None:
    """The shard whose ledger has this name; None where it is another file's."""
    return _index(name.removeprefix(f"{LEDGER_FOLDER}/").removesuffix(".parquet"), name, ledger_name)


def shard_index(kind: Kind, name: str) -> int | None:
    """The shard of the kind that has this name; None where it is another file's."""
    stem = name.removeprefix(f"{SHARDS_FOLDER}/{kind}-").removesuffix(".tar")
    return _index(stem, name, lambda index: shard_name(kind, index))


def _index(stem: str, name: str, name_of: Callable[[int], str]) -> int | None:
    is_index = stem.isascii() and stem.isdigit() and len(stem) < _LONGEST_INDEX
    return int(stem) if is_index and name_of(int(stem)) == name else None


# --- the output header -----------------------------------------------------------------------------------


def read_header(store: Store) -> dict[str, Any]:
    """The output header. Raises ShardError where there is none, or none that this version can read."""
    name = f"{store.uri}/{HEADER_FILE}"
    try:
        with store.open(HEADER_FILE) as file:
            data = file.read(_HEADER_BYTES + 1)
        if len(data) > _HEADER_BYTES:
            raise ShardError(f"{name} has more than {_HEADER_BYTES:,} bytes")
        header = json.loads(data)
    except FileNotFoundError:
        raise ShardError(f"{store.uri} holds no {HEADER_FILE}: not an output of avprep") from None
    except ShardError:
        raise
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{name} is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ShardError(f"{name} is damaged: a {type(header).__name__} in the place of an object")
    found = header.get("format", FORMAT_VERSION)
    if found != FORMAT_VERSION:
        raise ShardError(
            f"{name} is of format {repr(found)[:80]}; this version reads format {FORMAT_VERSION}"
        )
    return header


def kind_of(header: dict[str, Any]) -> Kind:
    """What an output holds; only latents' headers say so. Raises ShardError for another kind."""
    kind = header.get("kind", CLIPS)
    if kind not in (CLIPS, LATENTS):
        raise ShardError(
            f"{HEADER_FILE} says that it holds {repr(kind)[:80]}, which this version does not know"
        )
    return kind


def spec_of(header: dict[str, Any]) -> ClipSpec:
    """The spec of an output. Raises ShardError where its header has none, SpecError where it cannot be."""
    if not isinstance(header.get("spec"), dict):
        raise ShardError(f"{HEADER_FILE} holds no spec")
    return ClipSpec.from_dict(header["spec"])


def fingerprint_of(header: dict[str, Any]) -> str:
    """The hash of everything that decides the shards' bytes."""
    text = json.dumps(header, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def clips_header(*, spec: dict[str, Any], options: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """The header of clips, without what is only remembered (fingerprint, root)."""
    return {"format": FORMAT_VERSION, "spec": spec, "options": options, "dataset": dataset}
