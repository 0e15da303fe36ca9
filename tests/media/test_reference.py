"""The product against a plain sequential decode, over all real files and known faults; and that decode itself
against what is known of files without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from avprep.spec import ClipSpec
from tests.conftest import SHARED
from tests.media.against_reference import differences

SPEC = ClipSpec(size=32)
_SLOW = {"long_360s_silent.mp4"}
_NO_MEDIA = {".tsv", ".csv", ".parquet", ".jsonl"}


def _files() -> list[Path]:
    found = sorted([*SHARED.glob("media/*"), *SHARED.glob("cases/*/in/*")])
    return [path for path in found if path.suffix not in _NO_MEDIA]


def _param(path: Path):
    marks = [pytest.mark.slow] if path.name in _SLOW else []
    return pytest.param(path, id=path.relative_to(SHARED).as_posix(), marks=marks)


@pytest.mark.skipif(not _files(), reason="needs the real files, which are not here")
@pytest.mark.parametrize("path", [_param(path) for path in _files()])
def test_clips_are_those_of_a_plain_sequential_decode(path):
    assert differences(path, SPEC) == []
