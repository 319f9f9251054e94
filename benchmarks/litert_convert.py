"""An ONNX file as LiteRT files, float and INT8 (static, calibrated on samples). Runs in an environment of its own:

    pip install torch litert-torch ai-edge-quantizer onnx && pip install --no-deps onnx2torch
    python litert_convert.py model.onnx samples.npz model.tflite model_int8.tflite

`samples.npz`: an array for each input, by its name in the ONNX file; its first axis counts the samples.
"""

from __future__ import annotations

import sys
import types

import numpy as np


def torch_module(path: str):  # type: ignore[no-untyped-def]
    """The network as a torch module."""
    import onnx

    # onnx2torch imports it for two operators that the networks here do not have
    operators = types.ModuleType("torchvision.ops")
    operators.roi_align = None  # type: ignore[attr-defined]
    package = types.ModuleType("torchvision")
    package.ops = operators  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.ops": operators}
    import onnx2torch

    return onnx2torch.convert(onnx.load(path)).eval()


def main() -> None:
    source, given, float_path, int8_path = sys.argv[1:]
    samples = dict(np.load(given))
    import litert_torch
    import torch

    example = tuple(torch.from_numpy(x[0]) for x in samples.values())
    litert_torch.convert(torch_module(source), example).export(float_path)

    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    ((signature, ports),) = Interpreter(float_path).get_signature_list().items()
    count = len(next(iter(samples.values())))
    feeds = [dict(zip(ports["inputs"], (x[i] for x in samples.values()), strict=True)) for i in range(count)]
    tool = quantizer.Quantizer(float_path, recipe.static_wi8_ai8())
    tool.quantize(tool.calibrate({signature: feeds})).export_model(int8_path, overwrite=True)


if __name__ == "__main__":
    main()
