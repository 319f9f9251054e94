"""Limits from statistics: NNCF's numbers, and what must hold for any statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpir.ops.quantization import FakeQuantize
from lpir.quantize.ranges import Range, asymmetric, symmetric, weight_range

Number = float | list[float]

# low, high -> symmetric full low, high; narrow low, high; asymmetric low, high: written by nncf 3.4.0's
# quantization.fake_quantize.symmetric_range and asymmetric_range
NNCF: list[tuple[Number, ...]] = [
    (-1, 2, -2.01574802, 2, -2, 2, -1, 2),
    (-3, 2.5, -3.02362204, 3, -3, 3, -3, 2.50359726),
    (0, 6, 0, 6, 0, 6, 0, 6),
    (0.5, 6, 0, 6, 0, 6, 0, 6),
    (-6, -1, -6.04724407, 6, -6, 6, -6, 0),
    (0, 0, 0, 7.9999998e-05, 0, 7.9999998e-05, -0.000806299213, 0.00079999998),
    (-1e-05, 2e-05, -8.06299213e-05, 7.9999998e-05, -7.9999998e-05, 7.9999998e-05, -0.000813593681, 0.000819999957),
    (
        [-1, -100, -0.5],
        [0.5, 20, 0.001],
        [-1.00787401, -100.787399, -1.00787401],
        [1, 100, 1],
        [-1, -100, -1],
        [1, 100, 1],
        [-1, -100, -0.5],
        [0.5, 20.28302, 0.00196850393],
    ),
    ([0, 1, 0], [1, 200, 0.001], [0, 0, 0], [2, 200, 2], [0, 0, 0], [2, 200, 2], [0, 0, 0], [1, 200, 0.001]),
    (-0.05, 0.13, -0.131023616, 0.129999995, -0.129999995, 0.129999995, -0.0501630418, 0.129999995),
]
# NNCF computes in float32, lpir in float64 with one rounding at the end
FEW_ULP = 4e-7


@pytest.mark.parametrize("row", NNCF, ids=str)
def test_limits_are_those_of_nncf(row: tuple[Number, ...]) -> None:
    low, high, *expected = (np.array(v, np.float32) for v in row)
    found = (symmetric(low, high), symmetric(low, high, narrow=True), asymmetric(low, high))
    actual = [limit for r in found for limit in (r.low, r.high)]
    for a, e in zip(actual, expected, strict=True):
        assert np.all(np.abs(a - e) <= FEW_ULP * np.maximum(np.abs(e), 1e-30))


# the largest statistics a float32 network reasonably has
sizes = st.floats(-(2.0**66), 2.0**66, width=32)
pairs = st.tuples(sizes, sizes).map(sorted)


@given(pairs)
def test_zero_is_on_a_level_and_nothing_seen_is_outside(pair: list[float]) -> None:
    low, high = np.array(pair[0], np.float32), np.array(pair[1], np.float32)
    for limits in (symmetric(low, high), symmetric(low, high, signed=True), asymmetric(low, high)):
        step = float(limits.scale)
        assert step > 0
        level = -float(limits.low) / step
        assert abs(level - round(level)) < 1e-3
        # the formula rounds the level's share, the width and their product, each to half a ulp of `level` steps
        rounded = 3 * round(level) * 2.0**-24 + abs(level - round(level))
        assert abs(float(fake(limits, np.zeros(1, np.float32))[0])) <= rounded * step
        # what the narrower side loses is less than half a step
        assert float(limits.low) <= pair[0] + step * 0.51
        assert float(limits.high) >= pair[1] - step * 0.51


@given(pairs)
def test_asymmetric_limits_are_at_most_a_step_wider_than_needed(pair: list[float]) -> None:
    limits = asymmetric(np.array(pair[0], np.float32), np.array(pair[1], np.float32))
    needed = max(pair[1], 0.0) - min(pair[0], 0.0)
    if needed > 0.01:
        assert float(limits.high - limits.low) <= needed * (1 + 2 / 255) + 1e-3


@given(st.lists(sizes, min_size=1, max_size=8))
def test_weight_codes_use_the_whole_range_of_each_channel(values: list[float]) -> None:
    weight = np.array(values, np.float32)[:, None] * np.array([[1, -0.5, 0.25]], np.float32)
    limits = weight_range(weight, (0,))
    assert limits.levels == 255
    assert np.array_equal(limits.low, -limits.high)
    codes = np.rint(weight / limits.scale)
    assert np.all(np.abs(codes) <= 127)
    largest = np.abs(weight).max(axis=1)
    assert np.all(np.abs(codes).max(axis=1)[largest > 1e-30] == 127)


def test_an_empty_channel_has_a_scale() -> None:
    limits = weight_range(np.zeros((2, 3), np.float32), (0,))
    assert np.all(limits.high > 0)


def fake(limits: Range, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return FakeQuantize(limits.levels).eval(x, limits.low, limits.high, limits.low, limits.high)[0]
