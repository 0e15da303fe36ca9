"""Differences are paired: what a seed or a clip adds to both models does not widen the interval."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy.stats import t as student

from avmodel.ablate.run import Cell
from avmodel.ablate.table import COLUMNS, aligned, rows_of, write_table


def cells(*, seeds: int = 3, gain: float = 0.5) -> list[Cell]:
    """Seeds and clips differ by several dB; the full model is `gain` dB above 'no-kl' in each."""
    found = []
    for seed in range(seeds):
        clips = np.random.default_rng(seed).normal(25 + 5 * seed, 4, 12)
        found.append(Cell(variant="full", seed=seed, psnr_v=clips, psnr_a=clips + 3))
        found.append(Cell(variant="no-kl", seed=seed, psnr_v=clips - gain, psnr_a=clips + 3))
        found.append(Cell(variant="video-only", seed=seed, psnr_v=clips - 1, psnr_a=None))
    return found


def test_a_constant_difference_has_no_width_however_much_seeds_differ():
    rows = {(row.variant, row.stream): row for row in rows_of(cells())}
    found = rows["no-kl", "video"]
    assert found.difference == pytest.approx(-0.5) and found.half_width == pytest.approx(0, abs=1e-9)
    assert rows["no-kl", "sound"].difference == pytest.approx(0)
    assert rows["full", "video"].difference is None and rows["full", "video"].half_width > 5


def test_the_interval_is_student_s_over_the_seeds():
    found = cells()
    for cell, gain in zip((c for c in found if c.variant == "no-kl"), (0.0, 0.3, 0.9), strict=True):
        cell.psnr_v[:] += gain
    row = next(row for row in rows_of(found) if row.variant == "no-kl")
    differences = np.array([-0.5, -0.2, 0.4])
    assert row.per_seed == pytest.approx(differences)
    half = student.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
    assert row.half_width == pytest.approx(half)


def test_a_model_of_one_stream_is_compared_in_that_stream_alone():
    rows = [row for row in rows_of(cells()) if row.variant == "video-only"]
    assert [row.stream for row in rows] == ["video"] and rows[0].difference == pytest.approx(-1)


def test_only_seeds_that_both_models_have_are_compared():
    unfinished = cells()[:5]  # of the second seed, the full model and one more
    rows = {(row.variant, row.stream): row for row in rows_of(unfinished)}
    assert rows["no-kl", "video"].seeds == 2 and rows["video-only", "video"].seeds == 1
    assert rows["video-only", "video"].half_width is None


def test_the_files_hold_what_is_printed(tmp_path):
    rows = rows_of(cells())
    write_table(tmp_path, rows, "a budget", {"options": {"seeds": 3}})
    listed = list(csv.reader((tmp_path / "ablation.csv").open()))
    assert tuple(listed[0]) == COLUMNS and listed[3][:5] == ["no-kl", "video", "3", listed[3][3], "-0.50"]
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert stored["budget"] == "a budget" and len(stored["rows"]) == len(rows)
    assert "-0.50 to -0.50" in aligned(rows)
    assert (tmp_path / "ablation.md").read_text().startswith("a budget\n\n| variant |")
