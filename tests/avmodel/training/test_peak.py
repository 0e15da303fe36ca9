from __future__ import annotations

import pytest
import torch

from avmodel.training.peak import peak_tflops

GPU = torch.device("cuda", 0)


def named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),  # 1,979 with sparsity
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),  # a seventh of the card
        ("NVIDIA H100 NVL", None),  # another peak than the H100's: not in the table
        ("NVIDIA A10G", None),
        ("", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_whole_name(name, peak, monkeypatch):
    named(monkeypatch, name)
    assert peak_tflops(GPU, None) == peak


def test_a_given_peak_comes_before_the_data_sheet(monkeypatch):
    named(monkeypatch, "NVIDIA H200")
    assert peak_tflops(GPU, 800.0) == 800.0


def test_a_cpu_has_no_known_peak():
    assert peak_tflops(torch.device("cpu"), None) is None
    assert peak_tflops(torch.device("cpu"), 0.1) == 0.1
