"""Packing of 8-bit weights for dot products of 4, and the proof that `vpmaddubsw` cannot saturate.

`vpmaddubsw` adds two u8 x s8 products in int16 and saturates. A pair of weights is safe for activations up to `top` iff
its positive part times `top` is at most 32,767 and its negative part times `top` at least -32,768. A step (4 channels
of k, all output channels of a block) that holds an unsafe pair is *wide*: its weights are stored in int16 and
multiplied by `vpmaddwd`, which cannot overflow. A block's narrow steps come first, then its wide ones.
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

    `weights` [steps, vectors * lanes, 4] i8 of every block of every group, flat, `SLACK` bytes behind it; `offsets`
    int32: where each of these steps reads a row. `wide` [steps, vectors, 2, lanes, 2] i16 (channels 0 and 2, then 1 and
    3) and `wide_offsets`: the same of wide steps. `ranges` int32 [G * blocks, 4]: first and end of a block's steps,
    narrow and wide. `sums` int32 [G * blocks * vectors * lanes]: the sum of a lane's weights.
    """

    weights: Array
    offsets: Array
    wide: Array
    wide_offsets: Array
    ranges: Array
    sums: Array

    @property
    def wide_share(self) -> float:
        """Share of steps that are wide."""
        return int(self.ranges[-1, 3]) / max(1, int(self.ranges[-1, 1] + self.ranges[-1, 3]))


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
        ranges = np.stack([ends - np.int32(len(offsets)), ends, 0 * ends, 0 * ends], axis=1)
        nothing = np.zeros(1, np.int32)
        return PackedWeights(with_slack(packed), offsets, with_slack(nothing), nothing, ranges, sums)
    return _order_steps(packed.reshape(*packed.shape[:2], vectors, lanes, 4), sums, offsets, top)


def _order_steps(packed: Array, sums: Array, offsets: Array, top: int) -> PackedWeights:
    """Narrow steps, then wide ones, in every block of `packed` [blocks, steps, vectors, lanes, 4]."""
    unsafe = unsafe_steps(packed, top)
    # [.., lanes, (high, low)] -> [.., (low), lanes, (high)]: words of channels 0 and 2, then of 1 and 3
    words = packed[unsafe].astype(np.int16).reshape(-1, *packed.shape[2:4], 2, 2).transpose(0, 1, 4, 2, 3)
    places = np.broadcast_to(offsets, unsafe.shape)
    narrow_ends, wide_ends = np.cumsum((~unsafe).sum(1)), np.cumsum(unsafe.sum(1))
    starts = [np.concatenate([[0], ends[:-1]]) for ends in (narrow_ends, wide_ends)]
    return PackedWeights(
        weights=with_slack(packed[~unsafe]),
        offsets=np.append(places[~unsafe], np.int32(0)),
        wide=with_slack(words),
        wide_offsets=np.append(places[unsafe], np.int32(0)),
        ranges=np.stack([starts[0], narrow_ends, starts[1], wide_ends], axis=1).astype(np.int32),
        sums=sums,
    )


def unsafe_steps(packed: Array, top: int) -> Array:
    """Whether a pair of a step [blocks, steps, vectors, lanes, 4] can leave int16, multiplied by codes up to `top`."""
    pairs = packed.reshape(*packed.shape[:-1], 2, 2).astype(np.int16)
    high = np.maximum(pairs, 0).sum(-1, dtype=np.int32) * top
    low = np.minimum(pairs, 0).sum(-1, dtype=np.int32) * top
    unsafe: Array = ((high > 32767) | (low < -32768)).any(axis=(2, 3, 4))
    return unsafe
