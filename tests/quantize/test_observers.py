"""Statistics over samples that come one at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lpir.quantize.observers import BINS, POSITIONS, HistogramObserver, MinMaxObserver, PositionObserver, pick

lists = st.lists(st.floats(-(2.0**30), 2.0**30, width=32), min_size=1, max_size=20)


@given(st.lists(lists, min_size=1, max_size=5))
def test_limits_over_all_samples(samples: list[list[float]]) -> None:
    observer, mean = MinMaxObserver(), MinMaxObserver(mean=True)
    for sample in samples:
        observer.update(np.array(sample, np.float32))
        mean.update(np.array(sample, np.float32))
    found, average = observer.limits(), mean.limits()
    assert found is not None
    assert average is not None
    assert found[0] == min(map(min, samples))
    assert found[1] == max(map(max, samples))
    assert np.isclose(average[1], np.mean([max(s) for s in samples]))


def test_limits_of_channels_keep_the_rank() -> None:
    observer = MinMaxObserver(axis=1)
    observer.update(np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2))
    observer.update(-np.ones((1, 3, 1, 1), np.float32))
    found = observer.limits()
    assert found is not None
    assert found[0].shape == (1, 3, 1, 1)
    assert found[1].reshape(-1).tolist() == [3, 7, 11]
    assert MinMaxObserver().limits() is None


# eighths, so that no value lies within rounding of the edge of a bin
eighths = st.lists(st.integers(-4000, 4000).map(lambda i: i / 8), min_size=1, max_size=20)


@given(st.lists(eighths, min_size=1, max_size=5))
def test_a_histogram_counts_everything_whatever_the_order(samples: list[list[float]]) -> None:
    forth, back = HistogramObserver(), HistogramObserver()
    for sample in samples:
        forth.update(np.array(sample, np.float32))
    for sample in reversed(samples):
        back.update(np.array(sample, np.float32))
    assert forth.counts.sum() == sum(map(len, samples))
    assert forth.radius == back.radius
    assert np.array_equal(forth.counts, back.counts)
    limits, whole = forth.percentile(100), forth.seen.limits()
    assert limits is not None
    assert whole is not None
    assert limits[0] <= whole[0]
    assert limits[1] >= whole[1]


def test_percentile_drops_the_tails() -> None:
    observer = HistogramObserver()
    observer.update(np.linspace(-1, 1, 100_001, dtype=np.float32))
    observer.update(np.array([50, -50], np.float32))
    found = observer.percentile(99.9)
    assert found is not None
    # a bin of the range +-64 is this wide
    bin_width = 128 / BINS
    assert abs(found[0] + 1) < 2 * bin_width
    assert abs(found[1] - 1) < 2 * bin_width


def test_best_clipping_drops_a_lonely_outlier_only() -> None:
    random = np.random.default_rng(0)
    plain, spiked = HistogramObserver(), HistogramObserver()
    data = random.uniform(-1, 1, 50_000).astype(np.float32)
    plain.update(data)
    spiked.update(data)
    spiked.update(np.array([6], np.float32))
    kept, clipped = plain.best_clipping(levels=16), spiked.best_clipping(levels=16)
    assert kept is not None
    assert clipped is not None
    assert kept[1] > 0.9
    assert clipped[1] < 2


def test_positions_are_few_and_the_same_for_equal_shapes() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 40, 40)).astype(np.float32)
    assert pick(x, 1).shape == (3, POSITIONS)
    assert pick(x[..., :2], 1).shape == (3, 80)
    observer = PositionObserver(1, samples=2)
    for _ in range(3):
        observer.update(x)
    assert len(observer.picks) == 2
    assert np.array_equal(observer.picks[0], pick(x, 1))
