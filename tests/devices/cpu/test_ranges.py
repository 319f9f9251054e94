"""Ranges of epilogues, and the clamps that they make needless."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.kernels.ranges import (
    Range,
    largest_code,
    sums_range,
    value_range,
    without_clamp,
    without_codes,
)
from lpir.ir.graph import Value
from lpir.ir.types import f32, i32, u8
from lpir.ops.boundary import constant
from lpir.ops.lowered import LoweredMatMul, Table
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr, cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import Array, make_node

ACC = input_(0, i32)


def quantized(inverse: float, zero_point: int, low: float, high: float) -> Expr:
    y = (cast(ACC, f32) * input_(1) + input_(2)) * inverse
    return cast(rint_i32(clamp(y, low, high)) + zero_point, u8)


def leaves(scale: float, bias: float) -> dict[int, Range]:
    def point(x: float) -> Array:
        return np.asarray([x])

    return {0: (point(-1e6), point(1e6)), 1: (point(scale), point(scale)), 2: (point(bias), point(bias))}


@settings(max_examples=50, deadline=None)
@given(st.floats(2**-20, 10, width=32), st.floats(-100, 100, width=32), st.integers(0, 255), st.integers(0, 2**31))
def test_saturating_equals_clamping(scale: float, bias: float, zero_point: int, seed: int) -> None:
    expr = quantized(0.5, zero_point, float(-zero_point), float(255 - zero_point))
    bare = without_clamp(expr, leaves(scale, bias))
    assert bare is not None
    acc = np.random.default_rng(seed).integers(-1000000, 1000001, 200).astype(np.int32)
    inputs = [acc, np.asarray([scale], np.float32), np.asarray([bias], np.float32)]
    assert np.array_equal(np.clip(evaluate(bare, inputs), 0, 255), evaluate(expr, inputs))


def test_kept_where_there_is_no_proof() -> None:
    full = quantized(1.0, 7, -7.0, 248.0)
    assert without_clamp(full, leaves(0.1, 3.0)) is not None
    assert without_clamp(full, leaves(1e6, 3.0)) is None, "the product leaves int32"
    assert without_clamp(full, {0: leaves(1, 1)[0]}) is None, "the scale is unknown"
    assert without_clamp(quantized(1.0, 7, 0.0, 248.0), leaves(0.1, 3.0)) is None, "the lower limit is not the type's"
    assert without_clamp(cast(ACC, u8), leaves(1, 1)) is None


def relu6(per_channel: list[float]) -> tuple[Expr, dict[int, Range], Array]:
    y = clamp(cast(ACC, f32) * input_(1) + input_(2), 0.0, 6.0) * input_(3)
    inverse = np.asarray(per_channel, np.float32)
    wide = inverse.astype(np.float64)
    return cast(rint_i32(clamp(y, 0.0, 255.0)), u8), {**leaves(0.001, 0.5), 3: (wide, wide)}, inverse


def test_inner_clamp_goes_where_it_lands_outside() -> None:
    expr, known, inverse = relu6([42.5, 60.0])
    bare = without_clamp(expr, known)
    assert bare is not None
    assert not [e for e in bare.walk() if e.fn in ("minimum", "maximum")]
    acc = np.linspace(-20000, 20000, 4000).astype(np.int32)[:, None]
    inputs = [acc, np.asarray([0.001], np.float32), np.asarray([0.5], np.float32), inverse]
    assert np.array_equal(np.clip(evaluate(bare, inputs), 0, 255), evaluate(expr, inputs))


def test_inner_clamp_stays_where_it_lands_inside() -> None:
    expr, known, inverse = relu6([42.5, 40.0])
    bare = without_clamp(expr, known)
    assert bare is not None
    assert "minimum" in str(bare)
    acc = np.linspace(-20000, 20000, 4000).astype(np.int32)[:, None]
    inputs = [acc, np.asarray([0.001], np.float32), np.asarray([0.5], np.float32), inverse]
    assert np.array_equal(np.clip(evaluate(bare, inputs), 0, 255), evaluate(expr, inputs))


def test_range_is_proved_without_the_inner_clamp() -> None:
    y = clamp(cast(ACC, f32) * input_(1), 0.0, 6.0) * 42.5
    expr = cast(rint_i32(clamp(y, 0.0, 255.0)), u8)
    bare = without_clamp(expr, leaves(1000.0, 0.0))
    assert bare is not None
    assert "minimum" in str(bare)


def test_sums_of_a_layer() -> None:
    w = np.random.default_rng(0).integers(-128, 128, (3, 3, 5)).astype(np.int8)
    low, high = sums_range(w, 100)
    wide = w.astype(np.int64)
    best = np.where(wide > 0, (255 - 100) * wide, -100 * wide).sum((0, 1))
    assert np.array_equal(high, best)
    assert np.all(low < high)


def test_range_of_a_residual() -> None:
    code = input_(1, u8)
    y = cast(ACC, f32) * 0.5 - cast(cast(code, i32) - 128, f32) * 2.0
    found = value_range(y, {0: (np.asarray(-10.0), np.asarray(10.0)), 1: (np.asarray(0.0), np.asarray(255.0))})
    assert found is not None
    assert (float(found[0]), float(found[1])) == (-5.0 - 254.0, 5.0 + 256.0)


def residual(zero_point: int, high: float) -> Expr:
    """A sum that becomes a code, meets another code as a real number, and becomes a code again."""
    first = cast(rint_i32(clamp(cast(ACC, f32) * 0.01, float(-zero_point), high)) + zero_point, u8)
    return cast(rint_i32(cast(cast(first, i32) - zero_point, f32) * 0.5 + cast(input_(1, u8), f32)), u8)


def test_codes_on_the_way_are_left_out() -> None:
    known = {0: (np.asarray(-1e6), np.asarray(1e6)), 1: (np.asarray(0.0), np.asarray(255.0))}
    expr = residual(7, 248.0)
    short = without_codes(expr, known)
    assert str(short).count("u8") < str(expr).count("u8")
    assert len(list(short.walk())) <= len(list(expr.walk())) - 4
    acc = np.linspace(-30000, 60000, 5000).astype(np.int32)
    inputs = [acc, np.full(5000, 3, np.uint8)]
    assert np.array_equal(evaluate(short, inputs), evaluate(expr, inputs))


def test_a_cast_that_wraps_stays() -> None:
    known = {0: (np.asarray(-1e6), np.asarray(1e6)), 1: (np.asarray(0.0), np.asarray(255.0))}
    assert without_codes(residual(7, 249.0), known) == residual(7, 249.0)


def with_epilogue(epilogue: Expr) -> Value:
    op = LoweredMatMul(False, 0, 0, epilogue)
    return make_node(op, [np.zeros((2, 4), np.uint8), np.zeros((4, 3), np.int8)], [1]).output


def test_largest_code() -> None:
    y = cast(ACC, f32) * 0.5
    assert largest_code(with_epilogue(cast(rint_i32(clamp(y, -3.0, 12.0)) + 3, u8))) == 15
    assert largest_code(with_epilogue(cast(rint_i32(clamp(y, 0.0, 127.0)), u8))) == 127
    # a NaN becomes the zero point
    assert largest_code(with_epilogue(cast(rint_i32(clamp(y, -90.0, -80.0)) + 90, u8))) == 90
    # below 0 it would wrap around
    assert largest_code(with_epilogue(cast(rint_i32(clamp(y, -3.0, 12.0)) + 2, u8))) == 255
    assert largest_code(with_epilogue(cast(ACC, u8))) == 255
    assert largest_code(constant(np.array([3, 90], np.uint8))) == 90
    table = make_node(Table(), [np.zeros(3, np.uint8), np.arange(256, dtype=np.uint8) // 4], [1])
    assert largest_code(table.output) == 63
