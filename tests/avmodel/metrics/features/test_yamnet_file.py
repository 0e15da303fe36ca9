from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avmodel.metrics import MetricError
from avmodel.metrics.features import load_extractor
from avmodel.metrics.features.yamnet_file import yamnet_arrays
from tests.conftest import shared_file

pytest.importorskip("ai_edge_litert", reason="the converter reads TFLite files with ai-edge-litert")


def test_the_arrays_are_those_of_the_converted_file(tmp_path: Path):
    tflite = shared_file("weights", "yamnet_classification_tflite_1.tflite")
    out = tmp_path / "yamnet.npz"
    command = [sys.executable, "-m", "avmodel.metrics.features.yamnet_file", str(tflite), str(out)]
    subprocess.run(command, check=True)
    with np.load(out) as found, np.load(shared_file("weights", "yamnet_int8.npz")) as expected:
        assert set(found.files) == set(expected.files)
        for name in expected.files:
            assert found[name].dtype == expected[name].dtype, name
            assert np.allclose(found[name], expected[name], rtol=1e-6, atol=0), name
    assert load_extractor("yamnet", out).width == 1024


def test_another_file_is_refused(tmp_path: Path):
    (tmp_path / "a.tflite").write_bytes(b"no model")
    with pytest.raises(MetricError, match="a.tflite is no TFLite file"):
        yamnet_arrays(tmp_path / "a.tflite")
    with pytest.raises(MetricError, match="there is no file"):
        yamnet_arrays(tmp_path / "b.tflite")
