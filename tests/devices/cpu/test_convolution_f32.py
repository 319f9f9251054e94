"""Float32 convolutions and matrix products against float64, and their epilogues against the lowered reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import fgemm, tiling
from lpir.devices.cpu.kernels.convolution_f32 import KERNELS
from lpir.devices.cpu.kernels.fgemm import Cut, Shape
from lpir.ir.types import f32, i32, u8
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul
from lpir.scalar.expr import Expr, cast, clamp, erf, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import F32_SUM, assert_close

CONVOLUTION, MATMUL = KERNELS
ACC, BIAS, OTHER = input_(0), input_(1), input_(2)
RELU6 = clamp(ACC + BIAS, 0.0, 6.0)
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_convolution(op: LoweredConvolution, inputs: list[Array], isa: Isa, threads: int = 1) -> None:
    (actual,) = run(CONVOLUTION, op, inputs, isa, threads, range(1, len(inputs)))
    (expected,) = op.eval(*inputs)
    k = inputs[1].size // inputs[1].shape[-1]
    assert_close(actual, expected, F32_SUM.per(k))


def convolution(
    rank: int, epilogue: Expr, stride: int = 1, dilation: int = 1, begin: int = 0, end: int = 0, groups: int = 1
) -> LoweredConvolution:
    return LoweredConvolution(
        (stride,) * rank,
        (dilation,) * rank,
        (begin,) * rank,
        (end,) * rank,
        groups=groups,
        x_zero_point=0,
        epilogue=epilogue,
    )


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_convolution(isa: Isa, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    c, o = (groups * data.draw(st.sampled_from([1, 3, 4, 17])), groups * data.draw(st.sampled_from([1, 5, 16, 24, 50])))
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    draw = {
        name: data.draw(st.integers(lo, hi))
        for name, lo, hi in [("stride", 1, 2), ("dilation", 1, 2), ("begin", 0, 2), ("end", 0, 2)]
    }
    spatial = tuple(data.draw(st.integers(5, 9)) for _ in range(rank))
    op = convolution(rank, RELU6, groups=groups, **draw)
    x, w = normal((data.draw(st.integers(1, 2)), *spatial, c)), normal((*kernel, c // groups, o), 1)
    check_convolution(op, [x, w, normal((o,), 2)], isa, data.draw(st.sampled_from([1, 2, 3])))


@ISAS
def test_typical_layers(isa: Isa) -> None:
    for shape, kernel, o, stride, pad in [
        ((1, 28, 28, 96), 1, 24, 1, 0),
        ((1, 7, 7, 160), 1, 320, 1, 0),
        ((1, 14, 14, 32), 3, 64, 1, 1),
        ((1, 33, 33, 3), 3, 32, 2, 1),
    ]:
        x, w = normal(shape), normal((kernel, kernel, shape[-1], o), 1)
        check_convolution(convolution(2, RELU6, stride=stride, begin=pad, end=pad), [x, w, normal((o,), 2)], isa, 2)


@ISAS
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_long_sums_are_cut_into_parts(isa: Isa, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bias = normal((50,), 2)
    for shape, kernel, stride in [((1, 7, 7, 96), 3, 1), ((1, 9, 8, 640), 1, 2), ((1, 3, 1, 384), 1, 1)]:
        x, w = normal(shape), normal((kernel, kernel, shape[-1], 50), 1)
        op = convolution(2, RELU6, stride=stride, begin=kernel // 2, end=kernel // 2)
        assert fgemm.cut(Shape(1, 1, 50, kernel, kernel * shape[-1])).parts > 1
        check_convolution(op, [x, w, bias], isa, threads)
        (parts,) = run(CONVOLUTION, op, [x, w, bias], isa, threads, (1, 2))
        with monkeypatch.context() as patch:
            patch.setattr(fgemm, "PART", 10**4)
            (whole,) = run(CONVOLUTION, op, [x, w, bias], isa, threads, (1, 2))
        # sums wait as they are: the order of additions is the same
        np.testing.assert_array_equal(parts, whole)


def test_parts_have_equal_runs() -> None:
    assert fgemm.cut(Shape(1, 49, 512, 3, 1536)) == Cut(length=128, runs=1, parts=36)
    assert fgemm.cut(Shape(1, 49, 512, 3, 96)) == Cut(length=96, runs=1, parts=3)
    assert fgemm.cut(Shape(1, 49, 512, 9, 32)) == Cut(length=32, runs=3, parts=3)
    # too short to gain
    assert fgemm.cut(Shape(1, 49, 512, 7, 21)) == Cut(length=21, runs=7, parts=1)
    # a prime length has no equal runs
    assert fgemm.cut(Shape(1, 49, 512, 1, 257)) == Cut(length=257, runs=1, parts=1)


def test_threads_share_rows_or_columns() -> None:
    # 56 x 56 x 64 -> 256: rows of both tensors are the most; in chunks, because the weights stay in the cache
    rows, columns = tiling.choose_order(1, 523, 4, 768.0, (802_816, 65_536, 3_211_264), 2)
    assert rows > 2
    assert (rows % 2, columns) == (0, 1)
    # 7 x 7 x 512 -> 512 with 9 taps: the weights are the most, and pass once
    assert tiling.choose_order(1, 10, 8, 46_080.0, (100_352, 9_437_184, 100_352), 2) == (1, 2)
    assert tiling.choose_order(1, 10, 8, 46_080.0, (100_352, 9_437_184, 100_352), 1) == (1, 1)
    # more threads than there are columns share both
    assert tiling.choose_order(1, 10, 8, 46_080.0, (100_352, 9_437_184, 100_352), 16) == (2, 8)
    # a vector has one row
    assert tiling.choose_order(1, 1, 8, 8192.0, (8192, 8_192_000, 4000), 2) == (1, 2)


@ISAS
def test_operands(isa: Isa) -> None:
    x, w = normal((2, 5, 6, 7)), normal((1, 1, 7, 40), 1)
    residual, row, scalar = normal((2, 5, 6, 40), 2), normal((2, 1, 1, 40), 3), normal((), 4)
    epilogue = (ACC + BIAS) * OTHER + input_(3) * cast(input_(4, u8), f32)
    codes = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 40)).astype(np.uint8)
    check_convolution(convolution(2, epilogue), [x, w, residual, row, scalar, codes], isa, 2)


@ISAS
def test_operand_that_repeats_along_channels(isa: Isa) -> None:
    x, w, gate = normal((2, 5, 6, 7)), normal((1, 1, 7, 20), 1), normal((2, 5, 6, 1), 2)
    check_convolution(convolution(2, ACC * BIAS), [x, w, gate], isa, 2)


@ISAS
def test_quantized_output(isa: Isa) -> None:
    x, w = np.round(normal((1, 9, 9, 8)) * 4), np.round(normal((3, 3, 8, 20), 1) * 4)
    # sums of small integers are exact in any order: so is the epilogue behind them
    epilogue = cast(rint_i32(clamp(ACC * 0.37 + BIAS, -100.0, 155.0)) + 100, u8)
    (actual,) = run(CONVOLUTION, convolution(2, epilogue, begin=1, end=1), [x, w, normal((20,), 2)], isa, 2, (1, 2))
    (expected,) = convolution(2, epilogue, begin=1, end=1).eval(x, w, normal((20,), 2))
    np.testing.assert_array_equal(actual, expected)


def check_matmul(op: LoweredMatMul, inputs: list[Array], isa: Isa, threads: int, constants: tuple[int, ...]) -> None:
    (actual,) = run(MATMUL, op, inputs, isa, threads, constants)
    assert_close(actual, op.eval(*inputs)[0], F32_SUM.per(inputs[0].shape[-1]))


@ISAS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_matmul(isa: Isa, data: st.DataObject) -> None:
    batch = data.draw(st.sampled_from([(), (2,), (2, 3), (1, 3)]))
    m, k, n = (data.draw(st.sampled_from([1, 2, 7, 16, 33, 64, 100])) for _ in range(3))
    k = data.draw(st.sampled_from([k, k, 257, 384]))
    other = data.draw(st.sampled_from([batch, batch[1:], (1,) * len(batch), ()]))
    transpose = data.draw(st.booleans())
    constant = data.draw(st.booleans())
    a, b = normal((*batch, m, k)), normal((*other, n, k) if transpose else (*other, k, n), 1)
    if data.draw(st.booleans()) and not constant:
        a, b = b if not transpose else np.swapaxes(b, -1, -2), np.swapaxes(a, -1, -2) if not transpose else a
        a = np.ascontiguousarray(a)[..., : min(a.shape[-1], b.shape[-1 if transpose else -2])]
        b = np.ascontiguousarray(b[..., : a.shape[-1]] if transpose else b[..., : a.shape[-1], :])
        a = np.ascontiguousarray(a)
    op = LoweredMatMul(transpose, 0, 0, ACC * BIAS)
    check_matmul(op, [a, b, normal((1,), 3)], isa, data.draw(st.sampled_from([1, 2, 3])), (1, 2) if constant else (2,))


@ISAS
def test_attention_and_gelu(isa: Isa) -> None:
    q, k = normal((1, 12, 33, 32)), normal((1, 12, 33, 32), 1)
    mask = normal((1, 1, 1, 33), 2)
    check_matmul(LoweredMatMul(True, 0, 0, ACC * 0.17 + BIAS), [q, k, mask], isa, 2, ())
    gelu = (ACC + BIAS) * 0.5 * (erf((ACC + BIAS) * 0.70710678) + 1.0)
    check_matmul(
        LoweredMatMul(False, 0, 0, gelu), [normal((1, 33, 64)), normal((64, 100), 1), normal((100,), 2)], isa, 2, (1, 2)
    )
    masks = normal((2, 1, 1, 33), 2)
    q2, k2 = normal((2, 3, 33, 32)), normal((2, 3, 33, 32), 1)
    check_matmul(LoweredMatMul(True, 0, 0, ACC * 0.17 + BIAS), [q2, k2, masks], isa, 2, ())


def test_refuses_integers() -> None:
    from lpir.devices.cpu.isa import by_name
    from tests.devices.cpu.harness import make_node

    x, w = np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 1, 3, 8), np.int8)
    node = make_node(convolution(2, cast(input_(0, i32), f32)), [x, w], (1,))
    assert "not f32" in str(CONVOLUTION.applies(node, by_name("avx2")))
