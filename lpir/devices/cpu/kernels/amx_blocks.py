"""How a product is cut into blocks of AMX's tiles, and a block into steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.devices.cpu.kernels.amx_rows import MOST, TileRows, tile_rows

Array = np.ndarray[Any, np.dtype[Any]]

LANES = 16  # channels of a tile, and int32 lanes of a vector
DEPTH = 64  # bytes of a row that a tile holds
# vectors that are finished side by side: their operations hide each other's latency
TOGETHER = 8
# bytes of a block's sums
SUMS_BYTES = 2 * MOST * 2 * LANES * 4
# a block that reads more than SPLIT bytes takes its steps in parts, where there are LEAST_PAIRS pairs of row tiles
SPLIT, LEAST_PAIRS = 64 * 1024, 4


def step_depth(length: int) -> int:
    """Bytes of a run of `length` channels that each of its steps multiplies."""
    parts = -(-length // DEPTH)
    return -(-length // (4 * parts)) * 4


def near_bytes(rows: TileRows, across: int, runs: tuple[int, ...], length: int, pixel_bytes: int) -> int:
    """Bytes that a block reads and writes; `pixel_bytes`: the input's, for each pixel of the output."""
    k = len(runs) * -(-length // DEPTH) * step_depth(length)
    return across * LANES * k + rows.down * rows.rows * min(pixel_bytes, k) + SUMS_BYTES


def splits(rows: TileRows, across: int, runs: tuple[int, ...], length: int, pixel_bytes: int) -> bool:
    """Whether steps are taken in parts: a block's weights would not stay in the first cache for the next rows."""
    return rows.tiles >= LEAST_PAIRS * rows.down and near_bytes(rows, across, runs, length, pixel_bytes) > SPLIT


def step_offsets(runs: tuple[int, ...], length: int, depth: int) -> Array:
    """Byte offset of every step of `runs`."""
    return (np.asarray(runs, np.int64)[:, None] + np.arange(0, length, depth)).reshape(-1).astype(np.int32)


def first_channels(n: int, across: int, joint: bool) -> Array:
    """First channel of each block's tiles."""
    tiles = -(-n // LANES)
    blocks = -(-tiles // across)
    if joint:
        starts = np.minimum(np.arange(blocks) * across * LANES, n - across * LANES)
        return np.asarray(starts[:, None] + np.arange(across) * LANES)
    return np.minimum(np.arange(across) * LANES, n - LANES)[None]


def block_shape(offsets: Array, n: int, adds: bool) -> tuple[TileRows, int, int]:
    """The tiles of rows, and how many of channels are in a block and how many rows are finished together.

    `adds`: a tensor is added to what is summed up: finishing costs more than multiplying.
    """
    across, down = (1, 4) if n == LANES else (2, 2)
    rows = tile_rows(offsets, down, once=adds)
    together = TOGETHER // across
    while together > rows.down * rows.rows:
        together //= 2
    return rows, across, together


def computes_once(m: int, n: int) -> bool:
    """Whether each of `n` channels of `m` pixels at one distance, to which a tensor is added, is finished just once."""
    rows, across, together = block_shape(np.arange(m) * DEPTH, n, True)
    return rows.rows * rows.tiles == m and rows.rows * rows.down % together == 0 and n % (across * LANES) == 0
