"""Weights that need more than 8 bits once their zero point is off: exact on every ISA."""

from __future__ import annotations

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas
from lpir.ir.types import f32
from lpir.ops.boundary import constant, parameter
from lpir.ops.builder import make
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.passes.networks import GEOMETRY, Builder, finish
from tests.tolerances import EXACT, assert_close


@pytest.mark.parametrize("isa", [isa.name for isa in all_isas() if isa.available()])
@pytest.mark.parametrize("kind", ["convolution", "depthwise", "matmul"])
def test_the_bits_of_the_lowered_reference(isa: str, kind: str) -> None:
    b = Builder(3)
    shape = {"convolution": (20, 9, 3, 3), "depthwise": (9, 1, 1, 3, 3), "matmul": (20, 36)}[kind]
    image = parameter((1, 9, 6, 6), f32, "x")
    x = b.fake_quantize(image.output, -1, 127 / 128, "fq")
    codes = b.rng.choice([0, 255], shape).astype(np.uint8)
    scale = b.rng.uniform(0.01, 0.02, (shape[0],) + (1,) * (len(shape) - 1)).astype(np.float32)
    centred = make("Subtract", make("Convert", constant(codes), destination_type=f32), constant(np.float32(100)))
    weights = make("Multiply", centred, constant(scale), name="w")
    if kind == "matmul":
        flat = make("Reshape", x, constant(np.array([9, 36])), special_zero=False)
        y = make("MatMul", flat, weights, transpose_a=False, transpose_b=True, name="layer")
    else:
        y = make(
            {"convolution": "Convolution", "depthwise": "GroupConvolution"}[kind], x, weights, name="layer", **GEOMETRY
        )
    model = finish(y, image)
    data = np.where(b.rng.random((1, 9, 6, 6)) < 0.5, -1, 1).astype(np.float32)
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa})
    row = next(r for r in compiled.explain().rows if r.name == "layer")
    assert row.precision == "INT8"
    # a tile holds 16 output channels of a group
    assert ("amx" if isa == "amx" and kind != "depthwise" else "igemm") in row.kernel
    expected = Interpreter(lower_model(model)).create_runner().run([data])[0]
    assert_close(np.asarray(compiled(data)[0]), expected, EXACT)
