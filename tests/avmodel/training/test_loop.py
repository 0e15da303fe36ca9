from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from avmodel.training.loop import (
    CheckpointError,
    Health,
    Machine,
    RunLog,
    StopSignal,
    TrainingError,
    cool_down,
    device_of,
    load_checkpoint,
    same_run,
    save_checkpoint,
    warm_up,
)

CPU = Machine(torch.device("cpu"))


def test_a_checkpoint_comes_back(tmp_path):
    payload = {"kind": "x", "step": 3, "weights": {"a": torch.arange(4.0)}, "names": ["b", 1]}
    save_checkpoint(tmp_path / "x.pt", payload)
    back = load_checkpoint(tmp_path / "x.pt", "x")
    assert back["step"] == 3 and back["names"] == ["b", 1]
    assert torch.equal(back["weights"]["a"], payload["weights"]["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_leaves_the_old_checkpoint(tmp_path, bad):
    save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.ones(2)})
    with pytest.raises(TrainingError, match="state.0.b holds NaN or Inf"):
        save_checkpoint(tmp_path / "x.pt", {"kind": "x", "state": [{"b": torch.tensor([1.0, bad])}]})
    assert torch.equal(load_checkpoint(tmp_path / "x.pt", "x")["a"], torch.ones(2))


@pytest.mark.parametrize("keep", [0, 10, 200, 900])
def test_what_is_no_checkpoint_is_a_sentence(tmp_path, keep):
    save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.ones(100)})
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match="x.pt is cut off or no checkpoint"):
        load_checkpoint(tmp_path / "x.pt", "x")


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"kind": "x", "a": Evil()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x.pt", "x")
    assert not (tmp_path / "touched").exists()


def test_another_kind_and_no_file_are_sentences(tmp_path):
    save_checkpoint(tmp_path / "x.pt", {"kind": "dit"})
    with pytest.raises(CheckpointError, match="a checkpoint of 'dit', not of 'mdsa'"):
        load_checkpoint(tmp_path / "x.pt", "mdsa")
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_checkpoint(tmp_path / "y.pt", "mdsa")


def test_the_first_difference_of_two_runs_is_named(tmp_path):
    same_run({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, tmp_path)
    with pytest.raises(TrainingError, match="begun with b.c 2, now it is 3"):
        same_run({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, tmp_path)


def test_the_log_forgets_what_is_run_again(tmp_path):
    log = RunLog(tmp_path, first_step=0, is_first=True)
    for step in range(1, 6):
        log.scalars(step, {"loss": float(step)})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # the process ended here
    log = RunLog(tmp_path, first_step=3, is_first=True)
    log.scalars(4, {"loss": 40.0})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_health_counts_bad_steps_and_ends_at_three_in_a_row():
    health = Health(CPU)
    assert health.check(torch.ones(2)) and not health.check(torch.ones(2), torch.tensor(torch.nan))
    for step, good in enumerate([False, False, True, False, False]):
        health.count(step, good=good)
    assert health.skipped == 4
    with pytest.raises(TrainingError, match="step 5: .* 3rd time in a row"):
        health.count(5, good=False)


def test_a_signal_to_one_process_stops_all(monkeypatch):
    stop = StopSignal()
    assert not stop.anywhere(Machine(torch.device("cpu")))
    monkeypatch.setattr(Machine, "any", lambda self, flag: True)  # another process has been asked to
    assert stop.anywhere(Machine(torch.device("cpu"), rank=1, world=2))
    assert stop.number == signal.SIGTERM and stop


def test_the_rate_rises_and_falls_in_a_line():
    assert [warm_up(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [cool_down(step, 4, 10) for step in range(5, 10)] == [1.0, 1.0, 0.75, 0.5, 0.25]
    assert warm_up(0, 0) == cool_down(9, 0, 10) == 1.0


def test_random_numbers_depend_on_seed_step_and_rank_alone():
    def draw(rank: int, *seeds: int) -> torch.Tensor:
        return torch.rand(8, generator=Machine(torch.device("cpu"), rank, 2).generator(*seeds))

    assert torch.equal(draw(0, 1, 5), draw(0, 1, 5))
    different = [draw(0, 1, 5), draw(1, 1, 5), draw(0, 1, 6), draw(0, 2, 5), draw(0, 5, 1)]
    for i, a in enumerate(different):
        assert not any(torch.equal(a, b) for b in different[i + 1 :])


def test_a_device_that_is_not_there_is_a_sentence():
    assert device_of("cpu").type == "cpu"
    with pytest.raises(TrainingError, match="--device must be auto, cpu or cuda, not 'tpu'"):
        device_of("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="--device cuda"):
            device_of("cuda")
