"""Reductions, normalizations, softmax and attention: partial shapes, edges and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from lpir.errors import ModelError
from lpir.ir.op import Arg, Op
from lpir.ir.shape import PartialShape
from lpir.ir.types import boolean, f32, i32, i64
from lpir.ops.normalization import LRN, MVN, BatchNormInference, GroupNormalization, NormalizeL2
from lpir.ops.reduction import ReduceLogicalAnd, ReduceMax, ReduceMean, ReduceSum
from lpir.ops.softmax import LogSoftmax, ScaledDotProductAttention, Softmax
from tests.tolerances import EXACT, F32_CHAIN, assert_close


def arg(type: object, shape: str, value: object = None) -> Arg:
    known = None if value is None else np.asarray(value, np.int64)
    return Arg(type, PartialShape.parse(shape), known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keep", "shape", "axes", "expected"),
    [
        (False, "2,?,1..4,5", [1], "2,1..4,5"),
        (True, "2,?,1..4,5", [1, -1], "2,1,1..4,1"),
        (False, "2,3", [], "2,3"),
        (False, "...", [0], "..."),
        (True, "2,3", None, "1..2,1..3"),
        (False, "2,3", None, "..."),
    ],
)
def test_reduced_shapes(keep: bool, shape: str, axes: list[int] | None, expected: str) -> None:
    found = ReduceMean(keep).infer([arg(f32, shape), arg(i64, "?", axes)])[0]
    assert found.shape == PartialShape.parse(expected)
    assert found.element_type == f32


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        (ReduceSum(), [arg(f32, "2,3"), arg(i64, "1", [2])], "outside"),
        (ReduceSum(), [arg(f32, "2,3"), arg(i64, "2", [0, -2])], "twice"),
        (ReduceSum(), [arg(f32, "2,3"), arg(f32, "1")], "axes must be integers"),
        (ReduceLogicalAnd(), [arg(f32, "2,3"), arg(i64, "1", [1])], "must be boolean"),
        (MVN(eps_mode="other"), [arg(f32, "2,3"), arg(i64, "1", [1])], "eps_mode"),
        (MVN(), [arg(i32, "2,3"), arg(i64, "1", [1])], "floating point"),
        (NormalizeL2(1e-6, "other"), [arg(f32, "2,3"), arg(i64, "1", [1])], "eps_mode"),
        (BatchNormInference(1e-5), [arg(f32, "2,3"), *[arg(f32, "4")] * 4], "do not fit"),
        (BatchNormInference(1e-5), [arg(f32, "2,3"), *[arg(f32, "1,3")] * 4], "must be a vector"),
        (LRN(1.0, 1.0, 1.0, 3), [arg(f32, "2,3"), arg(i64, "1", [5])], "outside"),
        (GroupNormalization(4, 1e-5), [arg(f32, "2,6,3"), arg(f32, "6"), arg(f32, "6")], "do not divide"),
        (Softmax(3), [arg(f32, "2,3")], "outside"),
        (Softmax(), [arg(i32, "2,3")], "floating point"),
        (ScaledDotProductAttention(), [arg(f32, "2,4,8"), arg(f32, "2,5,7"), arg(f32, "2,5,6")], "last dimension"),
        (ScaledDotProductAttention(), [arg(f32, "2,4,8"), arg(f32, "2,5,8"), arg(f32, "2,4,6")], "length"),
        (ScaledDotProductAttention(), [arg(f32, "8"), arg(f32, "5,8"), arg(f32, "5,6")], "two dimensions"),
        (ScaledDotProductAttention(), [*[arg(f32, "2,4,8")] * 3, arg(i32, "4,4")], "mask must be"),
    ],
)
def test_refuses(op: Op, args: list[Arg], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        op.infer(args)


def test_attention_shape_with_unknown_lengths() -> None:
    args = [arg(f32, "?,3,?,8"), arg(f32, "1,3,?,8"), arg(f32, "1,3,?,6")]
    assert ScaledDotProductAttention().infer(args)[0].shape == PartialShape.parse("?,3,?,6")


def test_softmax_of_large_and_infinite_values() -> None:
    x = np.array([[1e38, -1e38, 0], [0, -np.inf, 0]], np.float32)
    expected = np.array([[1, 0, 0], [0.5, 0, 0.5]], np.float32)
    assert_close(Softmax(1).eval(x)[0], expected, EXACT)


def test_log_softmax_is_the_logarithm() -> None:
    x = np.random.default_rng(0).normal(0, 3, (4, 7)).astype(np.float32)
    assert_close(np.exp(LogSoftmax(1).eval(x)[0]), Softmax(1).eval(x)[0], F32_CHAIN)


def test_reductions_of_nothing() -> None:
    empty = np.zeros((2, 0), np.float32)
    axes = np.array([1])
    assert ReduceSum().eval(empty, axes)[0].tolist() == [0, 0]
    assert ReduceMax().eval(empty, axes)[0].tolist() == [-np.inf, -np.inf]
    assert Softmax(1).eval(empty)[0].shape == (2, 0)


def test_mean_of_integers_goes_toward_zero() -> None:
    x = np.array([[1, 2], [-1, -2]], np.int32)
    assert ReduceMean().eval(x, np.array([1]))[0].tolist() == [1, -1]


def test_boolean_mask_leaves_positions_out() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(4, 8)).astype(np.float32) for _ in range(3))
    keep = np.tri(4, dtype=bool)
    (masked,) = ScaledDotProductAttention().eval(q, k, v, keep)
    (causal,) = ScaledDotProductAttention(causal=True).eval(q, k, v)
    assert keep.dtype == boolean.dtype
    assert_close(masked, causal, EXACT)
