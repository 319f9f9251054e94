"""Weight packing, register tiles and thread shares of the INT8 product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import all_isas, by_name
from lpir.devices.cpu.kernels import tiling
from lpir.devices.cpu.kernels.pack import channel_index, pack_weights, step_offsets
from tests.devices.cpu.harness import Array


def unpack(weights: Array, shape: tuple[int, ...], dtype: type) -> Array:
    return weights[: int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([127, 255]), st.integers(0, 2**32 - 1))
def test_narrow_steps_are_safe_and_no_step_is_lost(n: int, channels: int, top: int, seed: int) -> None:
    lanes, vectors = 8, 2 if n > 8 else 1
    rng = np.random.default_rng(seed)
    w = np.clip(rng.standard_normal((2, 3, channels, n)) * rng.choice([10, 60, 200]), -128, 127).astype(np.int8)
    offsets = step_offsets((0, 100, 200), channels)
    packed = pack_weights(w, lanes, vectors, offsets, exact=False, top=top)
    blocks = 2 * len(channel_index(n, lanes, vectors))
    exact = pack_weights(w, lanes, vectors, offsets, exact=True)
    expected = unpack(exact.weights, (blocks, len(offsets), vectors, lanes, 4), np.int8)
    assert packed.ranges.shape == (blocks, 4)
    for block, (first, end, first_wide, end_wide) in enumerate(packed.ranges.tolist()):
        narrow = unpack(packed.weights, (len(packed.offsets) - 1, vectors, lanes, 4), np.int8)[first:end]
        pairs = narrow.astype(np.int64).reshape(-1, 2)
        assert np.all(np.maximum(pairs, 0).sum(-1) * top <= 32767)
        assert np.all(np.minimum(pairs, 0).sum(-1) * top >= -32768)
        words = unpack(packed.wide, (len(packed.wide_offsets) - 1, vectors, 2, lanes, 2), np.int16)[first_wide:end_wide]
        wide = words.transpose(0, 1, 3, 4, 2).reshape(-1, vectors, lanes, 4)
        places = np.concatenate([packed.offsets[first:end], packed.wide_offsets[first_wide:end_wide]])
        together = np.concatenate([narrow, wide])[np.argsort(places, kind="stable")]
        assert np.array_equal(np.sort(places), np.sort(offsets))
        assert np.array_equal(together, expected[block])
    assert np.array_equal(packed.sums, expected.sum((1, 4), dtype=np.int32).reshape(-1))


@given(st.integers(1, 200), st.sampled_from([4, 8, 16]), st.integers(1, 6))
def test_every_channel_has_a_lane(n: int, lanes: int, vectors: int) -> None:
    vectors = min(vectors, -(-n // lanes))
    index = channel_index(n, lanes, vectors)
    assert set(index[index >= 0].tolist()) == set(range(n))
    assert index.max() < n


@given(st.integers(1, 13000), st.integers(1, 1300), st.integers(1, 600))
def test_tiles_fit_registers(m: int, n: int, steps: int) -> None:
    for isa in all_isas():
        tile = tiling.choose_tile(isa, m, n, steps, 1.0, 9.0, 2)
        assert tiling.fits(tile, isa.registers, 2)
        assert tile.rows <= m
        assert tile.vectors <= -(-n // isa.lanes())


@pytest.mark.parametrize(("tiles", "blocks"), [(7, 20), (1, 63), (1568, 1), (33, 4), (10, 4)])
@pytest.mark.parametrize("threads", [1, 2, 4, 8])
def test_threads_get_equal_shares(tiles: int, blocks: int, threads: int) -> None:
    mc, nc = tiling.choose_chunks(1, tiles, blocks, 4096, threads, 96 * 1024)
    assert tiling.busiest(1, tiles, blocks, mc, nc, threads) <= 1.34 * max(1, tiles * blocks / threads) + 1


def test_choice_for_a_machine_that_is_not_this_one() -> None:
    assert tiling.choose_tile(by_name("avx512_vnni"), 196, 64, 96, 1.0, 9.0, 1) == tiling.Tile(6, 4)
