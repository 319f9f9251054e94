"""Conversions as additions: the same bits wherever they are written so, and left alone elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpir.devices.cpu.isa import by_name
from lpir.devices.cpu.kernels.convolution_amx import ConvolutionAmx
from lpir.devices.cpu.kernels.ranges import Range
from lpir.devices.cpu.kernels.rounding import LIMIT, MAGIC_BITS, by_additions, starts_from_magic
from lpir.ir.graph import Node
from lpir.ir.types import f32, i32, u8
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr, cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import Array, Context, Prepared, build, make_node, run
from tests.devices.cpu.test_convolution_int8 import ACC, REQUANT, codes, convolution, weights

AMX = by_name("amx")
needs_amx = pytest.mark.skipif(not AMX.available(), reason="this machine has no AMX")
# a convolution's codes, made numbers again and added to another tensor's: what a residual network asks for
CODES = rint_i32(clamp(cast(ACC, f32) * input_(1) + input_(2), -128.0, 127.0))
SUM = rint_i32(cast(CODES, f32) * 0.37 + cast(input_(3, u8), f32) * 0.41)
PLAIN = cast(rint_i32(clamp(cast(ACC, f32) * input_(1) + input_(2), 0.0, 255.0)), u8)
ADDED = cast(rint_i32(clamp(cast(CODES, f32) * 0.37 + cast(input_(3, u8), f32) * 0.41, 0.0, 255.0)), u8)


def ranges(sums: float) -> dict[int, Range]:
    """Those of the leaves of `SUM`, for sums within `+-sums`."""
    limits = {0: (-sums, sums), 1: (0.0, 0.01), 2: (-100.0, 100.0), 3: (0.0, 255.0)}
    return {i: (np.asarray(low), np.asarray(high)) for i, (low, high) in limits.items()}


def functions(expr: Expr) -> list[str]:
    return [e.fn for e in expr.walk()]


@given(st.lists(st.integers(-int(LIMIT), int(LIMIT)), min_size=1), st.integers(0, 2**32 - 1))
def test_bits_are_the_same(sums: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = np.array([*sums, int(LIMIT), -int(LIMIT), 0, 1, -1], np.int32)
    # scales of a half and a quarter end in ties
    scale = rng.choice(np.array([0.5, 0.25, 0.01, 1e-4], np.float32), acc.shape)
    leaves = [scale, rng.integers(-3, 4, acc.shape).astype(np.float32), codes(rng, *acc.shape)]
    written = by_additions(SUM, ranges(LIMIT))
    assert starts_from_magic(written)
    np.testing.assert_array_equal(
        evaluate(written, [acc + np.int32(MAGIC_BITS), *leaves]), evaluate(SUM, [acc, *leaves])
    )


def test_sums_beyond_the_limit_are_converted() -> None:
    written = by_additions(SUM, ranges(LIMIT + 1))
    assert not starts_from_magic(written)
    # the codes between are clamped, whatever the sums are
    assert functions(written).count("rint_i32") == functions(SUM).count("rint_i32") - 1


@pytest.mark.parametrize("expr", [cast(ACC, f32), rint_i32(cast(ACC, f32) * input_(1) + input_(2)), ACC + 3], ids=str)
def test_short_epilogues_stay_as_they_are(expr: Expr) -> None:
    assert by_additions(expr, ranges(1000.0)) is expr


def test_an_epilogue_that_is_packed_in_one_operation_gives_up_a_conversion() -> None:
    written = by_additions(CODES, ranges(1000.0), packing=1)
    assert starts_from_magic(written)
    assert "cast" not in functions(written)


def test_sums_that_are_also_read_as_integers_are_not_shifted() -> None:
    both = rint_i32(cast(CODES, f32) * 0.37 + cast(input_(3, u8), f32) * 0.41) + input_(0, i32)
    assert by_additions(both, ranges(1000.0)) is both


def residual(hw: tuple[int, int], channels: int, n: int, extreme: bool) -> list[Array]:
    """Inputs of a 1x1 convolution and what is added to it."""
    rng = np.random.default_rng(channels * n)
    x, w = codes(rng, 1, *hw, channels), weights(rng, 1, 1, channels, n)
    if extreme:
        x[:], w[:] = 255, rng.choice(np.array([-128, 127], np.int8), w.shape)
    scale, bias = rng.random(n, np.float32) * 0.01, rng.standard_normal(n).astype(np.float32) * 9
    return [x, w, scale, bias, codes(rng, 1, *hw, n)]


@needs_amx
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize(
    ("hw", "channels", "n"), [((7, 7), 64, 96), ((28, 28), 128, 64), ((5, 9), 300, 40), ((14, 14), 64, 16)]
)
def test_residual_layers(
    hw: tuple[int, int], channels: int, n: int, zero_point: int, extreme: bool, threads: int
) -> None:
    inputs = residual(hw, channels, n, extreme)
    op = convolution(2, ADDED, x_zero_point=zero_point)
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, threads, [1, 2, 3])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize(("hw", "channels", "n"), [((28, 28), 16, 96), ((9, 16), 190, 80), ((14, 14), 80, 32)])
def test_wide_blocks(hw: tuple[int, int], channels: int, n: int, zero_point: int, extreme: bool) -> None:
    inputs = residual(hw, channels, n, extreme)[:4]
    op = convolution(2, PLAIN, x_zero_point=zero_point)
    (step,), _, _ = build(ConvolutionAmx(), make_node(op, inputs, [1, 2, 3]), inputs, AMX)
    assert step.code.symbol.startswith("amx_wide")
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, 2, [1, 2, 3])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("hw", "channels", "n"), [((28, 28), 64, 64), ((14, 14), 256, 32), ((8, 4), 70, 96)])
def test_results_take_the_place_of_what_is_added(hw: tuple[int, int], channels: int, n: int, threads: int) -> None:
    inputs = residual(hw, channels, n, False)
    op = convolution(2, ADDED)
    node = make_node(op, inputs, [1, 2, 3])
    assert ConvolutionAmx().reuses(node) == (4,)
    context = Context(threads)
    for value, data in zip(node.inputs, inputs, strict=True):
        context.bind(value, data, data.nbytes)
    shared = context.values[id(node.inputs[4])]
    context.values[id(node.outputs[0])] = shared
    Prepared(ConvolutionAmx().build(node, AMX, context), AMX, context)()
    actual = context.memory[int(shared.buffer)][: inputs[4].nbytes].reshape(inputs[4].shape)
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@pytest.mark.parametrize(
    ("hw", "n", "strides"), [((7, 7), 64, (1, 1)), ((14, 14), 40, (1, 1)), ((28, 28), 64, (2, 2))], ids=str
)
def test_what_is_computed_twice_keeps_what_is_added(hw: tuple[int, int], n: int, strides: tuple[int, int]) -> None:
    inputs = residual(hw, 64, n, False)
    inputs[4] = inputs[4][:, :: strides[0], :: strides[1]].copy()
    node = make_node(convolution(2, ADDED, strides=strides), inputs, [1, 2, 3])
    assert ConvolutionAmx().reuses(node) == ()


def test_an_input_that_is_added_to_its_own_product_is_kept() -> None:
    node = make_node(convolution(2, ADDED), residual((14, 14), 64, 64, False), [1, 2, 3])
    assert ConvolutionAmx().reuses(Node(node.op, [*node.inputs[:4], node.inputs[0]])) == ()


def test_a_plain_quantization_takes_nothing_over() -> None:
    inputs = residual((14, 14), 64, 64, False)[:4]
    assert ConvolutionAmx().reuses(make_node(convolution(2, REQUANT), inputs, [1, 2, 3])) == ()
