"""Named tolerances. Each says how far a result may be off and why; there is no default."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Tolerance:
    """An error of `abs + rel * |expected| + ulp * (spacing at expected) + of_max * max |expected|` is allowed.

    `dtype` is the float type whose spacing `ulp` counts.
    """

    name: str
    reason: str
    abs: float = 0.0
    rel: float = 0.0
    ulp: float = 0.0
    of_max: float = 0.0
    dtype: Any = np.float32

    def per(self, k: int) -> Tolerance:
        """The tolerance of a sum of `k` terms: `sqrt(k)` times this one."""
        factor = math.sqrt(max(k, 1))
        return dataclasses.replace(
            self, name=f"{self.name}.per({k})", rel=self.rel * factor, of_max=self.of_max * factor
        )

    def allowed(self, expected: Array) -> Array:
        """The largest error for each element of `expected` (float64)."""
        magnitude = np.where(np.isfinite(expected), np.abs(expected), 0.0)
        total = self.abs + self.rel * magnitude + self.of_max * (magnitude.max() if magnitude.size else 0.0)
        if self.ulp:
            info: Any = ml_dtypes.finfo(self.dtype)  # type: ignore[no-untyped-call]
            tiny = float(info.smallest_subnormal)
            exponent = np.floor(np.log2(np.maximum(magnitude, tiny)))
            total = total + self.ulp * np.maximum(np.exp2(exponent) * float(info.eps), tiny)
        return np.broadcast_to(np.asarray(total, np.float64), expected.shape)


EXACT = Tolerance("EXACT", "the same operations in the same order: every bit is equal")
ONE_STEP = Tolerance("ONE_STEP", "requantization may round the other way at a tie", abs=1)
F32_SUM = Tolerance(
    "F32_SUM", "float32 terms are summed in another order; use .per(K) for K terms", rel=4e-7, of_max=4e-7
)
F32_CHAIN = Tolerance("F32_CHAIN", "a few float32 operations in another order or contracted", rel=1e-6, of_max=1e-6)
F16_ROUNDING = Tolerance("F16_ROUNDING", "rounded once to float16 from a float32 result", ulp=1, dtype=np.float16)
BF16_ROUNDING = Tolerance("BF16_ROUNDING", "rounded once to bfloat16", ulp=1, dtype=ml_dtypes.bfloat16)


def F32_ULP(n: float) -> Tolerance:
    """`n` units in the last place of float32: a polynomial instead of the correctly rounded function."""
    return Tolerance(f"F32_ULP({n})", "another approximation of the same function", ulp=n)


def assert_close(actual: Any, expected: Any, tolerance: Tolerance, what: str = "") -> None:
    """Asserts equal shapes, equal types (unless `expected` is float64: the exact value), and values within `tolerance`.

    NaN must meet NaN, an infinity the same infinity. The message names the worst element.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    label = f"{what}: " if what else ""
    assert actual.shape == expected.shape, f"{label}shape {actual.shape}, expected {expected.shape}"
    if expected.dtype != np.float64:
        assert actual.dtype == expected.dtype, f"{label}type {actual.dtype}, expected {expected.dtype}"
    whole = actual.dtype.kind in "iub" and expected.dtype.kind in "iub"
    with np.errstate(all="ignore"):
        a, e = (x.astype(np.int64 if whole else np.float64) for x in (actual, expected))
        same = (a == e) | (np.isnan(a) & np.isnan(e))
        error = np.abs(a.astype(np.float64) - e.astype(np.float64))
        bad = ~same & ~(error <= tolerance.allowed(e.astype(np.float64)))
    if not bad.any():
        return
    # a NaN or an infinity in the wrong place counts as the worst
    score = np.where(bad, np.nan_to_num(error, nan=np.inf, posinf=np.inf), -1.0)
    worst = np.unravel_index(int(np.argmax(score)), score.shape)
    place = tuple(int(i) for i in worst)
    raise AssertionError(
        f"{label}{int(bad.sum())} of {bad.size} elements differ by more than {tolerance.name} ({tolerance.reason}); "
        f"worst at {place}: {actual[worst]!r}, expected {expected[worst]!r}, error {error[worst]}"
    )


def worst_ulp(actual: Array, exact: Array) -> float:
    """The largest error of finite float32 results in units of the last place, against float64 values."""
    one = dataclasses.replace(EXACT, ulp=1.0)
    finite = np.isfinite(actual) & (np.abs(exact) < float(np.finfo(np.float32).max))
    error = np.abs(actual[finite].astype(np.float64) - exact[finite]) / one.allowed(exact[finite])
    return float(error.max()) if error.size else 0.0
