"""ONNX's recurrent layers, of any number of steps: CPU gives what ONNX Runtime gives, in native code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import lpir
from tests.tolerances import F32_SUM, assert_close

BATCH, SIZE, HIDDEN = 2, 12, 24
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(kind: str, direction: str, linear: bool) -> onnx.ModelProto:
    """One layer with biases and without initial states; the number of steps is open."""
    rng, directions = np.random.default_rng(1), 2 if direction == "bidirectional" else 1
    rows = GATES[kind] * HIDDEN
    shapes = {"W": (directions, rows, SIZE), "R": (directions, rows, HIDDEN), "B": (directions, 2 * rows)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) * 0.3).astype(np.float32), name) for name, s in shapes.items()
    ]
    more: dict[str, Any] = {"linear_before_reset": int(linear)} if kind == "GRU" else {}
    node = helper.make_node(kind, ["x", "W", "R", "B"], ["y", "h"], hidden_size=HIDDEN, direction=direction, **more)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["steps", BATCH, SIZE])
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("y", "h")]
    model = helper.make_model(
        helper.make_graph([node], "layer", [x], outputs, weights), opset_imports=[helper.make_opsetid("", 14)]
    )
    model.ir_version = 9
    return model


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "linear"), [("LSTM", False), ("GRU", False), ("GRU", True), ("RNN", False)])
def test_layer(kind: str, linear: bool, direction: str, tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    onnx.save(layer(kind, direction, linear), str(path))
    theirs = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    compiled = lpir.compile_model(path, "CPU")
    for steps in (7, 1, 3):
        x = np.random.default_rng(steps).standard_normal((steps, BATCH, SIZE)).astype(np.float32)
        actual = compiled(x)
        for i, expected in enumerate(theirs.run(None, {"x": x})):
            assert_close(np.asarray(actual[i]), expected, F32_SUM.per(20 * HIDDEN), f"{steps} steps, output {i}")
    kernels = [r.kernel for r in compiled.explain().rows if r.type == f"{kind}Sequence"]
    assert kernels
    assert "recurrence" in kernels[0]
