"""The comparison that all tests rely on notices what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tolerances import EXACT, F32_SUM, F32_ULP, ONE_STEP, Tolerance, assert_close, worst_ulp

ONE = np.float32(1)
NEXT = np.nextafter(ONE, np.float32(2))


@pytest.mark.parametrize(
    ("actual", "expected", "tolerance"),
    [
        (np.array([1, 2], np.uint8), np.array([1, 3], np.uint8), ONE_STEP),
        (np.array([NEXT]), np.array([ONE]), F32_ULP(1)),
        (np.array([np.nan, np.inf], np.float32), np.array([np.nan, np.inf], np.float32), EXACT),
        (np.array([1e6, 1.0], np.float32), np.array([1e6, 1.3], np.float32), F32_SUM),
        (np.array([1.00001], np.float32), np.array([1.0], np.float32), F32_SUM.per(1000)),
        (np.array([0.1], np.float32), np.array([0.1]), F32_ULP(1)),
    ],
)
def test_accepts(actual: Any, expected: Any, tolerance: Tolerance) -> None:
    assert_close(actual, expected, tolerance)


@pytest.mark.parametrize(
    ("actual", "expected", "tolerance", "message"),
    [
        (np.array([1, 2], np.uint8), np.array([1, 3], np.uint8), EXACT, r"1 of 2 elements.*worst at \(1,\)"),
        (np.array([1, 2], np.uint8), np.array([1, 4], np.uint8), ONE_STEP, "error 2"),
        (np.zeros(2, np.int8), np.zeros(2, np.uint8), EXACT, "type int8, expected uint8"),
        (np.zeros(2), np.zeros((2, 1)), EXACT, "shape"),
        (np.array([np.nan], np.float32), np.array([0], np.float32), F32_SUM, "worst"),
        (np.array([np.inf], np.float32), np.array([-np.inf], np.float32), F32_SUM, "worst"),
        (np.array([NEXT]), np.array([ONE]), EXACT, "EXACT"),
    ],
)
def test_refuses(actual: Any, expected: Any, tolerance: Tolerance, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_close(actual, expected, tolerance)


def test_worst_ulp() -> None:
    assert worst_ulp(np.array([NEXT]), np.array([1.0])) == 1.0
