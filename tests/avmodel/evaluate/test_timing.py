from __future__ import annotations

from click.testing import CliRunner

from avmodel.cli import main
from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.dit.model import STDiT
from avmodel.evaluate.options import TimingOptions
from avmodel.evaluate.timing import time_models
from avmodel.info import count_parameters
from avmodel.mdsa.model import MDSA


def test_table_3_times_training_and_sampling_on_the_named_device():
    done = CliRunner().invoke(main, ["evaluate", "--table", "3", "--preset", "tiny", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "seconds per training step, batch 2" in done.output
    assert "seconds per sample, 30 steps" in done.output
    assert "threads, float32" in done.output and "another machine" in done.output


def test_the_parameters_are_those_of_both_models():
    report = time_models(TimingOptions(preset="tiny", sampling_steps=2, repeats=1, device="cpu"))
    models = MDSA(MDSA_PRESETS["tiny"]), STDiT(STDIT_PRESETS["tiny"], MDSA_PRESETS["tiny"].layout)
    assert report.measurements[2].value == sum(map(count_parameters, models))
