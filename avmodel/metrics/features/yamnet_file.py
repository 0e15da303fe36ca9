"""YAMNet's published TFLite file as the .npz that `load_yamnet` reads.

    pip install "avprep[tflite]"
    python -m avmodel.metrics.features.yamnet_file YAMNET.tflite yamnet_int8.npz

The TFLite file: lite-model_yamnet_classification_tflite_1.tflite, SHA-256 10c95ea3eb9a7bb4cb8bddf6feb02325...
Weights stay int8 with their scales; biases, int32 in the file, become floats.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avmodel.metrics import MetricError

_CONVOLUTIONS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "dw"}
_LAYERS = 27


def yamnet_arrays(tflite: Path) -> dict[str, np.ndarray]:
    """The arrays of the TFLite file by the names of `avprep.dsp.yamnet.load_yamnet`.

    Raises:
        MetricError: no such file, not YAMNet's, or ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MetricError(
            "TFLite files are read with ai-edge-litert: pip install 'avprep[tflite]'"
        ) from error
    if not tflite.is_file():
        raise MetricError(f"there is no file {tflite}")
    try:
        interpreter = Interpreter(str(tflite))
    except ValueError as error:
        raise MetricError(f"{tflite} is no TFLite file: {error}") from error
    arrays = dict(_arrays(interpreter))
    layers = sum(name.endswith(".q") for name in arrays)
    if layers != _LAYERS + 1 or "frontend.mel" not in arrays:
        raise MetricError(f"{tflite} is not YAMNet: it has {layers} layers of int8, not {_LAYERS + 1}")
    return arrays


def _arrays(interpreter: Any) -> Iterator[tuple[str, np.ndarray]]:
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    layer = 0
    for operation in interpreter._get_ops_details():
        kind, inputs = operation["op_name"], [int(index) for index in operation["inputs"]]
        is_int8 = len(inputs) == 3 and details[inputs[1]]["dtype"] is np.int8
        if kind == "MUL":
            yield "frontend.hann", interpreter.get_tensor(inputs[1])
        elif kind == "FULLY_CONNECTED" and not is_int8:
            yield "frontend.mel", interpreter.get_tensor(inputs[1])
            yield "frontend.log_offset", interpreter.get_tensor(inputs[2])
        elif is_int8 and (kind in _CONVOLUTIONS or kind == "FULLY_CONNECTED"):
            layer += 1
            name = f"layer{layer}.{_CONVOLUTIONS[kind]}" if kind in _CONVOLUTIONS else "fc"
            yield f"{name}.q", interpreter.get_tensor(inputs[1])
            yield f"{name}.scale", _scale(details[inputs[1]])
            bias = interpreter.get_tensor(inputs[2]) * _scale(details[inputs[2]])
            yield f"{name}.bias", bias.astype(np.float32)


def _scale(tensor: dict[str, Any]) -> np.ndarray:
    return tensor["quantization_parameters"]["scales"].astype(np.float32)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python -m avmodel.metrics.features.yamnet_file YAMNET.tflite YAMNET.npz")
    try:
        arrays = yamnet_arrays(Path(sys.argv[1]))
    except MetricError as error:
        sys.exit(str(error))
    np.savez_compressed(sys.argv[2], **arrays)  # type: ignore[arg-type]  # numpy's stub: no array name is typed


if __name__ == "__main__":
    main()
