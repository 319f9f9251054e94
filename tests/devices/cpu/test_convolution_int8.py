"""INT8 convolutions and products against the lowered reference: equal bits, every instruction set, every geometry."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def signs(name: str, k: int, n: int) -> Array:
    """True where a weight is the extreme one, False where it has the other sign."""
    i, j = np.arange(k)[:, None], np.arange(n)
    patterns = {
        "all": i + j >= 0,
        "none": i + j < 0,
        "every second": (i + j) % 2 == 0,
        "pairs": (i // 2 + j) % 2 == 0,
        "fours": (i // 4 + j) % 2 == 0,
        "third of steps": i % 3 + 0 * j > 0,
        "half of channels": (j % 2 == 0) & (i >= 0),
    }
    return patterns[name]


SIGNS = ["all", "none", "every second", "pairs", "fours", "third of steps", "half of channels"]


@pytest.mark.parametrize("pattern", SIGNS)
@pytest.mark.parametrize(("extreme", "other"), [(127, -128), (-128, 0), (-127, 127)])
@pytest.mark.parametrize("k", [4608, 65])
@ISAS
def test_extremes_are_exact(isa: Isa, pattern: str, extreme: int, other: int, k: int) -> None:
    a, b = np.full((3, k), 255, np.uint8), np.where(signs(pattern, k, 21), extreme, other).astype(np.int8)
    op = LoweredMatMul(False, 0, 0, ACC)
    (actual,) = run(MatMulInt8(), op, [a, b], isa, 2, constants=[1])
    np.testing.assert_array_equal(actual, a.astype(np.int64) @ b.astype(np.int64))


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 20),
    k=st.integers(1, 70),
    n=st.integers(1, 40),
    zero_point=st.integers(0, 255),
    wide=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@ISAS
def test_any_product_is_exact(isa: Isa, m: int, k: int, n: int, zero_point: int, wide: bool, seed: int) -> None:
    """`wide`: weights with a zero point of their own, as int16 codes."""
    rng = np.random.default_rng(seed)
    a = rng.choice([0, 1, 254, 255], (m, k)).astype(np.uint8) if seed % 2 else codes(rng, m, k)
    b = rng.choice([-128, -127, 127, 3], (k, n)).astype(np.int8) if seed % 3 else weights(rng, k, n)
    if wide:
        b = b.astype(np.int16) - rng.integers(-128, 128, dtype=np.int16)
    op = LoweredMatMul(False, zero_point, 0, ACC)
    (actual,) = run(MatMulInt8(), op, [a, b], isa, 2, constants=[1])
    np.testing.assert_array_equal(actual, (a.astype(np.int64) - zero_point) @ b.astype(np.int64))


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
