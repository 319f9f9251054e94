"""Statistics of a tensor over many samples, in memory that does not grow with their number."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 4096


class MinMaxObserver:
    """The limits of everything seen: one pair, or one for each index along `axis` (the shape keeps the rank).

    `mean=True`: the mean over the samples of each one's limits, which forgives one odd sample.
    """

    def __init__(self, axis: int | None = None, mean: bool = False) -> None:
        self.axis = axis
        self.mean = mean
        self.count = 0
        self._low: Array | None = None
        self._high: Array | None = None

    def update(self, x: Array) -> None:
        """Adds one sample; an empty array adds nothing."""
        if x.size == 0:
            return
        axes = None if self.axis is None else tuple(a for a in range(x.ndim) if a != self.axis)
        keep = self.axis is not None
        low = np.asarray(x.min(axis=axes, keepdims=keep), np.float64)
        high = np.asarray(x.max(axis=axes, keepdims=keep), np.float64)
        self.count += 1
        if self._low is None or self._high is None:
            self._low, self._high = low, high
        elif self.mean:
            self._low, self._high = self._low + low, self._high + high
        else:
            self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def limits(self) -> tuple[Array, Array] | None:
        """(low, high), float64, or None when nothing was seen."""
        if self._low is None or self._high is None:
            return None
        scale = self.count if self.mean else 1
        return self._low / scale, self._high / scale


class HistogramObserver:
    """Counts of everything seen in equal bins over `[-R, R)`, R a power of two that doubles when a value needs it.

    Doubling adds neighboring bins, so no count is ever split: the result does not depend on the order of the samples.
    """

    axis: int | None = None

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.radius = 0.0
        self.seen = MinMaxObserver()

    def update(self, x: Array) -> None:
        """Adds one sample of finite values."""
        if x.size == 0:
            return
        self.seen.update(x)
        largest = float(np.abs(x).max())
        needed = 2.0 ** (np.floor(np.log2(max(largest, 1e-30))) + 1)
        if self.radius == 0.0:
            self.radius = needed
        while self.radius < needed:
            quarter = BINS // 4
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[quarter : quarter + BINS // 2] = merged
            self.radius *= 2
        index = ((x.reshape(-1).astype(np.float64) + self.radius) * (BINS / (2 * self.radius))).astype(np.int64)
        self.counts += np.bincount(np.minimum(index, BINS - 1), minlength=BINS)

    @property
    def edges(self) -> Array:
        return np.linspace(-self.radius, self.radius, BINS + 1)

    def percentile(self, kept: float) -> tuple[Array, Array] | None:
        """Limits that leave at most `100 - kept` percent of the values outside on each side."""
        limits = self.seen.limits()
        if limits is None:
            return None
        share = np.cumsum(self.counts) / self.counts.sum()
        outside = 1 - kept / 100
        low = self.edges[int(np.searchsorted(share, outside, side="right"))]
        high = self.edges[min(int(np.searchsorted(share, 1 - outside, side="left")) + 1, BINS)]
        return np.maximum(low, limits[0]), np.minimum(high, limits[1])

    def best_clipping(self, levels: int = 256, symmetric: bool = False, steps: int = 60) -> tuple[Array, Array] | None:
        """The limits `k/steps * (low, high)` with the least mean square error of `levels` equal steps.

        A value inside costs a twelfth of the squared step, one outside the square of its distance to the limit.
        """
        limits = self.seen.limits()
        if limits is None:
            return None
        low, high = float(limits[0]), float(limits[1])
        centers = (self.edges[:-1] + self.edges[1:]) / 2
        total = self.counts.sum()
        best = (np.inf, 1.0)
        for k in range(steps, steps // 4, -1):
            lo, hi = low * k / steps, high * k / steps
            full = 2 * max(-lo, hi) if symmetric and lo < 0 else hi - min(lo, 0.0)
            step = full / (levels - 1)
            outside = np.maximum(lo - centers, 0) ** 2 + np.maximum(centers - hi, 0) ** 2
            error = float((self.counts * outside).sum()) + float(total) * step * step / 12
            if error < best[0]:
                best = (error, k / steps)
        return limits[0] * best[1], limits[1] * best[1]
