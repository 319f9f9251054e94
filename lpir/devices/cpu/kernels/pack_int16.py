"""Packing of 8-bit weights for `vpmaddubsw`, and the proof that no sum leaves int16.

`vpmaddubsw` multiplies u8 activations by i8 weights and adds two neighboring products in int16, where it saturates;
`vpaddw` then adds such sums, where it wraps. Weights are constants, so both are ruled out when they are packed: a sum
of products is safe for activations in `0 .. top` iff its positive weights times `top` are at most 32,767 and its
negative ones times `top` at least -32,768 (any subset of activations may be 0, so nothing less is enough).

A *window* is 4 weights of each channel of a block: one `vpmaddubsw` against 4 bytes of a row, wherever they begin.
Windows cover every weight once. Where two neighbors are unsafe together, the window ends between them: it covers 3 or 2
weights, with zeros in the other places, and the next one begins there. Then windows whose sums are safe together become
pairs: two `vpmaddubsw`, one `vpaddw` and one widening `vpmaddwd` in place of two. Any two windows of a block may meet,
because a sum does not depend on the order of its terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.devices.cpu.kernels.pack import PackedWeights, channel_index, with_slack
from lpir.devices.cpu.kernels.pack_pairs import pair_windows
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

INT16 = np.iinfo(np.int16)


@record
class Windows:
    """Windows of a layer in the order of their blocks: the block of each, its byte offset, and `[lanes, 4]` weights."""

    block: Array
    offset: Array
    weights: Array

    def loads(self) -> Array:
        """uint8 [windows, 2, 2 * lanes]: positive and negative weights of each int16 sum, as magnitudes."""
        high, low = (part.reshape(len(part), -1, 2) for part in magnitudes(self.weights))
        return np.stack([high[..., 0] + high[..., 1], low[..., 0] + low[..., 1]], axis=1)

    def take(self, order: Array) -> Windows:
        return Windows(self.block[order], self.offset[order], self.weights[order])


def limits(top: int) -> tuple[int, int]:
    """The largest safe magnitudes of the positive and of the negative weights of a sum."""
    return INT16.max // max(1, top), -INT16.min // max(1, top)


def magnitudes(w: Array) -> tuple[Array, Array]:
    """The positive and the negative part of int8 weights as uint8."""
    return np.maximum(w, 0).view(np.uint8), -np.minimum(w, 0).view(np.uint8)


def any_in_rows(found: Array) -> Array:
    """`found.any(-1)` of bools whose rows are whole words."""
    return np.asarray(np.ascontiguousarray(found).view(np.uint64).any(-1))


def pack_int16(w: Array, lanes: int, taps: tuple[int, ...], top: int = 255) -> PackedWeights:
    """Packs `w` [G, taps, C, N] (i8) for blocks of `lanes` channels (8 or 16) and activations of at most `top`.

    `ranges` [blocks + 1, 3] of the result: where a block's windows begin, where its pairs end, where its windows end;
    and the end of all.
    """
    index = channel_index(w.shape[-1], lanes, 1)[:, 0]
    columns = block_columns(w, index)
    windows = cut_windows(columns, np.asarray(taps), top)
    order, pairs = pair_windows(windows.block, *in_bytes(windows.loads(), limits(top)))
    windows = windows.take(order)
    blocks = np.arange(len(columns))
    first, last = (np.searchsorted(windows.block, blocks, side) for side in ("left", "right"))
    ranges = np.stack([first, first + 2 * pairs, last], axis=1)
    return PackedWeights(
        weights=with_slack(windows.weights),
        offsets=np.append(windows.offset, 0).astype(np.int32),
        sums=columns.sum(axis=(1, 2), dtype=np.int32).reshape(-1),
        ranges=np.append(ranges, [[len(windows.block)] * 3], axis=0).astype(np.int32),
    )


def in_bytes(loads: Array, limit: tuple[int, int]) -> tuple[Array, tuple[int, int]]:
    """Loads and limits in a unit in which a limit fits a byte; loads are rounded up, limits down."""
    unit = -(-limit[1] // 255)
    if unit == 1:
        return loads, limit
    return ((loads.astype(np.uint16) + (unit - 1)) // unit).astype(np.uint8), (limit[0] // unit, limit[1] // unit)


def block_columns(w: Array, index: Array) -> Array:
    """`w` [G, taps, C, N] as [G * blocks, taps, C, lanes]; lane -1 is zero."""
    groups, taps, channels, _ = w.shape
    padded = np.concatenate([w, np.zeros((groups, taps, channels, 1), np.int8)], axis=-1)
    columns = padded[..., index].transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(columns).reshape(-1, taps, channels, index.shape[-1])


def unsafe_neighbors(columns: Array, top: int) -> Array:
    """Whether elements `i` and `i + 1` of `columns` [..., C, lanes] are unsafe together in some lane: [..., C]."""
    unsafe = np.zeros(columns.shape[:-1], np.bool_)
    # two magnitudes may not fit a byte, what one of them leaves does
    exceeds = [
        part[..., :-1, :] > min(255, limit) - part[..., 1:, :]
        for part, limit in zip(magnitudes(columns), limits(top), strict=True)
    ]
    unsafe[..., :-1] = any_in_rows(exceeds[0] | exceeds[1])
    return unsafe


def cut_windows(columns: Array, taps: Array, top: int) -> Windows:
    """Windows that cover `columns` [blocks, taps, C, lanes], as few as possible, none with unsafe neighbors.

    A window at element `i` may begin one byte before it, so that `i` and `i + 1` are no pair. It takes as many elements
    as it can, which is best: whoever is further on needs no more windows for the rest.
    """
    blocks, runs, channels, lanes = columns.shape
    unsafe = np.pad(unsafe_neighbors(columns, top), [(0, 0), (0, 0), (0, 2)]).reshape(blocks * runs, -1)
    here, next_, third = (unsafe[:, i : channels + i] for i in range(3))
    # 4 from i; 3 from i; 3 from i - 1; 2 from i - 1
    length = np.select([~here & ~third, ~here, ~next_], [4, 3, 3], 2)
    early = here.copy()
    # nothing may be read before a row's first byte: there the first element stands alone
    start = (taps == 0)[np.arange(blocks * runs) % runs] & here[:, 0]
    length[start, 0], early[start, 0] = 1, False
    run, at = _walk(length)
    end = at + length[run, at]
    first = at - early[run, at]
    # zeros around every run stand for what a window leaves out
    padded = np.pad(columns.reshape(-1, channels, lanes), [(0, 0), (1, 4), (0, 0)]).view(np.uint64)
    place = np.arange(4) + first[:, None]
    inside = (place >= at[:, None]) & (place < end[:, None])
    weights = np.where(inside[:, :, None], padded[run[:, None], place + 1], np.uint64(0)).view(np.int8)
    return Windows(run // runs, taps[run % runs] + first, np.ascontiguousarray(weights.transpose(0, 2, 1)))


def _walk(length: Array) -> tuple[Array, Array]:
    """Rows and columns that are met from column 0 by steps of `length` [rows, columns], row by row."""
    rows, columns = length.shape
    met = np.zeros((rows, columns + 4), np.bool_)
    row, at = np.arange(rows), np.zeros(rows, np.int64)
    while len(row):
        met[row, at] = True
        at = at + length[row, at]
        inside = at < columns
        row, at = row[inside], at[inside]
    found, place = np.nonzero(met)
    return found, place
