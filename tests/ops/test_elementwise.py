"""Element types, broadcasting modes and refusals of the elementwise operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lpir.errors import ModelError
from lpir.ir.op import REGISTRY, Arg, Case, Op
from lpir.ir.shape import PartialShape
from lpir.ir.types import boolean, f32, from_dtype, i32, u8
from lpir.ops.activation import Clamp, Gelu, PRelu, Swish
from lpir.ops.bases import Binary, ElementwiseOp, Unary
from lpir.ops.elementwise import Add, Convert, Divide, Round, Select
from lpir.ops.logic import LogicalAnd
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expand import expand
from lpir.scalar.simplify import simplify
from tests.ops.test_conformance import run_openvino
from tests.tolerances import EXACT, F16_ROUNDING, Array, Tolerance, assert_close

ELEMENTWISE = sorted(n for n, cls in REGISTRY.items() if issubclass(cls, ElementwiseOp))
CASES = [pytest.param(c, id=f"{n}-{c.name}") for n in ELEMENTWISE for c in REGISTRY[n].cases()]
BINARY = sorted(n for n, cls in REGISTRY.items() if issubclass(cls, Binary) and "Logical" not in n)
APPROXIMATED = Tolerance("APPROXIMATED", "a few ulp, which 1 - e^x or 1 + erf(x) amplify near 0", abs=1e-6, rel=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_lowered_expression_is_close_to_the_reference(case: Case) -> None:
    """What native code computes, against NumPy's own functions."""
    op = case.op
    assert isinstance(op, ElementwiseOp)
    shapes = op.leaf_shapes([x.shape for x in case.inputs])
    leaves = [x.reshape(s) for x, s in zip(case.inputs, shapes, strict=True)]
    expr = op.expression([from_dtype(x.dtype) for x in case.inputs])
    lowered = np.broadcast_to(evaluate(simplify(expand(expr)), leaves), np.broadcast_shapes(*shapes))
    (reference,) = op.eval(*case.inputs)
    if reference.dtype.kind != "f":
        np.testing.assert_array_equal(lowered, reference)
        return
    assert_close(lowered, reference, APPROXIMATED)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_are_exact(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a: Array = rng.integers(-20, 20, (4, 5)).astype(dtype)
    b: Array = rng.integers(1, 5, (4, 5)).astype(dtype)
    case = Case(REGISTRY[name](), (a, b))
    assert_close(case.op.eval(a, b)[0], run_openvino(case, set())[0], EXACT)


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Exp", "HSigmoid", "Relu", "Sin", "Erf"])
def test_float16_is_rounded_once(name: str) -> None:
    x = np.linspace(-5, 5, 101).astype(np.float16)
    op: Op = REGISTRY[name]()
    wide = op.eval(x.astype(np.float32))[0].astype(np.float16)
    assert_close(op.eval(x)[0], wide, F16_ROUNDING)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 1, 4)])
def test_pdpd_aligns_to_the_left(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    case = Case(Add("pdpd"), (a, b))
    assert_close(case.op.eval(a, b)[0], run_openvino(case, set())[0], EXACT)


def arg(type: object, shape: str) -> Arg:
    return Arg(type, PartialShape.parse(shape))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        (Add(), [arg(f32, "2"), arg(i32, "2")], "different types"),
        (Add(), [arg(f32, "2"), arg(f32, "3")], "do not broadcast"),
        (Add("none"), [arg(f32, "2"), arg(f32, "1")], "equal shapes"),
        (Add("other"), [arg(f32, "2"), arg(f32, "2")], "auto_broadcast"),
        (LogicalAnd(), [arg(f32, "2"), arg(f32, "2")], "must be boolean"),
        (Select(), [arg(f32, "2"), arg(f32, "2"), arg(f32, "2")], "condition must be boolean"),
        (Select(), [arg(boolean, "2"), arg(f32, "2"), arg(i32, "2")], "different types"),
        (Clamp(2.0, 1.0), [arg(f32, "2")], "must not be above"),
        (Gelu(), [arg(i32, "2")], "floating point"),
        (PRelu(), [arg(f32, "2"), arg(i32, "1")], "slope must be f32"),
        (Swish(), [arg(f32, "2"), arg(i32, "")], "beta must be f32"),
    ],
)
def test_refuses(op: Op, args: list[Arg], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        op.infer(args)


def test_convert_saturates_floats_and_wraps_integers() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -1.9], np.float32)
    assert Convert(i32).eval(x)[0].tolist() == [0, 2**31 - 1, -(2**31), 2**31 - 1, -1]
    assert Convert(u8).eval(np.array([-1, 300], np.int32))[0].tolist() == [255, 44]


def test_division_by_zero() -> None:
    a, zero = np.array([1, -1, 0], np.float32), np.zeros(3, np.float32)
    assert_close(Divide().eval(a, zero)[0], np.array([np.inf, -np.inf, np.nan], np.float32), EXACT)


def test_unary_operations_keep_a_dynamic_shape() -> None:
    shape = PartialShape.parse("1..4,?,3")
    for name, cls in REGISTRY.items():
        if issubclass(cls, Unary) and name not in ("LogicalNot", "BitwiseNot") and cls.cases():
            op = cls.cases()[0].op
            assert op.infer([Arg(f32, shape)])[0].shape == shape


def test_round_names_its_modes() -> None:
    with pytest.raises(ModelError, match="half_to_even or half_away_from_zero"):
        Round("up").eval(np.zeros(1, np.float32))
