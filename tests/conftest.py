"""What tests share: where real files are, and scenes made once a session."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from avprep.execution import RunnerConfig
from tests.avprep.media.flash_click import write_flash_click

SHARED = Path(__file__).parents[2] / "shared"


def shared_file(*parts: str) -> Path:
    """A real file; the test is skipped where it is not."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs the real file {'/'.join(parts)}, which is not here")
    return path


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """`--workers 0` of commands that are called here runs here: a child takes seconds to start. A test that
    is about the child is marked `isolated`."""
    if request.node.get_closest_marker("isolated") is None:
        monkeypatch.setattr("avprep.cli.run_clip.RunnerConfig", partial(RunnerConfig, isolated=False))


@pytest.fixture(scope="session")
def clip_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree: four good sources in two folders, a broken one, an empty one, a text file."""
    root = tmp_path_factory.mktemp("media")
    for label in ("alpha", "beta"):
        (root / label).mkdir()
        for i in range(2):
            write_flash_click(root / label / f"scene {i}.mp4", seconds=4.0 + 1.7 * i)
    whole = (root / "alpha" / "scene 0.mp4").read_bytes()
    (root / "broken.mp4").write_bytes(whole[: len(whole) // 3])
    (root / "empty.webm").write_bytes(b"")
    (root / "notes.txt").write_text("no media")
    return root
