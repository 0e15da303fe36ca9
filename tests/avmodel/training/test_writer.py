from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from avmodel.training import writer as module
from avmodel.training.checkpoints import load_checkpoint, save_checkpoint
from avmodel.training.errors import TrainingError
from avmodel.training.writer import CheckpointWriter, Retention


def nothing() -> None:
    pass


def value(path: Path) -> float:
    return load_checkpoint(path, "x")["a"].item()


def test_what_is_written_is_what_the_tensors_held_when_the_save_began(tmp_path, monkeypatch):
    may_write, began = threading.Event(), threading.Event()

    def slow(path, payload):
        began.set()
        assert may_write.wait(30)
        save_checkpoint(path, payload)

    monkeypatch.setattr(module, "save_checkpoint", slow)
    tensor, writer = torch.ones(()), CheckpointWriter()
    writer.submit({tmp_path / "x.pt": {"kind": "x", "a": tensor}}, nothing)
    assert began.wait(30)
    tensor.fill_(2)  # the next step
    writer.check()  # is not waited for
    assert not (tmp_path / "x.pt").exists()
    may_write.set()
    writer.close()
    assert value(tmp_path / "x.pt") == 1


def test_a_save_waits_for_the_one_before(tmp_path, monkeypatch):
    running, most = [], []

    def counted(path, payload):
        running.append(1)
        most.append(len(running))
        save_checkpoint(path, payload)
        running.pop()

    monkeypatch.setattr(module, "save_checkpoint", counted)
    writer = CheckpointWriter()
    for step in range(5):
        writer.submit({tmp_path / "x.pt": {"kind": "x", "a": torch.tensor(float(step))}}, nothing)
    writer.close()
    assert len(most) == 5 and max(most) == 1 and value(tmp_path / "x.pt") == 4


@pytest.mark.parametrize("call", ["submit", "check", "wait", "close"])
def test_a_failed_write_is_raised_by_the_next_call_and_leaves_the_old_file(tmp_path, call):
    writer, files = CheckpointWriter(), {tmp_path / "x.pt": {"kind": "x", "a": torch.ones(())}}
    writer.submit(files, nothing)
    writer.wait()
    done: list[int] = []
    writer.submit({tmp_path / "x.pt": {"kind": "x", "a": torch.tensor(torch.nan)}}, lambda: done.append(1))
    while not writer._writing.done():
        threading.Event().wait(0.01)
    with pytest.raises(TrainingError, match="a holds NaN or Inf; the checkpoint before it is kept"):
        getattr(writer, call)(*((files, nothing) if call == "submit" else ()))
    assert value(tmp_path / "x.pt") == 1 and not done
    writer.close()  # raised once


def test_files_are_written_in_order_and_a_tensor_in_two_of_them_is_copied_once(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(module, "save_checkpoint", lambda path, payload: written.append((path.name, payload)))
    shared = torch.arange(4.0)
    views = {"whole": shared, "half": shared[:2], "again": shared.view(4)}
    writer = CheckpointWriter()
    writer.submit({tmp_path / "m.pt": {"w": shared}, tmp_path / "s.pt": {"m": [views], "n": 3}}, nothing)
    writer.close()
    (first, model), (second, state) = written
    assert (first, second) == ("m.pt", "s.pt") and state["n"] == 3
    copies = state["m"][0]
    assert copies["whole"] is copies["again"] is model["w"] and model["w"] is not shared
    assert torch.equal(copies["half"], shared[:2])


def saved(out: Path, steps: list[int], *, best: int = -1, keep: int = 1, milestones: int = 0) -> list[str]:
    retention = Retention(
        out=out, model_file="m.pt", state_file="s.pt", keep=keep, milestone_every=milestones
    )
    for step in steps:
        for name in ("m.pt", "s.pt"):
            save_checkpoint(out / name, {"kind": "x", "a": torch.tensor(float(step))})
        retention.apply(step, is_best=step == best)
    return sorted(str(p.relative_to(out)) for p in out.rglob("*.pt"))


def test_by_default_the_last_checkpoint_is_kept_alone(tmp_path):
    assert saved(tmp_path, [1, 2, 3]) == ["m.pt", "s.pt"]


def test_the_best_and_the_milestones_stay(tmp_path):
    names = saved(tmp_path, [5, 10, 15, 20], best=10, milestones=10)
    assert names == ["m-best.pt", "m.pt", "milestones/m-00000010.pt", "milestones/m-00000020.pt", "s.pt"]
    assert value(tmp_path / "m-best.pt") == 10 and value(tmp_path / "m.pt") == 20
    assert os.path.samefile(tmp_path / "m.pt", tmp_path / "milestones/m-00000020.pt")


def test_the_last_n_are_whole_and_older_ones_go(tmp_path):
    names = saved(tmp_path, [2, 4, 8, 16], keep=2)
    kept = [f"last/{step:08}/{name}" for step in (8, 16) for name in ("m.pt", "s.pt")]
    assert names == [*kept, "m.pt", "s.pt"]
    assert value(tmp_path / "last/00000008/s.pt") == 8


def test_a_run_that_went_back_keeps_the_later_steps_until_it_reaches_them(tmp_path):
    saved(tmp_path, [2, 4, 6], keep=3)
    names = saved(tmp_path, [3], keep=2)
    assert [n for n in names if n.endswith("s.pt")] == [
        *(f"last/{step:08}/s.pt" for step in (2, 3, 4, 6)),
        "s.pt",
    ]


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    saved(tmp_path, [7], best=7)
    assert value(tmp_path / "m-best.pt") == 7
    assert not os.path.samefile(tmp_path / "m.pt", tmp_path / "m-best.pt")
