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

from dataclasses import dataclass
from typing import Any

import numpy as np

from lpir.devices.cpu.kernels.pack import PackedWeights, channel_index, with_slack

Array = np.ndarray[Any, np.dtype[Any]]

INT16 = np.iinfo(np.int16)
# attempts to find a partner for every window; each takes those that earlier ones left
ROUNDS = 16


@dataclass(frozen=True)
class Windows:
    """Windows of a layer in the order of their blocks: the block of each, its byte offset, and `[lanes, 4]` weights."""

    block: Array
    offset: Array
    weights: Array

    def loads(self) -> Array:
        """int16 [windows, 2, 2 * lanes]: the positive and the negative part, as magnitudes, of each int16 sum."""
        pairs = self.weights.reshape(len(self.weights), -1, 2).astype(np.int16)
        return np.stack([np.maximum(pairs, 0).sum(-1), -np.minimum(pairs, 0).sum(-1)], axis=1).astype(np.int16)

    def take(self, order: Array) -> Windows:
        return Windows(self.block[order], self.offset[order], self.weights[order])


def limits(top: int) -> Array:
    """The largest safe magnitudes of the positive and of the negative weights of a sum: [2, 1]."""
    return np.asarray([[INT16.max // top], [-INT16.min // top]], np.int16)


def pack_int16(w: Array, lanes: int, taps: tuple[int, ...], top: int = 255) -> PackedWeights:
    """Packs `w` [G, taps, C, N] (i8) for blocks of `lanes` channels and activations of at most `top`.

    `ranges` [blocks, 3] of the result: where a block's windows begin, where its pairs end, where its windows end.
    """
    index = channel_index(w.shape[-1], lanes, 1)[:, 0]
    columns = block_columns(w, index)
    windows = cut_windows(columns, np.asarray(taps), top)
    order, pairs = pair_windows(windows.block, windows.loads(), limits(top))
    windows = windows.take(order)
    blocks = np.arange(len(columns))
    first, last = (np.searchsorted(windows.block, blocks, side) for side in ("left", "right"))
    middle = first + 2 * np.bincount(pairs, minlength=len(columns))
    return PackedWeights(
        weights=with_slack(windows.weights),
        offsets=np.append(windows.offset, 0).astype(np.int32),
        sums=columns.sum(axis=(1, 2), dtype=np.int32).reshape(-1),
        ranges=np.stack([first, middle, last], axis=1).astype(np.int32),
    )


def block_columns(w: Array, index: Array) -> Array:
    """`w` [G, taps, C, N] as [G * blocks, taps, C, lanes]; lane -1 is zero."""
    groups, taps, channels, _ = w.shape
    padded = np.concatenate([w, np.zeros((groups, taps, channels, 1), np.int8)], axis=-1)
    columns = padded[..., index].transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(columns).reshape(-1, taps, channels, index.shape[-1])


def unsafe_neighbors(columns: Array, top: int) -> Array:
    """Whether element `i` and element `i + 1` of `columns` [..., C, lanes] are unsafe together in some lane: [..., C]."""
    wide = columns.astype(np.int16)
    a, b = wide[..., :-1, :], wide[..., 1:, :]
    high, low = limits(top)[:, 0]
    found = (np.maximum(a, 0) + np.maximum(b, 0) > high) | (np.minimum(a, 0) + np.minimum(b, 0) < -low)
    unsafe = np.zeros(columns.shape[:-1], np.bool_)
    unsafe[..., :-1] = found.any(-1)
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
    at = np.zeros(blocks * runs, np.int64)
    run = np.arange(blocks * runs)
    parts = []
    while len(run):
        parts.append((run, at, length[run, at]))
        at = at + parts[-1][2]
        run, at = run[at < channels], at[at < channels]
    run, at, taken = (np.concatenate(x) for x in zip(*parts, strict=True))
    order = np.lexsort((at, run))
    run, at, taken = run[order], at[order], taken[order]
    first = at - early[run, at]
    # zeros around every run stand for what a window leaves out
    padded = np.pad(columns.reshape(-1, channels, lanes), [(0, 0), (1, 4), (0, 0)])
    place = np.arange(4) + first[:, None]
    inside = (place >= at[:, None]) & (place < (at + taken)[:, None])
    weights = padded[run[:, None], place + 1] * inside[:, :, None].astype(np.int8)
    return Windows(run // runs, taps[run % runs] + first, np.ascontiguousarray(weights.transpose(0, 2, 1)))


def pair_windows(block: Array, loads: Array, limit: Array) -> tuple[Array, Array]:
    """Which windows share a sum: an order of all, block by block, pairs first; and the block of each pair.

    `block` ascending. In each round every window of the heavier half of a block's windows that have no partner yet is
    tried with one of the lighter half, another in every round.
    """
    flat, room = loads.reshape(len(loads), -1), (limit - loads).reshape(len(loads), -1)
    left = np.lexsort((-flat.max(1), block))
    pairs = [np.zeros((0, 2), np.int64)]
    for shift in range(ROUNDS):
        sizes = np.bincount(block[left])
        starts = np.cumsum(sizes) - sizes
        rank = np.arange(len(left)) - starts[block[left]]
        size = sizes[block[left]]
        heavy = np.flatnonzero(rank < size // 2)
        half = size[heavy] - size[heavy] // 2
        light = starts[block[left[heavy]]] + size[heavy] - 1 - (rank[heavy] + shift) % np.maximum(half, 1)
        one, other = left[heavy], left[light]
        good = (flat[one] <= room[other]).all(1)
        pairs.append(np.stack([one[good], other[good]], axis=1))
        gone = np.zeros(len(left), np.bool_)
        gone[heavy[good]], gone[light[good]] = True, True
        left = left[~gone]
        if not len(left):
            break
    found = np.concatenate(pairs)
    order = np.concatenate([found.reshape(-1), left])
    single = np.arange(len(order)) >= found.size
    return order[np.lexsort((np.arange(len(order)), single, block[order]))], block[found[:, 0]]
