"""Weight packing, register tiles and thread shares of the INT8 product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpir.devices.cpu.isa import all_isas, by_name
from lpir.devices.cpu.kernels import tiling
from lpir.devices.cpu.kernels.pack import channel_index, pack_weights, step_offsets


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_weight_has_its_place(n: int, channels: int, seed: int) -> None:
    lanes, vectors = 8, 2 if n > 8 else 1
    w = np.random.default_rng(seed).integers(-128, 128, (2, 3, channels, n)).astype(np.int8)
    offsets = step_offsets((0, 100, 200), channels)
    packed = pack_weights(w, lanes, vectors, offsets)
    index = channel_index(n, lanes, vectors)
    shape = (2, len(index), 3, -1, vectors, lanes, 4)
    flat = packed.weights[: 2 * index.size * len(offsets) * 4].view(np.int8).reshape(shape)
    # [G, blocks, taps, steps, vectors, lanes, 4] -> [G, blocks, vectors, lanes, taps, channels]
    found = flat.transpose(0, 1, 4, 5, 2, 3, 6).reshape(2, *index.shape, 3, -1)[..., :channels]
    there = index >= 0
    assert np.array_equal(found[:, there], w.transpose(0, 3, 1, 2)[:, index[there]])
    assert not found[:, ~there].any()
    assert np.array_equal(packed.sums, found.sum((-2, -1)).reshape(-1))


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
