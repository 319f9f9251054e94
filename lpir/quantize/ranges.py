"""From statistics to quantization limits: pure functions, after NNCF's formulas.

All functions take and give arrays that broadcast against the tensor (a scalar array for one range of the whole tensor).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

# a symmetric range is at least this large, and an asymmetric one as wide: NNCF's smallest step, so that a constant zero
# tensor still has a scale
SMALLEST_LIMIT = 8e-5
SMALLEST_WIDTH = 8e-4
# and a channel's symmetric range at least this part of the largest channel's
CHANNEL_FLOOR = 0.01


@record
class Range:
    """The limits and levels of one FakeQuantize whose output limits equal the input limits. float32."""

    low: Array
    high: Array
    levels: int

    @property
    def scale(self) -> Array:
        """The real width of one step, float64."""
        return (self.high.astype(np.float64) - self.low.astype(np.float64)) / (self.levels - 1)


def symmetric(low: Array, high: Array, *, bits: int = 8, narrow: bool = False, signed: bool = False) -> Range:
    """Limits with zero in the middle, or unsigned from 0 when nothing is negative and `signed` is not forced.

    `low`, `high`: the smallest and the largest value seen. Full signed: `-M * L / (L - 2) .. M` (codes -128..127);
    narrow: `-M .. M` in L - 1 levels (codes -127..127); unsigned: `0 .. M`.
    """
    low64, high64 = np.asarray(low, np.float64), np.asarray(high, np.float64)
    largest = np.maximum(np.abs(low64), np.abs(high64))
    largest = np.maximum(largest, max(CHANNEL_FLOOR * float(largest.max(initial=0.0)), SMALLEST_LIMIT))
    levels = 2**bits
    if not signed and not np.any(low64 < 0):
        return _range(np.zeros_like(largest), largest, levels)
    if narrow:
        return _range(-largest, largest, levels - 1)
    return _range(-largest * (levels / (levels - 2)), largest, levels)


def asymmetric(low: Array, high: Array, *, bits: int = 8) -> Range:
    """The smallest limits around `low`, `high` and 0 that have 0 on a level."""
    low64, high64 = np.asarray(low, np.float64), np.asarray(high, np.float64)
    thin = high64 - low64 <= SMALLEST_WIDTH
    low64 = np.minimum(np.where(thin, low64 - SMALLEST_WIDTH, low64), 0.0)
    high64 = np.maximum(np.where(thin, high64 + SMALLEST_WIDTH, high64), 0.0)
    return _range(*zero_on_level(low64, high64, 2**bits), 2**bits)


def zero_on_level(low: Array, high: Array, levels: int) -> tuple[Array, Array]:
    """`low <= 0 <= high` so that one of the `levels` is exactly 0: the side that needs least is widened.

    Where 0 is within half a step of a limit, that limit becomes 0. (NNCF leaves such limits without a level at 0, and
    always rounds to the nearest level, which can widen a range by a seventh.)
    """
    last = levels - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        level = -low * last / (high - low)
        below, above = np.floor(level), np.ceil(level)
        wider_high = np.where(below > 0, -low * (last - below) / below, np.inf)
        wider_low = np.where(above < last, -high * above / (last - above), -np.inf)
    widen_low = high - wider_low <= wider_high - low
    new_low = np.where(widen_low, np.minimum(wider_low, low), low)
    new_high = np.where(widen_low, high, np.maximum(wider_high, high))
    return np.where(level < 0.5, 0.0, new_low), np.where(level > last - 0.5, 0.0, new_high)


def weight_range(weight: Array, axes: tuple[int, ...], *, bits: int = 8) -> Range:
    """Symmetric narrow limits of a weight, one for each index along `axes`; the shape keeps the rank."""
    reduced = tuple(a for a in range(weight.ndim) if a not in axes)
    largest = np.abs(weight.astype(np.float64)).max(axis=reduced, keepdims=True, initial=0.0)
    # a small channel keeps its own fine scale (NNCF widens it to 1 % of the largest)
    largest = np.where(largest < 1e-30, SMALLEST_LIMIT, largest)
    return _range(-largest, largest, 2**bits - 1)


def _range(low: Array, high: Array, levels: int) -> Range:
    return Range(np.asarray(low, np.float32), np.asarray(high, np.float32), levels)
