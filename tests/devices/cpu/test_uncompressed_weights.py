"""FakeQuantize on float weights, as older files store it, is INT8 too; and as it stands when that is asked for."""

from __future__ import annotations

import numpy as np

import lpir
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import constant, parameter
from lpir.ops.builder import make
from tests.passes.networks import GEOMETRY, Builder, finish
from tests.tolerances import F32_CHAIN, assert_close


def network() -> Model:
    b = Builder(4)
    image = parameter((1, 4, 8, 8), f32, "x")
    x = b.fake_quantize(image.output, -2, 2 * 127 / 128, "fq")
    weights = constant(b.rng.normal(size=(8, 4, 3, 3)).astype(np.float32), name="weights")
    high = np.abs(weights.node.op.data).max(axis=(1, 2, 3), keepdims=True)  # type: ignore[attr-defined]
    limits = [constant(v) for v in (-high, high, -high, high)]
    quantized = make("FakeQuantize", weights, *limits, levels=255, name="fq_weights")
    y = make("Convolution", x, quantized, name="conv", **GEOMETRY)
    depthwise = constant(b.rng.normal(size=(8, 9)).astype(np.float32))
    reshaped = make("Reshape", depthwise, constant(np.array([8, 1, 1, 3, 3])), special_zero=False)
    quantized = make("FakeQuantize", reshaped, *(constant(np.float32(v)) for v in (-4, 4, -4, 4)), levels=255)
    y = b.fake_quantize(y, -30, 30 * 127 / 128, "fq1")
    return finish(make("GroupConvolution", y, quantized, name="depthwise", **GEOMETRY), image)


def test_weights_become_codes() -> None:
    compiled = lpir.compile_model(network(), "CPU")
    rows = {r.name: r for r in compiled.explain().rows}
    assert rows["conv"].precision == rows["depthwise"].precision == "INT8"
    assert compiled.explain().refused() == []


def test_as_it_stands_is_the_formula() -> None:
    x = np.random.default_rng(2).normal(size=(1, 4, 8, 8)).astype(np.float32)
    as_is = lpir.compile_model(network(), "CPU", {"LP_TRANSFORMS_MODE": "NO"})(x)[0]
    assert_close(np.asarray(as_is), np.asarray(lpir.compile_model(network(), "REFERENCE")(x)[0]), F32_CHAIN)
