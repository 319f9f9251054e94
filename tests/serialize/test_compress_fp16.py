"""Which constants become f16, and which bytes, against OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset16 as ops

from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Constant, Result, constant
from lpir.serialize.compress_fp16 import compress_to_fp16
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import write_model

CASES = {
    "normal": [0.1, -2.5, 1000.0, 0.0],
    "scalar": 0.5,
    "inexact scalar": 0.3,
    "one inexact value": [1e-5],
    "one value, error 0.999e-4": [1 + 0.999e-4],
    "one value, error 1.01e-4": [1 + 1.01e-4],
    "two inexact values": [0.3, 0.7],
    "one large value": [65505.0],
    "zero": 0.0,
    "all too large": [1e6, -1e7, 2e5],
    "74 % too large": [1e6] * 74 + [1.0] * 26,
    "75 % too large": [1e6] * 75 + [1.0] * 25,
    "half too small": [1e-9, 1e-20, 1.0, 2.0],
    "all too small": [1e-9, 1e-20],
    "subnormal": [6e-8, 5.9e-8, 3e-8, 2.9e-8, -3e-8],
    "smallest": [2.0**-24] * 3,
    "half of the smallest": [2.0**-25 * 1.01] * 3,
    "edge": [65504.0, 65519.9, 65520.0, -65504.1],
    "infinite": [np.inf, -np.inf, 1.0, 2.0, 3.0],
    "empty": [],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_as_openvino(case: str, dtype: type, tmp_path: Path) -> None:
    data: Any = np.array(CASES[case], dtype)
    node = ops.constant(data, name="w")
    ov.save_model(ov.Model([ops.result(node, name="r")], [], "m"), tmp_path / "full.xml", compress_to_fp16=False)
    model = ov.Core().read_model(tmp_path / "full.xml")
    ov.save_model(model, tmp_path / "theirs.xml", compress_to_fp16=True)
    write_model(read_model(tmp_path / "full.xml"), tmp_path / "ours.xml", compress_to_fp16=True)
    ours, theirs = (read_model(tmp_path / name) for name in ("ours.xml", "theirs.xml"))
    assert [(n.op.type_name, n.name, n.rt_info) for n in ours.nodes()] == [
        (n.op.type_name, n.name, n.rt_info) for n in theirs.nodes()
    ]
    stored, expected = (m.nodes()[0].op for m in (ours, theirs))
    assert isinstance(stored, Constant)
    assert isinstance(expected, Constant)
    assert stored.element_type == expected.element_type
    assert stored.data.tobytes() == expected.data.tobytes()


def test_nan_stays_nan() -> None:
    """OpenVINO stores -65504 instead; that would change answers silently."""
    x = constant(np.array([np.nan, 1.0], np.float32), name="w")
    stored = compress_to_fp16(Model([Node(Result(), [x], "r")], [])).nodes()[0].op
    assert isinstance(stored, Constant)
    np.testing.assert_array_equal(stored.data, np.array([np.nan, 1.0], np.float16))


def test_a_quantized_model_is_left_alone(tmp_path: Path) -> None:
    codes = ops.constant(np.array([[1, 2]], np.int8))
    y = ops.multiply(ops.convert(codes, "f32"), ops.constant(np.float32(0.1)))
    ov.save_model(ov.Model([ops.result(y)], [], "m"), tmp_path / "m.xml", compress_to_fp16=False)
    model = read_model(tmp_path / "m.xml")
    assert compress_to_fp16(model) is model


def test_names_move_to_the_convert(tmp_path: Path) -> None:
    node = ops.constant(np.array([1.5], np.float32), name="w")
    node.output(0).set_names({"t"})
    ov.save_model(ov.Model([ops.result(node, name="r")], [], "m"), tmp_path / "m.xml", compress_to_fp16=False)
    source, convert, result = compress_to_fp16(read_model(tmp_path / "m.xml")).nodes()
    assert (source.name, source.output.names) == ("w_compressed", set())
    assert (convert.name, convert.output.names, convert.output.element_type) == ("w", {"t"}, f32)
    assert convert.rt_info == {"decompression": {"version": "0"}}
    assert result.inputs == (convert.output,)
