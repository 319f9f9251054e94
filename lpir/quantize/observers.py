"""Statistics of a tensor over many samples, in memory that does not grow with their number."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 4096
# of each channel and sample; enough for two numbers a channel, and bounded whatever the picture's size
POSITIONS = 128


class Observer(Protocol):
    """Sees the value of one tensor for each sample."""

    def update(self, x: Array) -> None:
        """Takes one sample of finite values."""


class PositionObserver:
    """Keeps some positions of a layer's output for the first few samples: `picks[sample]` is [channels, positions]."""

    def __init__(self, axis: int, samples: int) -> None:
        self.axis = axis
        self.samples = samples
        self.picks: list[Array] = []

    def update(self, x: Array) -> None:
        """Adds one sample while there is room."""
        if len(self.picks) < self.samples:
            self.picks.append(pick(x, self.axis))


def pick(x: Array, axis: int) -> Array:
    """At most POSITIONS evenly spread positions of all channels (`axis`): [channels, positions]."""
    flat = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    count = flat.shape[1]
    if count <= POSITIONS:
        return flat.copy()
    return flat[:, np.linspace(0, count - 1, POSITIONS).astype(np.int64)]


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
        """The limits inside what was seen with the least mean square error of `levels` equal steps.

        A value inside costs a twelfth of the squared step, one outside the square of its distance to the limit.
        `symmetric`: one number bounds both sides; otherwise the upper limit is found first, then the lower.
        """
        limits = self.seen.limits()
        if limits is None:
            return None
        low, high = float(limits[0]), float(limits[1])
        parts = [k / steps for k in range(steps, steps // 4, -1)]
        if symmetric:
            bounds = [max(-low, high) * part for part in parts]
            pairs = [(max(low, -bound), min(high, bound)) for bound in bounds]
            low, high = min(pairs, key=lambda pair: self._error(pair[0], pair[1], levels, symmetric))
        else:
            if high > 0:
                high = min((high * part for part in parts), key=lambda h: self._error(low, h, levels, symmetric))
            if low < 0:
                low = min((low * part for part in parts), key=lambda v: self._error(v, high, levels, symmetric))
        return np.asarray(low, np.float64), np.asarray(high, np.float64)

    def _error(self, low: float, high: float, levels: int, symmetric: bool) -> float:
        centers = (self.edges[:-1] + self.edges[1:]) / 2
        width = 2 * max(-low, high) if symmetric and low < 0 else max(high, 0.0) - min(low, 0.0)
        step = width / (levels - 1)
        outside = np.maximum(low - centers, 0) ** 2 + np.maximum(centers - high, 0) ** 2
        return float(self.counts @ outside) + float(self.counts.sum()) * step * step / 12
