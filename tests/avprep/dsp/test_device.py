"""The choice of a device."""

from __future__ import annotations

import pytest
import torch

from avprep.dsp.device import choose_device
from avprep.errors import ArgumentError


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ArgumentError, match="^device must be one of auto, cpu, cuda, not 'tpu'"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused():
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ArgumentError, match="^device = cuda: "):
        choose_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_with_a_gpu_auto_is_the_gpu():
    assert choose_device("auto").type == "cuda"
