"""How a product is cut into blocks of AMX's tiles, and a block into steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.devices.cpu.kernels.amx_rows import MOST, TileRows, at_least, tile_rows
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

LANES = 16  # channels of a tile, and int32 lanes of a vector
DEPTH = 64  # bytes of a row that a tile holds
TILES = 4  # of sums in a block
# bytes that stay in the first cache
L1 = 40 * 1024
# bytes of a cache line, and lines that are asked for in one go
LINE, AT_ONCE = 64, 4
# vectors that are finished side by side: their operations hide each other's latency
TOGETHER = 8
# bytes of a block's sums
SUMS_BYTES = 2 * MOST * 2 * LANES * 4
# a block that reads more than SPLIT bytes takes its steps in parts, where there are LEAST_PAIRS pairs of row tiles
SPLIT, LEAST_PAIRS = 64 * 1024, 4


@record
class Ahead:
    """When a block asks for the next one's weights: `step` cache lines with each step, and `lines` of them before each
    `every` rows that are finished; none where that is 0."""

    step: int
    lines: int
    every: int


def beside(lines: int, blocks: int, height: int, together: int, most: int) -> Ahead:
    """Asks for `lines` cache lines while `blocks` blocks of `height` rows are finished, `together` at a time: a few now
    and then, and `most` a round or fewer."""
    rounds = -(-height // together)
    times = min(rounds, max(1, lines // (AT_ONCE * blocks)))
    each = -(-rounds // times)
    return Ahead(0, min(-(-lines // (blocks * -(-rounds // each))), most * each), together * each)


def step_depth(length: int) -> int:
    """Bytes of a run of `length` channels that each of its steps multiplies."""
    parts = -(-length // DEPTH)
    return -(-length // (4 * parts)) * 4


def near_bytes(rows: TileRows, across: int, runs: tuple[int, ...], length: int, pixel_bytes: int) -> int:
    """Bytes that a block reads and writes; `pixel_bytes`: the input's, for each pixel of the output."""
    k = len(runs) * -(-length // DEPTH) * step_depth(length)
    return across * LANES * k + rows.height * min(pixel_bytes, k) + SUMS_BYTES


def part_steps(rows: TileRows, across: int, runs: tuple[int, ...], length: int, pixel_bytes: int) -> int:
    """How many steps to take before those of the next rows: all, or a part where a block's weights would not stay in
    the first cache for the next rows."""
    steps = len(runs) * -(-length // DEPTH)
    near = near_bytes(rows, across, runs, length, pixel_bytes)
    if rows.tiles < LEAST_PAIRS * rows.down or near <= SPLIT:
        return steps
    return -(-steps // -(-near // L1))


def step_offsets(runs: tuple[int, ...], length: int, depth: int) -> Array:
    """Byte offset of every step of `runs`."""
    return (np.asarray(runs, np.int64)[:, None] + np.arange(0, length, depth)).reshape(-1).astype(np.int32)


def first_channels(n: int, across: int) -> Array:
    """First channel of each block's tiles: the last ones overlap their neighbors."""
    width = across * LANES
    starts = np.minimum(np.arange(-(-n // width)) * width, max(0, n - width))
    return np.asarray(starts[:, None] + np.minimum(np.arange(across) * LANES, n - LANES))


def block_shape(offsets: Array, n: int, adds: bool) -> tuple[TileRows, int]:
    """The tiles of rows, and how many of channels are in a block.

    `adds`: a tensor is added to what is summed up: finishing costs more than multiplying.
    """
    across = 1 if n == LANES else 2
    down, together = TILES // across, TOGETHER // across
    return at_least(tile_rows(offsets, down, once=adds), together, down), across


def computes_once(m: int, n: int) -> bool:
    """Whether each of `n` channels of `m` pixels at one distance, to which a tensor is added, is finished just once."""
    rows, across = block_shape(np.arange(m) * DEPTH, n, True)
    height = rows.rows * rows.down
    return rows.rows * rows.tiles == m and height % (TOGETHER // across) == 0 and n % (across * LANES) == 0
