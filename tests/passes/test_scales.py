"""Multiplications folded into those before them: one rounding less, and never further from the exact value."""

from __future__ import annotations

import numpy as np

from lpir.ir.types import f32, i32, u8
from lpir.ops.boundary import constant
from lpir.passes.lowprec.clamps import drop_inner_clamps
from lpir.passes.lowprec.scales import fold_output_scale, join_factors
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr, cast, clamp, erf, input_, rint_i32

SUM = cast(input_(0, i32), f32)


def quantized(x: Expr) -> Expr:
    return cast(rint_i32(clamp(x * 3.7, 0.0, 255.0)), u8)


def products(expr: Expr) -> int:
    return sum(e.fn in ("mul", "div") for e in expr.walk())


def test_a_bias_may_come_first() -> None:
    scale, bias = constant(np.float32([0.5, 0.25])), constant(np.float32([3.0, -1.0]))
    for y in (SUM * input_(1) + input_(2), input_(2) + SUM * input_(1)):
        expr, operands = fold_output_scale(quantized(y), [scale, bias], 1)
        assert products(expr) == 1
        sums = np.arange(-50, 50, dtype=np.int32)[:, None]
        data = [np.asarray(v.node.op.data) for v in operands]  # type: ignore[attr-defined]
        folded = evaluate(expr, [sums, *data]).astype(int)
        exact = np.clip(np.rint((sums * [0.5, 0.25] + [3.0, -1.0]) * np.float32(3.7)), 0, 255)
        assert np.abs(folded - exact).max() <= 1
        assert (folded == exact).mean() > 0.95


def test_the_last_factor_takes_the_scale() -> None:
    gelu = SUM * (erf(SUM * 0.7) + 1.0) * input_(1)
    expr, operands = fold_output_scale(quantized(gelu), [constant(np.float32([2.0, 4.0]))], 1)
    assert products(expr) == products(quantized(gelu)) - 1
    assert np.allclose(operands[0].node.op.data, [7.4, 14.8])  # type: ignore[attr-defined]


def test_a_literal_among_factors_takes_the_scale() -> None:
    gelu = SUM * 0.5 * (erf(SUM * 0.7) + 1.0)
    scale = constant(np.float32([2.0, 4.0]))
    expr, operands = fold_output_scale(cast(rint_i32(clamp(gelu * input_(1), 0.0, 255.0)), u8), [scale], 1)
    assert products(expr) == products(gelu)
    assert np.allclose(operands[0].node.op.data, [1.0, 2.0])  # type: ignore[attr-defined]


def test_a_sum_of_two_tensors_is_left_alone() -> None:
    y = SUM * 0.5 + input_(1)
    tensor = constant(np.zeros(3, np.int32)).node.output
    assert fold_output_scale(quantized(y), [tensor], 1)[0] == quantized(y)


def test_factors_of_a_sum_are_one() -> None:
    sums = np.arange(-1000, 1000, 7, dtype=np.int32)
    for expr in (SUM * 0.011 / 5.657, SUM * 0.011 * 0.177):
        joined = join_factors(expr + input_(1))
        assert products(joined) == 1
        mask = np.zeros_like(sums, np.float32)
        np.testing.assert_allclose(evaluate(joined, [sums, mask]), evaluate(expr, [sums]), rtol=2e-7)
    floats = input_(0) * 0.5 / 3.0
    assert join_factors(floats) == floats


def test_a_scale_for_each_channel_is_folded_through_a_clamp_that_it_outgrows() -> None:
    y = clamp(SUM * input_(1) + input_(2), 0.0, 6.0) * input_(3)
    expr = rint_i32(clamp(y, 0.0, 255.0))
    arrays = [np.float32([0.5, 0.25]), np.float32([1.5, -1.0]), np.float32([42.5, 61.0])]
    bare = drop_inner_clamps(expr, dict(enumerate(arrays, 1)))
    folded, operands = fold_output_scale(bare, [constant(a) for a in arrays], 1)
    assert products(folded) == 1
    sums = np.arange(-50, 50, dtype=np.int32)[:, None]
    data = [np.asarray(v.node.op.data) for v in operands]  # type: ignore[attr-defined]
    assert np.abs(evaluate(folded, [sums, *data]) - evaluate(expr, [sums, *arrays])).max() <= 1
    arrays[2][1] = 42.0
    assert drop_inner_clamps(expr, dict(enumerate(arrays, 1))) == expr, "the last channel's 6 is no more than 252"
