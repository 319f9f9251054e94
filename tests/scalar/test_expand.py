"""Expanded functions: accuracy against float64, and the answers at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lpir.ir.types import bf16, f16, f32, i32
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expand import expand, is_expanded
from lpir.scalar.expr import Expr, apply, const, input_, power
from tests.tolerances import EXACT, F32_ULP, Array, assert_close, worst_ulp

# largest error in ulp, as the docstring of expand.py promises
ULPS = {
    **{"exp": 3, "log": 1, "erf": 3, "tanh": 7, "sin": 2, "cos": 2, "tan": 4, "asin": 4, "acos": 4, "atan": 4},
    **{"sinh": 7, "cosh": 7, "asinh": 3, "acosh": 3, "atanh": 3},
}
NUMPY_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
NUMPY_NAMES |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
ALL_BITS = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
NEAR = np.linspace(-12, 12, 100_003).astype(np.float32)
ROUND = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, 1.0, -1.0, 0.5, -0.5, 2.0, 1e9, 3.4e38, -3.4e38]
LIMITS = [88.72, 88.73, 89.0, -87.4, -100.0, -103.0, -103.97, -104.0, 9.02, -9.02, 3.92]
EDGES = np.array([*ROUND, *LIMITS], np.float32)


def exact(name: str) -> Callable[[Array], Array]:
    """The function in float64."""
    fn: Any = np.frompyfunc(math.erf, 1, 1) if name == "erf" else getattr(np, NUMPY_NAMES.get(name, name))
    return lambda x: np.asarray(fn(x.astype(np.float64))).astype(np.float64)


def run(expr: Expr, *inputs: Array) -> Array:
    return evaluate(expand(expr), inputs)


@pytest.mark.parametrize("name", ULPS)
@pytest.mark.parametrize("x", [ALL_BITS, NEAR, EDGES], ids=["all_bits", "near", "edges"])
def test_within_the_promised_ulps(name: str, x: Array) -> None:
    if name in ("sin", "cos", "tan"):
        x = x[~(np.abs(x) > 2.0**31) | ~np.isfinite(x)]
    with np.errstate(all="ignore"):
        expected = exact(name)(x)
        rounded = expected.astype(np.float32)
    actual = run(apply(name, input_(0)), x)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(rounded))
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(rounded))
    zero = rounded == 0
    np.testing.assert_array_equal(np.signbit(actual[zero]), np.signbit(rounded[zero]))
    assert worst_ulp(actual, expected) <= ULPS[name]


@pytest.mark.parametrize("name", [*ULPS, "pow", "mod", "floor_mod", "sign", "ceil"])
def test_only_primitives_are_left(name: str) -> None:
    args = [input_(0), input_(1)] if name in ("pow", "mod", "floor_mod") else [input_(0)]
    assert is_expanded(expand(apply(name, *args)))


def test_bounded_functions_stay_bounded() -> None:
    for name in ("tanh", "erf", "sin", "cos"):
        y = run(apply(name, input_(0)), ALL_BITS)
        assert np.nanmax(np.abs(y)) <= 1.0


@pytest.mark.parametrize(("name", "most"), [("exp", 28), ("erf", 28)])
def test_short(name: str, most: int) -> None:
    """A kernel's inner loop pays for each operation; a division is as long as many."""
    walked = expand(apply(name, input_(0))).walk()
    assert sum(e.fn not in ("const", "input") for e in walked) <= most
    assert "div" not in {e.fn for e in walked}


def test_erf_ends_at_one() -> None:
    """GELU of what lies far below 0 is 0."""
    far = np.array([3.8749998, 3.9, 5.0, 1e30, np.inf], np.float32)
    assert_close(run(apply("erf", input_(0)), np.r_[far, -far]), np.r_[np.ones_like(far), -np.ones_like(far)], EXACT)


def test_pow() -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_cauchy(50_000)).astype(np.float32)
    y = (rng.standard_normal(50_000) * 8).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)
    assert_close(run(power(input_(0), input_(1)), x, y), expected, F32_ULP(1))


def test_pow_at_the_edges() -> None:
    values = np.array([0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 3, -3, 1.5, np.inf, -np.inf, np.nan, 1e-40], np.float32)
    x, y = (m.reshape(-1) for m in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)
    actual = run(power(input_(0), input_(1)), x, y)
    assert_close(actual, expected, F32_ULP(1))
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(actual[zero]), np.signbit(expected[zero]))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, -1.0, 2.0, 3.0, -2.5])
def test_constant_pow(exponent: float) -> None:
    x = np.r_[EDGES, NEAR]
    with np.errstate(all="ignore"):
        # an array as exponent: NumPy takes a shortcut for numbers
        expected = np.power(x.astype(np.float64), np.full(x.shape, exponent)).astype(np.float32)
    assert_close(run(power(input_(0), const(exponent)), x), expected, F32_ULP(1))


@pytest.mark.parametrize("name", ["mod", "floor_mod"])
def test_float_remainders_are_exact(name: str) -> None:
    rng = np.random.default_rng(1)
    a = np.r_[rng.standard_normal(20_000) * 1000, 7.5, -7.5, 6, -6, 0.0, -0.0, 1, np.inf, np.nan, 5].astype(np.float32)
    b = np.r_[rng.standard_normal(20_000), 2.5, 2.5, -3, 3, 2, 2, 0, 1, 1, np.inf].astype(np.float32)
    with np.errstate(all="ignore"):
        expected = (np.fmod if name == "mod" else np.mod)(a, b)
    actual = run(apply(name, input_(0), input_(1)), a, b)
    assert_close(actual, expected, EXACT)


@pytest.mark.parametrize("name", ["mod", "floor_mod"])
def test_integer_remainders_are_exact(name: str) -> None:
    a, b = (m.reshape(-1).astype(np.int32) for m in np.meshgrid(np.arange(-9, 10), [-4, -3, -1, 1, 2, 5]))
    expected = (np.fmod if name == "mod" else np.mod)(a, b)
    assert_close(run(apply(name, input_(0, i32), input_(1, i32)), a, b), expected, EXACT)


@pytest.mark.parametrize("name", ["sign", "ceil"])
def test_exact_rewrites(name: str) -> None:
    expr = apply(name, input_(0))
    actual, expected = run(expr, ALL_BITS), evaluate(expr, [ALL_BITS])
    assert_close(actual, expected, EXACT)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("type", [f16, bf16])
def test_half_types_compute_in_float32(type: Any) -> None:
    x = np.linspace(-4, 4, 101).astype(type.dtype)
    wide = run(apply("exp", input_(0, f32)), x.astype(np.float32)).astype(type.dtype)
    assert_close(run(apply("exp", input_(0, type)), x), wide, EXACT)
