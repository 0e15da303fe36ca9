"""Resume of clip and encode where finished shards are missing or cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import avprep

SPEC = avprep.ClipSpec(size=16, n_mels=64)


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "shards").iterdir()}


@pytest.mark.timeout(120)
def test_a_missing_and_a_cut_clip_shard_are_made_again(clip_root, tmp_path):
    def run() -> None:
        avprep.clip_dataset(clip_root, tmp_path / "out", spec=SPEC, shard_size=3, workers=0)

    run()
    whole = digests(tmp_path / "out")
    first, second, *others = sorted((tmp_path / "out" / "shards").iterdir())
    kept = {path.name: path.stat().st_mtime_ns for path in others}
    assert kept
    first.unlink()
    second.write_bytes(second.read_bytes()[:-512])
    run()
    assert digests(tmp_path / "out") == whole
    assert {path.name: path.stat().st_mtime_ns for path in others} == kept
