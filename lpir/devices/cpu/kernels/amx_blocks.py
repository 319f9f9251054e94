"""How a product is cut into blocks of AMX's tiles, and a block into steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.devices.cpu.kernels.amx_rows import MOST, TileRows, tile_rows
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

LANES = 16  # channels of a tile, and int32 lanes of a vector
DEPTH = 64  # bytes of a row that a tile holds
# vectors that are finished side by side: their operations hide each other's latency
TOGETHER = 8
# bytes of a block's sums
SUMS_BYTES = 2 * MOST * 2 * LANES * 4
# a block that reads more than SPLIT bytes takes its steps in parts, where there are LEAST_PAIRS pairs of row tiles
SPLIT, LEAST_PAIRS = 64 * 1024, 4


@record
class Form:
    """What is compiled into a kernel beside its epilogue.

    `across`, `down`: tiles of channels and of rows in a block; `affine`: one run of channels; `linear`: see TileRows;
    `together`: rows that are finished and stored together; `beside`: cache lines of the next block's weights that are
    asked for with them; `split`: steps are taken in parts. What takes but a branch a step is a parameter: a layer more
    that shares its kernel is one less to compile.
    """

    down: int
    across: int
    affine: bool
    linear: bool
    together: int
    beside: int = 0
    split: bool = False


@record
class Start:
    """How blocks start: `zero`: sums are 0, not `init`; `ahead`: cache lines of the next block's weights that each step
    asks for."""

    zero: bool = False
    ahead: int = 0


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


def first_channels(n: int, across: int) -> Array:
    """First channel of each block's tiles: the last ones overlap their neighbors."""
    width = across * LANES
    starts = np.minimum(np.arange(-(-n // width)) * width, max(0, n - width))
    return np.asarray(starts[:, None] + np.minimum(np.arange(across) * LANES, n - LANES))


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
