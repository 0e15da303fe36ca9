"""Who may import whom (lazy imports included), held by walking every module's syntax tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
MODULES = sorted(p for name in ("avprep", "avmodel") for p in (TOP / name).rglob("*.py"))
# Each floor may import itself, these and what stands under it.
EVERYWHERE = ("avprep.errors", "avprep.checks", "avprep.credentials", "avprep.seconds", "avprep.signals")
FLOORS = {
    "avprep.errors": (),
    "avprep.credentials": (),
    "avprep.spec": (),
    "avprep.checks": ("avprep.spec",),
    "avprep.seconds": (),
    "avprep.signals": (),
    "avprep.reasons": (),
    "avprep.dsp": ("avprep.spec",),
    "avprep.media": ("avprep.spec", "avprep.reasons", "avprep.dsp"),
    "avprep.scenes": ("avprep.spec", "avprep.reasons", "avprep.media", "avprep.shards.whole"),
    # The prompt of labels stands in shards/layout, for avmodel too; lists may be parquet, whose footers are
    # read in one place.
    "avprep.datasets": ("avprep.shards.layout", "avprep.shards.footer"),
    "avprep.shards": ("avprep.spec", "avprep.reasons"),
    "avprep.scores": ("avprep.spec", "avprep.dsp", "avprep.media"),
    "avprep.stages": (
        "avprep.spec",
        "avprep.reasons",
        "avprep.dsp",
        "avprep.media",
        "avprep.shards",
        "avprep.scores",
    ),
    "avprep.execution": ("avprep.reasons",),
    "avprep.jobs": (
        "avprep.spec",
        "avprep.reasons",
        "avprep.dsp",
        "avprep.media",
        "avprep.datasets",
        "avprep.shards",
        "avprep.scores",
        "avprep.stages",
        "avprep.execution",
    ),
    "avprep.report": (
        "avprep.spec",
        "avprep.reasons",
        "avprep.dsp",
        "avprep.media.mux",
        "avprep.shards",
    ),
    "avprep.api": (
        "avprep.spec",
        "avprep.reasons",
        "avprep.dsp",
        "avprep.media",
        "avprep.datasets",
        "avprep.shards",
        "avprep.scores",
        "avprep.stages",
        "avprep.execution",
        "avprep.jobs",
    ),
    "avmodel": (
        "avprep.spec",
        "avprep.reasons",
        "avprep.shards",
        "avprep.dsp",
        "avprep.media.mux",
        "avprep.cli.group",  # one click group for both command lines
        "avprep.cli.outputs",  # and the same options for outputs
        # avmodel.dit.given alone, inside a function: a given video must be cut as the clips were.
        "avprep.media.source",
        "avprep.media.limits",
        "avprep.media.decode",
        # avmodel.evaluate.folder alone, inside functions: a folder of video files is a side of a comparison.
        "avprep.read_clips",
        "avprep.media.probe",
        "avprep.media.timeline",
    ),
}
FORBIDDEN = {
    "avprep.errors": {"ray", "av", "torch"},
    "avprep.spec": {"ray", "av", "torch"},
    "avprep.shards": {"ray", "av", "torch"},
    "avmodel": {"ray", "av"},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(TOP)))
def test_data_flows_down_the_floors(path: Path):
    module = ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")
    imports = _imports(path)
    roots = {name.split(".")[0] for name in imports}
    if not _is_in(module, "avprep.execution"):
        assert "ray" not in roots, "only avprep/execution imports Ray"
    if not _is_in(module, "avprep.media"):
        assert "av" not in roots, "only avprep/media imports av"
    if _is_in(module, "avprep") and module != "avprep.cli.checkpoint":
        assert "avmodel" not in roots, "data knows no model"
    assert not roots & {"pickle", "marshal", "shelve"}
    for floor, allowed in FLOORS.items():
        if _is_in(module, floor):
            assert not roots & FORBIDDEN.get(floor, set())
            own = {name for name in imports if name.split(".")[0] in ("avprep", "avmodel")}
            own_floor = (*allowed, floor, *EVERYWHERE)
            modules = {name for name in own if not any(_is_in(name, a) for a in own_floor)}
            assert not {m for m in modules if m not in ("avprep", "avmodel")}


def test_a_machine_that_only_trains_needs_neither_ray_nor_pyav_nor_a_sound_library():
    """The trainers, the codec and the GPU benchmark import where these are missing."""
    missing = ("ray", "av", "soundfile", "librosa", "webdataset", "cv2")
    modules = ("avmodel.mdsa.train", "avmodel.dit.train", "avmodel.mdsa.checkpoint", "tests.bench.bench_gpu")
    code = f"import sys; sys.modules.update(dict.fromkeys({missing})); import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _shows_commands(path: Path) -> bool:
    """The command lines do, and the report: it shows the command that tries one source alone."""
    place = path.relative_to(TOP)
    return place.parts[1] == "cli" or place.as_posix() == "avprep/report/output.py"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if not _shows_commands(p)], ids=lambda p: str(p.relative_to(TOP))
)
def test_only_the_command_line_speaks_of_options(path: Path):
    """Messages and docstrings elsewhere name arguments: they are read in Python, too."""
    texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
    assert [text for text in texts if isinstance(text, str) and re.search(r"(?<![\w-])--[a-z]", text)] == []
