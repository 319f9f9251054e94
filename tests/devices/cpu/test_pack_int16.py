"""The proof that sums of products stay in int16: what the packer admits, and what becomes of all that it was given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import by_name
from lpir.devices.cpu.kernels.pack import PackedWeights, channel_index
from lpir.devices.cpu.kernels.pack_int16 import block_columns, pack_int16
from tests.devices.cpu.harness import Array

TAPS = (0, 100, 230)
SHAPES = {"n": st.integers(1, 40), "channels": st.integers(1, 37), "lanes": st.sampled_from([8, 16])}
TOPS = st.sampled_from([1, 15, 127, 128, 254, 255])
SEEDS = st.integers(0, 2**32 - 1)


def some_weights(seed: int, *shape: int) -> Array:
    """Weights of very different spread, with runs of extremes."""
    rng = np.random.default_rng(seed)
    w = np.clip(rng.standard_normal(shape) * rng.choice([5, 30, 60, 400]), -128, 127)
    extreme = rng.choice([-128, -127, 127], shape)
    return np.where(rng.random(shape) < rng.choice([0, 0.05, 0.7]), extreme, w).astype(np.int8)


def windows_of(packed: PackedWeights, lanes: int) -> Array:
    """`[windows, lanes, 4]` int8."""
    count = len(packed.offsets) - 1
    return packed.weights[: count * lanes * 4].view(np.int8).reshape(count, lanes, 4)


def sums_of(packed: PackedWeights, lanes: int) -> list[Array]:
    """The weights of each int16 sum that a kernel makes: [terms, lanes, 2 halves, 2], of every pair and window."""
    windows = windows_of(packed, lanes).reshape(-1, lanes, 2, 2)
    sums: list[Array] = []
    for first, middle, last in packed.ranges[:-1].tolist():
        sums += [windows[i : i + 2] for i in range(first, middle, 2)]
        sums += [windows[i : i + 1] for i in range(middle, last)]
    return sums


@settings(max_examples=80, deadline=None)
@given(**SHAPES, top=TOPS, seed=SEEDS)
def test_no_admitted_sum_leaves_int16(n: int, channels: int, lanes: int, top: int, seed: int) -> None:
    packed = pack_int16(some_weights(seed, 2, len(TAPS), channels, n), lanes, TAPS, top)
    for terms in sums_of(packed, lanes):
        wide = terms.astype(np.int64)
        # the activations that drive a sum furthest: all those that meet a positive weight, or all that meet a negative
        assert (np.maximum(wide, 0).sum((0, 3)) * top).max() <= 32767
        assert (np.minimum(wide, 0).sum((0, 3)) * top).min() >= -32768


@settings(max_examples=80, deadline=None)
@given(**SHAPES, top=TOPS, seed=SEEDS)
def test_every_weight_counts_once(n: int, channels: int, lanes: int, top: int, seed: int) -> None:
    w = some_weights(seed, 2, len(TAPS), channels, n)
    packed = pack_int16(w, lanes, TAPS, top)
    columns = block_columns(w, channel_index(n, lanes, 1)[:, 0])
    windows = windows_of(packed, lanes)
    expected = np.zeros((len(columns), max(TAPS) + channels + 4, lanes), np.int64)
    for tap, run in zip(TAPS, columns.transpose(1, 0, 2, 3), strict=True):
        expected[:, tap : tap + channels] += run
    assert packed.ranges[0, 0] == 0
    assert np.array_equal(packed.ranges[1:, 0], packed.ranges[:-1, 2])
    assert packed.ranges[-1].tolist() == [len(windows)] * 3
    assert packed.offsets.min() >= 0
    for block, (first, _, last) in enumerate(packed.ranges[:-1].tolist()):
        found = np.zeros(expected.shape[1:], np.int64)
        for i in range(4):
            np.add.at(found, packed.offsets[first:last] + i, windows[first:last, :, i])
        assert np.array_equal(found, expected[block])
    assert np.array_equal(packed.sums, columns.sum((1, 2), dtype=np.int32).reshape(-1))


@settings(max_examples=40, deadline=None)
@given(channels=st.integers(1, 200), seed=SEEDS)
def test_emulated_instructions_are_exact(channels: int, seed: int) -> None:
    """`vpmaddubsw` saturates and `vpaddw` wraps, in NumPy."""
    rng = np.random.default_rng(seed)
    w = some_weights(seed, 1, 1, channels, 8)
    x = np.zeros(channels + 4, np.int64)
    x[:channels] = rng.choice([0, 255], channels) if seed % 2 else rng.integers(0, 256, channels)
    packed = pack_int16(w, 8, (0,))
    total = np.zeros(8, np.int64)
    windows, offsets = windows_of(packed, 8).astype(np.int64), packed.offsets

    def maddubs(i: int) -> Array:
        products = windows[i] * x[offsets[i] : offsets[i] + 4]
        return np.clip(products.reshape(8, 2, 2).sum(-1), -32768, 32767).astype(np.int16)

    first, middle, last = packed.ranges[0].tolist()
    for i in range(first, middle, 2):
        total += (maddubs(i) + maddubs(i + 1)).astype(np.int64).sum(-1)
    for i in range(middle, last):
        total += maddubs(i).astype(np.int64).sum(-1)
    assert np.array_equal(total, x[:channels] @ w[0, 0].astype(np.int64))


def instructions(packed: PackedWeights, steps: float) -> float:
    """Vector instructions a step of 4 weights and a row: 5 a pair, 3 a single window."""
    first, middle, last = packed.ranges[:-1].astype(np.int64).T
    return float((5 * (middle - first) // 2 + 3 * (last - middle)).sum() / (steps * len(first)))


@pytest.mark.parametrize(("spread", "most"), [(15, 2.6), (28, 2.9), (34, 3.3)])
def test_bell_shaped_weights_need_few_instructions(spread: float, most: float) -> None:
    rng = np.random.default_rng(0)
    w = np.clip(np.rint(rng.standard_normal((1, 1, 512, 64)) * spread), -127, 127).astype(np.int8)
    assert 2.5 <= instructions(pack_int16(w, by_name("avx2").lanes(), (0,)), 128) <= most


@pytest.mark.parametrize(
    ("weight", "top", "expected"),
    [(127, 127, 3.0), (63, 127, 2.5), (127, 64, 2.5), (-127, 63, 2.5), (127, 1, 2.5), (63, 255, 3.0), (32, 255, 2.5)],
)
def test_smaller_activations_leave_room(weight: int, top: int, expected: float) -> None:
    w = np.full((1, 1, 64, 8), weight, np.int8)
    assert instructions(pack_int16(w, 8, (0,), top), 16) == expected
