"""INT8 convolutions and products against the lowered reference: equal bits, every instruction set, every geometry."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.convolution_int8 import ConvolutionInt8, MatMulInt8
from lpir.ir.types import f32, i32, u8
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul
from lpir.scalar.expr import Expr, cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, run

ACC = input_(0, i32)
REQUANT = cast(rint_i32(clamp((cast(ACC, f32) * input_(1) + input_(2)) * 0.37, -3.0, 252.0)) + 3, u8)
RESIDUAL = cast(
    rint_i32(clamp(cast(ACC, f32) * input_(1) + cast(cast(input_(2, u8), i32) - 7, f32) * 0.1, 0.0, 255.0)), u8
)
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def codes(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 256, shape).astype(np.uint8)


def weights(rng: np.random.Generator, *shape: int) -> Array:
    return np.clip(np.rint(rng.standard_normal(shape) * 60), -128, 127).astype(np.int8)


def convolution(rank: int, epilogue: Expr, **fields: object) -> LoweredConvolution:
    op = LoweredConvolution((1,) * rank, (1,) * rank, (0,) * rank, (0,) * rank, 1, 13, epilogue)
    return dataclasses.replace(op, **fields)  # type: ignore[arg-type]


GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], LoweredConvolution]] = {
    "1x1": ((1, 7, 7, 40), (1, 1, 40, 24), convolution(2, REQUANT)),
    "1x1_wide": ((1, 5, 9, 24), (1, 1, 24, 144), convolution(2, REQUANT)),
    "1x1_odd": ((1, 3, 5, 13), (1, 1, 13, 19), convolution(2, REQUANT)),
    "1x1_one_channel": ((2, 3, 3, 17), (1, 1, 17, 1), convolution(2, REQUANT)),
    "1x1_stride": ((1, 8, 8, 16), (1, 1, 16, 32), convolution(2, REQUANT, strides=(2, 2))),
    "3x3_padded": ((1, 9, 7, 8), (3, 3, 8, 16), convolution(2, REQUANT, pads_begin=(1, 1), pads_end=(1, 1))),
    "3x3_first": (
        (1, 17, 16, 3),
        (3, 3, 3, 32),
        convolution(2, REQUANT, strides=(2, 2), pads_begin=(0, 1), pads_end=(1, 2)),
    ),
    "dilated": (
        (2, 10, 9, 6),
        (3, 2, 6, 9),
        convolution(2, REQUANT, dilations=(2, 3), pads_begin=(2, 0), pads_end=(0, 3)),
    ),
    "groups": ((1, 6, 6, 24), (3, 3, 8, 60), convolution(2, REQUANT, groups=3, pads_begin=(1, 1), pads_end=(1, 1))),
    "small_groups": (
        (1, 5, 6, 10),
        (3, 3, 2, 15),
        convolution(2, REQUANT, groups=5, strides=(2, 1), pads_begin=(1, 1), pads_end=(1, 1)),
    ),
    "1d": ((2, 20, 5), (4, 5, 33), convolution(1, REQUANT, strides=(3,), pads_begin=(2,), pads_end=(1,))),
    "3d": ((1, 4, 5, 6, 4), (2, 3, 3, 4, 20), convolution(3, REQUANT, pads_begin=(1, 1, 1), pads_end=(0, 1, 1))),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("constants", [[1], [1, 2, 3]], ids=["clamped", "saturated"])
@ISAS
def test_geometry(isa: Isa, name: str, constants: list[int]) -> None:
    shape, kernel, op = GEOMETRIES[name]
    rng = np.random.default_rng(1)
    n = kernel[-1]
    scale, bias = rng.random(n, np.float32) * 0.02, rng.standard_normal(n).astype(np.float32) * 9
    inputs = [codes(rng, *shape), weights(rng, *kernel), scale, bias]
    (expected,) = op.eval(*inputs)
    (actual,) = run(ConvolutionInt8(), op, inputs, isa, len(constants), constants=constants)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("operand", [(1, 7, 6, 40), (2, 7, 6, 40), (2, 1, 1, 40), (40,), (1,)])
@ISAS
def test_tensor_operands(isa: Isa, operand: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    inputs = [
        codes(rng, 2, 7, 6, 24),
        weights(rng, 1, 1, 24, 40),
        rng.random(40, np.float32) * 0.01,
        codes(rng, *operand),
    ]
    op = convolution(2, RESIDUAL)
    (expected,) = op.eval(*inputs)
    (actual,) = run(ConvolutionInt8(), op, inputs, isa, 2, constants=[1])
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("epilogue", [ACC, cast(ACC, f32) * 0.5, ACC + 3], ids=["i32", "f32", "i32_constant"])
@ISAS
def test_wide_outputs(isa: Isa, epilogue: Expr) -> None:
    rng = np.random.default_rng(3)
    inputs = [codes(rng, 1, 5, 5, 12), weights(rng, 1, 1, 12, 37)]
    op = convolution(2, epilogue)
    (actual,) = run(ConvolutionInt8(), op, inputs, isa, 1, constants=[1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


EXTREMES = {
    "high": (255, 127),
    "low": (255, -128),
    "minus": (255, -127),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("k", [4608, 65])
@ISAS
def test_extremes_are_exact(isa: Isa, name: str, k: int) -> None:
    code, weight = EXTREMES[name]
    a, b = np.full((3, k), code, np.uint8), np.full((k, 21), weight, np.int8)
    b[::3, ::2] = -1 - weight if weight != -127 else 127
    op = LoweredMatMul(False, 0, 0, ACC)
    (actual,) = run(MatMulInt8(), op, [a, b], isa, 2, constants=[1])
    np.testing.assert_array_equal(actual, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("m", [1, 2, 5, 49, 100])
@pytest.mark.parametrize("n", [1, 10, 64, 1000])
@pytest.mark.parametrize("transpose", [False, True])
@ISAS
def test_matmul(isa: Isa, m: int, n: int, transpose: bool) -> None:
    rng = np.random.default_rng(m * n)
    k = 36
    b = weights(rng, n, k) if transpose else weights(rng, k, n)
    inputs = [codes(rng, m, k), b, rng.random(n, np.float32) * 0.02, rng.standard_normal(n).astype(np.float32)]
    op = LoweredMatMul(transpose, 101, 0, REQUANT)
    (actual,) = run(MatMulInt8(), op, inputs, isa, 2, constants=[1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


def test_refusals_are_words() -> None:
    from lpir.devices.cpu.isa import by_name
    from tests.devices.cpu.harness import make_node

    isa = by_name("avx2")
    a, b = np.zeros((4, 8), np.uint8), np.zeros((8, 8), np.int8)
    kernel = MatMulInt8()
    assert kernel.applies(make_node(LoweredMatMul(False, 0, 0, ACC), [a, b]), isa) == "the weights are not constant"
    zero_point = kernel.applies(make_node(LoweredMatMul(False, 0, 5, ACC), [a, b], [1]), isa)
    assert zero_point == "the weights have a zero point"
    long = kernel.applies(
        make_node(
            LoweredMatMul(False, 0, 0, ACC), [np.zeros((1, 70000), np.uint8), np.zeros((70000, 1), np.int8)], [1]
        ),
        isa,
    )
    assert long is not None
    assert "overflow" in long
