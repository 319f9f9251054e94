"""Activations of few levels: what is proved from the largest code holds for any input, NaN and infinity too."""

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
@pytest.mark.parametrize(("levels", "low"), [(16, 0.0), (16, -1.0), (128, -0.5), (2, 0.0)])
def test_the_bits_of_the_lowered_reference(isa: str, levels: int, low: float) -> None:
    b = Builder(4)
    image = parameter((1, 40, 5, 5), f32, "x")
    x = b.fake_quantize(image.output, low, low + (levels - 1) / levels, levels=levels)
    codes = b.rng.choice([-127, -126, 126, 127], (24, 40, 3, 3)).astype(np.int8)
    scale = b.rng.uniform(0.01, 0.02, (24, 1, 1, 1)).astype(np.float32)
    weights = make("Multiply", make("Convert", constant(codes), destination_type=f32), constant(scale))
    model = finish(make("Convolution", x, weights, name="layer", **GEOMETRY), image)
    data = b.rng.choice([-9, low, 0, 0.4, 9, np.inf, -np.inf, np.nan], (1, 40, 5, 5)).astype(np.float32)
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa})
    assert next(r for r in compiled.explain().rows if r.name == "layer").precision == "INT8"
    expected = Interpreter(lower_model(model)).create_runner().run([data])[0]
    assert_close(np.asarray(compiled(data)[0]), expected, EXACT)
