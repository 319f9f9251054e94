"""Packing of 8-bit weights for dot products of 4, and the proof that `vpmaddubsw` cannot saturate.

`vpmaddubsw` adds two u8 x s8 products in int16 and saturates. A pair of weights is safe for activations up to `top` iff
its positive part times `top` is at most 32,767 and its negative part times `top` at least -32,768. The second weight of
an unsafe pair moves into an extra step of its own (one product alone is always safe), so that the sum stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
SLACK = 64  # kernels read whole vectors: so many bytes behind a buffer must be readable


@dataclass(frozen=True)
class PackedWeights:
    """Weights of one layer in kernel order.

    `weights` [G, blocks, steps, vectors * lanes, 4] i8, flat, `SLACK` bytes behind it; `sums` [G, N] int32: the sum of
    each channel's weights. Extra steps (None if the dot product is always exact): vector `v` of block `b` has the extra
    steps `extra_index[b * vectors + v] .. extra_index[b * vectors + v + 1]`, with A offsets `extra_offsets` and weights
    `extra_weights` [e, lanes, 4].
    """

    weights: Array
    sums: Array
    extra_index: Array | None = None
    extra_offsets: Array | None = None
    extra_weights: Array | None = None

    @property
    def extra_steps(self) -> int:
        """How many (vector, step) pairs had to be split."""
        return 0 if self.extra_offsets is None else len(self.extra_offsets)


def with_slack(x: Array) -> Array:
    """The bytes of `x` with `SLACK` zero bytes behind them, as uint8."""
    flat = np.ascontiguousarray(x).view(np.uint8).reshape(-1)
    return np.concatenate([flat, np.zeros(SLACK, np.uint8)])


def channel_index(n: int, lanes: int, vectors: int) -> Array:
    """Which channel each lane of each block holds: [blocks, vectors, lanes]; -1 is a lane without channel.

    The last block and the last vector overlap their neighbors rather than reach past channel `n`.
    """
    columns = -(-n // lanes)
    blocks = -(-columns // vectors)
    first = np.minimum(np.arange(blocks) * vectors, columns - vectors)[:, None] + np.arange(vectors)
    starts = np.minimum(first * lanes, max(n - lanes, 0))
    index: Array = starts[:, :, None] + np.arange(lanes)
    return np.where(index < n, index, -1)


def step_offsets(taps: tuple[int, ...], channels: int) -> Array:
    """Byte offset of each k-step from its row's start: taps in order, 4 channels a step."""
    return (np.asarray(taps, np.int64)[:, None] + np.arange(0, channels, 4)).reshape(-1).astype(np.int32)


def pack_weights(w: Array, lanes: int, vectors: int, offsets: Array, exact: bool, top: int = 255) -> PackedWeights:
    """Packs `w` [G, taps, C, N] (i8). `exact`: the dot product needs no proof; `top`: largest activation code."""
    groups, taps, channels, n = w.shape
    padded = np.zeros((groups, taps, -(-channels // 4) * 4, n + 1), np.int8)
    padded[:, :, :channels, :n] = w
    steps = padded.reshape(groups, -1, 4, n + 1)
    index = channel_index(n, lanes, vectors)
    # [G, steps, 4, blocks, vectors, lanes] -> [G, blocks, steps, vectors, lanes, 4]; lane -1 takes the zero column
    packed = np.ascontiguousarray(steps[..., index].transpose(0, 3, 1, 4, 5, 2))
    sums = w.sum(axis=(1, 2), dtype=np.int64).astype(np.int32)
    if exact:
        return PackedWeights(with_slack(packed), sums)
    return _split_unsafe(packed, sums, offsets, top)


def _split_unsafe(packed: Array, sums: Array, offsets: Array, top: int) -> PackedWeights:
    groups, blocks, steps, vectors, lanes, _ = packed.shape
    pairs = packed.reshape(groups * blocks, steps, vectors, lanes, 2, 2)
    wide = pairs.astype(np.int32)
    high = np.maximum(wide, 0).sum(-1) * top
    low = np.minimum(wide, 0).sum(-1) * top
    unsafe = (high > 32767) | (low < -32768)
    needs = unsafe.any(axis=(3, 4)).transpose(0, 2, 1)  # [G * blocks, vectors, steps]
    block, vector, step = np.nonzero(needs)
    extra = np.zeros((len(step), lanes, 2, 2), np.int8)
    extra[..., 1] = np.where(unsafe, pairs[..., 1], 0)[block, step, vector]
    base = pairs.copy()
    base[..., 1][unsafe] = 0
    counts = needs.sum(-1).reshape(-1)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return PackedWeights(with_slack(base), sums, starts, offsets[step].astype(np.int32), with_slack(extra))
