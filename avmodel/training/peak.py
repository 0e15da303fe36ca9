"""The bf16 peak of a device, which the model FLOPs utilisation (MFU) of a training is a share of."""

from __future__ import annotations

import torch

# TFLOP/s of dense bf16 matrix products with float32 sums, by the name that the driver gives: NVIDIA's data
# sheets and, for the GeForce cards, the architectures' white papers. Where a sheet counts with sparsity, half
# of it. The whole name must match: variants of a card differ, and a MIG slice is a part of one.
BF16_TFLOPS = {
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H200": 989.5,
    "NVIDIA A10": 125.0,
    "NVIDIA A30": 165.0,
    "NVIDIA L4": 121.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA GeForce RTX 3090": 71.0,
    "NVIDIA GeForce RTX 4090": 165.2,
}


def peak_tflops(device: torch.device, given: float | None) -> float | None:
    """The device's peak in TFLOP/s: `given`, or the data sheet's; None if neither is known."""
    if given is not None or device.type != "cuda":
        return given
    return BF16_TFLOPS.get(torch.cuda.get_device_name(device))
