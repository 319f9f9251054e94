"""Simplified expressions are smaller and give the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.ir.types import f32, i32, u8
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expand import expand
from lpir.scalar.expr import Expr, apply, bitcast, cast, clamp, const, exp, input_, maximum, minimum, rint, rint_i32
from lpir.scalar.expr import select as choose
from lpir.scalar.simplify import simplify

X = input_(0)
I = input_(0, i32)  # noqa: E741
EDGES = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -7.25, 1e-45, -1e-40, 1e38, -3e38, np.inf, -np.inf, np.nan], np.float32
)


def size(e: Expr) -> int:
    return sum(1 for _ in e.walk())


def operations(e: Expr) -> int:
    """Without literals, which cost nothing and of which a division turned into a product may need one more."""
    return sum(1 for part in e.walk() if part.fn != "const")


def assert_same_bits(e: Expr, x: np.ndarray = EDGES) -> None:
    a, b = evaluate(e, [x]), evaluate(simplify(e), [x])
    a, b = np.broadcast_to(a, x.shape), np.broadcast_to(b, x.shape)
    assert a.dtype == b.dtype
    number = a == a
    np.testing.assert_array_equal(number, b == b)
    assert a[number].tobytes() == b[number].tobytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (X * 1.0, "x0"),
        (X / 1.0, "x0"),
        (X - 0.0, "x0"),
        (X + const(-0.0), "x0"),
        (X + 0.0, "add(x0, 0.0)"),
        (X - const(-0.0), "sub(x0, -0.0)"),
        (X * 0.0, "mul(x0, 0.0)"),
        (I + 0, "x0"),
        (I * 1, "x0"),
        (X / 4.0, "mul(x0, 0.25)"),
        (X / 3.0, "div(x0, 3.0)"),
        (apply("neg", -X), "x0"),
        (clamp(clamp(X, 0.0, 6.0), 1.0, 4.0), "minimum(maximum(x0, 1.0), 4.0)"),
        (maximum(clamp(X, -1.0, 6.0), 0.0), "minimum(maximum(x0, 0.0), 6.0)"),
        (maximum(maximum(X, 0.0), -0.0), "maximum(x0, 0.0)"),
        (minimum(X, X), "x0"),
        (cast(cast(input_(0, u8), i32), f32), "cast:f32(x0)"),
        (cast(cast(input_(0, u8), i32), u8), "x0"),
        (cast(cast(X, i32), f32), "cast:f32(cast:i32(x0))"),
        (bitcast(bitcast(X, i32), f32), "x0"),
        (choose(apply("lt", X, 0.0), X, X), "x0"),
        (rint_i32(rint(X)), "rint_i32:i32(x0)"),
        (X * (const(2.0) * const(3.0) + const(1.0)), "mul(x0, 7.0)"),
    ],
)
def test_rules(before: Expr, after: str) -> None:
    assert str(simplify(before)) == after
    leaf = before.inputs()[0]
    assert_same_bits(before, EDGES if leaf.is_float else np.arange(-100 if leaf == i32 else 0, 100).astype(leaf.dtype))


def test_functions_are_not_folded() -> None:
    """A device's exp may differ from NumPy's in the last bit, so exp(2) stays."""
    assert str(simplify(exp(const(2.0)))) == "exp(2.0)"


def test_equal_parts_are_shared() -> None:
    e = simplify((X + 1.0) * (X + 1.0))
    assert e.args[0] is e.args[1]


def test_signed_zeros_are_two_constants() -> None:
    e = simplify(choose(apply("lt", X, 1.0), const(0.0), const(-0.0)))
    assert e.fn == "select"


def test_deep_sharing_stays_cheap() -> None:
    e = X
    for _ in range(200):
        e = e * e
    assert size(simplify(e)) == 201


leaf_ = st.sampled_from([X, const(0.0), const(-0.0), const(1.0), const(2.0), const(-3.5), const(float("inf"))])


def grow(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    two = st.sampled_from(["add", "sub", "mul", "div", "minimum", "maximum"])
    one = st.sampled_from(["neg", "abs", "floor", "ceil", "rint"])
    return st.one_of(
        st.builds(lambda f, a, b: apply(f, a, b), two, children, children),
        st.builds(lambda f, a: apply(f, a), one, children),
        st.builds(lambda a, b, c, d: choose(apply("lt", a, b), c, d), children, children, children, children),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(leaf_, grow, max_leaves=12))
def test_any_expression_keeps_its_bits(e: Expr) -> None:
    small = simplify(e)
    assert operations(small) <= operations(e)
    assert_same_bits(e)


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sin", "tan", "asinh"])
def test_expanded_functions_keep_their_bits(name: str) -> None:
    e = expand(apply(name, X * 1.0))
    assert size(simplify(e)) < size(e)
    assert_same_bits(e, np.r_[EDGES, np.linspace(-20, 20, 999)].astype(np.float32))
