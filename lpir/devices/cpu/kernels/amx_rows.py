"""Which output pixels the rows of AMX tiles hold.

A tile reads up to 16 rows at one distance. Where all pixels follow each other at one distance (`linear`), tile `t`
holds pixels `t * rows ..`, the last tiles overlap their neighbors. Elsewhere pixels of one output row do, and so do
those of the next one, a few steps that are no pixels behind it: a tile may run across, and what it computes there is
overwritten.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

MOST = 16  # rows of a tile
# what a tile costs beside its rows, in rows: loads of weights, its share of the loop
OVERHEAD = 6.0
# how many times as many tiles are as good, if no pixel lies in two of them
MOST_MORE = 1.15


@record
class TileRows:
    """`rows` a tile, `stride` bytes apart in the input.

    `starts` int32: byte offset of each tile's first row; `pixels` int32 [tiles, rows]: the pixel of each row. Both are
    None where rows are linear. A row that is no pixel names the next one that is: it is stored before that one. Where
    there is more than one, their number is a multiple of `down`: so many are multiplied together.
    """

    rows: int
    stride: int
    tiles: int
    down: int
    starts: Array | None = None
    pixels: Array | None = None

    @property
    def linear(self) -> bool:
        """Whether tile `t` holds pixels `t * rows ..` and pixel `m` starts at byte `m * stride`."""
        return self.starts is None

    @property
    def height(self) -> int:
        """Rows that are multiplied together."""
        return self.rows * self.down

    def first_pixels(self, count: int) -> Array:
        """First pixel of each tile, of `count` pixels, where rows are linear."""
        blocks = np.minimum(np.arange(0, self.tiles, self.down) * self.rows, count - self.height)
        return (blocks[:, None] + np.arange(self.down) * self.rows).reshape(-1)

    def tile_starts(self, count: int) -> Array:
        """int64 byte offset of each tile's first row, in an input of `count` pixels."""
        starts = self.first_pixels(count) * self.stride if self.starts is None else self.starts
        return starts.astype(np.int64)

    def block_pixels(self) -> Array:
        """int32 pixel of each row: of all tiles where they are listed, else of one block, counted from its first."""
        return np.arange(self.height, dtype=np.int32) if self.pixels is None else self.pixels

    def listed(self, count: int) -> TileRows:
        """The same with lists, of `count` pixels."""
        if not self.linear:
            return self
        first = self.first_pixels(count)
        return _listed(self.rows, self.stride, self.down, first * self.stride, first[:, None] + np.arange(self.rows))


def tile_rows(offsets: Array, down: int, once: bool = False) -> TileRows:
    """Tiles that hold every pixel, `down` of them or fewer together.

    `offsets` [M]: byte offset of each pixel's row, 0 first, ascending. `once`: rather a few tiles more than pixels that
    lie in two of them.
    """
    count = len(offsets)
    stride = int(offsets[1] - offsets[0]) if count > 1 else 64
    if count <= MOST and np.array_equal(offsets, np.arange(count) * stride):
        return TileRows(count, stride, 1, 1)
    if np.array_equal(offsets, np.arange(count) * stride):
        tiles = -(-count // (down * MOST)) * down
        if once:
            more = range(tiles, int(tiles * MOST_MORE) + 1, down)
            tiles = next((t for t in more if count % t == 0), tiles)
        rows = -(-count // tiles)
        if rows * down <= count:
            return TileRows(rows, stride, tiles, down)
        firsts = np.minimum(np.arange(tiles) * rows, count - rows)
        return _listed(rows, stride, down, firsts * stride, firsts[:, None] + np.arange(rows))
    breaks = np.flatnonzero(np.diff(offsets, prepend=offsets[0]) != stride)
    run = int(np.diff(breaks, append=count).min())
    # within an output row, tiles of nearly equal size
    sizes = [-(-run // -(-run // MOST))]
    steps, rest = np.divmod(offsets, stride)
    if rest.any():
        # output rows are no whole number of steps apart: number the pixels so that no tile runs across
        steps = np.arange(count) + MOST * (np.searchsorted(breaks, np.arange(count), "right") - 1)
    else:
        # across output rows; the first tile cannot move back to end with a pixel
        sizes.append(int(steps[steps < MOST][-1]) + 1)
    found = [_cover(steps, rows) for rows in sizes]
    begins, pixels = min(found, key=lambda c: len(c[0]) * (c[1].shape[1] + OVERHEAD))
    # a tile may start on a step that is no pixel
    first = pixels[:, 0]
    starts = offsets[first] - (steps[first] - begins) * stride
    return _listed(pixels.shape[1], stride, down, starts, pixels)


def _listed(rows: int, stride: int, down: int, starts: Array, pixels: Array) -> TileRows:
    """Tiles with their pixels; the last one is repeated up to a multiple of `down`."""
    while down > max(1, len(pixels)):
        down //= 2
    more = -len(pixels) % down
    starts, pixels = (np.concatenate([part, *[part[-1:]] * more]) for part in (starts, pixels))
    return TileRows(rows, stride, len(pixels), down, starts.astype(np.int32), pixels.astype(np.int32))


def at_least(found: TileRows, together: int, down: int) -> TileRows:
    """`found` with at least `together` rows in a block of `down` tiles: rows are multiplied, and stored, again."""
    if found.height >= together:
        return found
    starts, pixels = found.starts, found.pixels
    if starts is None or pixels is None:
        starts, pixels = np.zeros(1, np.int32), np.arange(found.rows, dtype=np.int32)[None]
    if found.rows == 1:
        return TileRows(together, 0, found.tiles, 1, starts, np.repeat(pixels, together, axis=1))
    more = -len(starts) % down
    starts, pixels = (np.concatenate([part, *[part[-1:]] * more]) for part in (starts, pixels))
    return TileRows(found.rows, found.stride, len(starts), down, starts, pixels)


def _cover(steps: Array, rows: int) -> tuple[Array, Array]:
    """First step of each tile of `rows` steps, and their pixels [tiles, rows]: that of a step, or the next one."""
    begins: list[int] = []
    at, known = 0, steps.tolist()
    while at < len(known):
        # the last pixel within reach ends the tile: every row of it is followed by a pixel
        end = bisect_left(known, known[at] + rows, at) - 1
        begins.append(max(known[end] - rows + 1, 0))
        at = end + 1
    found = np.array(begins)
    return found, np.searchsorted(steps, found[:, None] + np.arange(rows))
