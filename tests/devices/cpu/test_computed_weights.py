"""Convolutions by weights that the model computes: native on every instruction set, in INT8 where both are codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.passes.networks import GEOMETRY, Builder
from tests.tolerances import EXACT, F32_SUM, assert_close

ISAS = [isa.name for isa in all_isas() if isa.available()]
# input, weights (five axes and more in two dimensions: groups), and what differs from a padded 3x3
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((2, 4, 9, 9), (6, 4, 3, 3), {}),
    "strided, dilated": ((1, 4, 13, 12), (6, 4, 3, 3), {"strides": (2, 3), "dilations": (2, 1), "pads_end": (2, 0)}),
    "1x1": ((1, 4, 9, 7), (5, 4, 1, 1), {"pads_begin": (0, 0), "pads_end": (0, 0)}),
    "depthwise, as trackers correlate": ((1, 8, 12, 12), (8, 1, 1, 5, 5), {"pads_begin": (0, 0), "pads_end": (0, 0)}),
    "depthwise, an odd number of channels": ((2, 37, 9, 8), (37, 1, 1, 3, 3), {"strides": (2, 1)}),
    "depthwise, few channels": ((1, 3, 9, 8), (3, 1, 1, 3, 3), {}),
    "groups": ((2, 8, 9, 9), (2, 6, 4, 3, 3), {}),
}


def model_of(name: str, quantized: bool) -> Model:
    x, w = (parameter(shape, f32, n) for n, shape in zip("xw", CASES[name][:2], strict=True))
    b = Builder()
    values = [v.outputs[0] for v in (x, w)]
    if quantized:
        values = [
            b.fake_quantize(values[0], -3, 5 - 8 / 256, "fq"),
            b.fake_quantize(values[1], -2, 2 * 127 / 128, "fw"),
        ]
    type = "GroupConvolution" if len(CASES[name][1]) > 4 else "Convolution"
    y = make(type, *values, name="tested", **GEOMETRY | CASES[name][2])
    return Model([Node(Result(), [y], "out")], [x, w], "net")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_computed_weights(name: str, quantized: bool, isa: str) -> None:
    model = model_of(name, quantized)
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa, "INFERENCE_NUM_THREADS": 2})
    (row,) = [r for r in compiled.explain().rows if r.name == "tested"]
    if "depthwise" in name:
        assert (row.precision, row.kernel.split(", ")[-1]) == ("FP32", "fdepthwise")
        assert len(row.reasons) == quantized
    else:
        assert (row.precision, row.reasons) == ("INT8" if quantized else "FP32", ())
    assert "eval" not in row.kernel
    rng = np.random.default_rng(4)
    arrays = [rng.normal(scale=3, size=v.shape.to_static()).astype(np.float32) for v in model.inputs]
    if quantized and row.precision == "INT8":
        assert_close(compiled(arrays)[0], Interpreter(lower_model(model)).create_runner().run(arrays)[0], EXACT)
    else:
        terms = int(np.prod(CASES[name][1][-3:]))
        assert_close(compiled(arrays)[0], lpir.compile_model(model, "REFERENCE")(arrays)[0], F32_SUM.per(terms))


def test_refusals_say_why() -> None:
    """The input alone is quantized, a scale varies, or padding has no code."""
    x, w = parameter((1, 4, 6, 6), f32, "x"), parameter((3, 4, 3, 3), f32, "w")
    b = Builder()
    codes = b.fake_quantize(x.outputs[0], -3, 5 - 8 / 256)
    steps = np.linspace(0.01, 0.02, 3, dtype=np.float32).reshape(3, 1, 1, 1)
    limits = [constant(np.float32(n) * steps) for n in (-128, 127) * 2]
    scaled = make("FakeQuantize", w.outputs[0], *limits, levels=256)
    away = b.fake_quantize(x.outputs[0], 1 / 16, 1 / 16 + 255 / 64)
    plain = b.fake_quantize(w.outputs[0], -2, 2 * 127 / 128)
    for values, reason in (
        ((codes, w.outputs[0]), "'w' is not quantized"),
        ((codes, scaled), "a scale varies"),
        ((away, plain), "padding has no code"),
    ):
        y = make("Convolution", *values, name="tested", **GEOMETRY)
        refused = lower_model(Model([Node(Result(), [y], "out")], [x, w], "net")).rt_info["refused"]
        assert reason in refused["tested"][0]
