"""Packing of 8-bit weights for dot products of 4, and the proof that `vpmaddubsw` cannot saturate.

`vpmaddubsw` adds two u8 x s8 products in int16 and saturates. A pair of weights is safe for activations up to `top` iff
its positive part times `top` is at most 32,767 and its negative part times `top` at least -32,768. A step (4 channels of
k, all output channels of a block) that holds an unsafe pair is *careful*: the kernel multiplies `abs(a - 128)` by
`w * sign(a - 128)` there, and a pair stays within 2 * 128 * 127 = 32,512 whatever the values. What that leaves out, 128
times the careful weights, is added to the initial sums. -128 has no negative in int8: in a careful step it becomes -127,
and the missing -1 goes into a step of its own, which is safe.
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

    `weights` [steps, vectors * lanes, 4] i8 of every block of every group, flat, `SLACK` bytes behind it; `offsets` int32:
    where each of these steps reads a row; `ranges` int32 [G * blocks, 3]: first plain step, first careful step, end.
    `sums`, `careful` int32 [G * blocks * vectors * lanes]: the sum of a lane's weights, and of those in careful steps.
    """

    weights: Array
    offsets: Array
    ranges: Array
    sums: Array
    careful: Array

    @property
    def careful_share(self) -> float:
        """Share of steps that are careful."""
        return float((self.ranges[:, 2] - self.ranges[:, 1]).sum()) / max(1, int(self.ranges[-1, 2]))


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
    # [G, steps, 4, blocks, vectors, lanes] -> [G * blocks, steps, vectors * lanes, 4]; lane -1 takes the zero column
    packed = np.ascontiguousarray(steps[..., index].transpose(0, 3, 1, 4, 5, 2))
    packed = packed.reshape(groups * len(index), len(offsets), vectors * lanes, 4)
    sums = packed.sum(axis=(1, 3), dtype=np.int32).reshape(-1)
    if exact:
        ends = np.arange(1, len(packed) + 1, dtype=np.int32) * len(offsets)
        ranges = np.stack([ends - np.int32(len(offsets)), ends, ends], axis=1)
        return PackedWeights(with_slack(packed), offsets, ranges, sums, np.zeros_like(sums))
    return _order_steps(packed, sums, offsets, top)


def _order_steps(packed: Array, sums: Array, offsets: Array, top: int) -> PackedWeights:
    """Plain steps, then careful ones, in every block."""
    unsafe = unsafe_steps(packed, top)
    lowest = (packed == -128) & unsafe[:, :, None, None]
    packed = np.where(lowest, np.int8(-127), packed)
    rest = np.where(lowest, np.int8(-1), np.int8(0))
    careful = np.where(unsafe[:, :, None, None], packed, 0).sum(axis=(1, 3), dtype=np.int32)
    weights, places, ranges, first = [], [], [], 0
    for block, step_is_unsafe in enumerate(unsafe):
        plain, difficult = np.flatnonzero(~step_is_unsafe), np.flatnonzero(step_is_unsafe)
        split = np.flatnonzero(lowest[block].any(axis=(1, 2)))
        weights += [packed[block, plain], rest[block, split], packed[block, difficult]]
        places += [offsets[plain], offsets[split], offsets[difficult]]
        middle = first + len(plain) + len(split)
        ranges.append((first, middle, middle + len(difficult)))
        first = middle + len(difficult)
    table = np.asarray(ranges, np.int32)
    return PackedWeights(with_slack(np.concatenate(weights)), np.concatenate(places), table, sums, careful.reshape(-1))


def unsafe_steps(packed: Array, top: int) -> Array:
    """Whether any pair of a step [blocks, steps, lanes, 4] can leave int16 when multiplied by codes up to `top`."""
    pairs = packed.reshape(*packed.shape[:-1], 2, 2).astype(np.int16)
    high = np.maximum(pairs, 0).sum(-1, dtype=np.int32) * top
    low = np.minimum(pairs, 0).sum(-1, dtype=np.int32) * top
    unsafe: Array = ((high > 32767) | (low < -32768)).any(axis=(2, 3))
    return unsafe
