"""A network that ONNX Runtime quantized (QDQ) runs here in INT8, with ONNX Runtime's answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lpir
from benchmarks.engines import OnnxRuntime
from benchmarks.onnx_export import export_onnx
from benchmarks.prepare import Files, write_onnx_int8
from lpir.ir.model import Model
from tests.interop.agreement import assert_same_network, lpir_runs
from tests.interop.conftest import CALIBRATION
from tests.interop.networks import Array

LAYERS = 53


def test_mobilenet_in_qdq(
    float_model: Callable[[str], Model], pictures: list[Array], unseen: list[Array], tmp_path: Path
) -> None:
    files = Files(tmp_path, "mobilenet_v2")
    export_onnx(float_model("mobilenet_v2"), files.onnx)
    write_onnx_int8(files, [(x,) for x in pictures[:CALIBRATION]])
    # without its optimizations ONNX Runtime computes Q and DQ as they are written
    theirs = OnnxRuntime("INT8", files.onnx_int8, 1, exact=True)
    model = lpir.read_model(files.onnx_int8)
    expected = [[theirs.infer(x)] for x in unseen]
    assert_same_network(lpir_runs(model, "CPU", *([x] for x in unseen)), expected, "CPU")
    explanation = lpir.compile_model(model, "CPU").explain()
    weighted = [r for r in explanation if r.type in ("Convolution", "GroupConvolution", "MatMul")]
    assert [r.precision for r in weighted] == ["INT8"] * LAYERS
    assert explanation.refused() == []
