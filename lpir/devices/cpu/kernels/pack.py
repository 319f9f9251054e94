"""Packing of 8-bit weights for dot products of 4 that are exact by instruction; `pack_int16` packs for the others."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import numpy as np

from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]
SLACK = 64  # kernels read whole vectors: so many bytes behind a buffer must be readable


@record
class PackedWeights:
    """Weights of one layer in kernel order.

    `weights` [steps, vectors * lanes, codes a step] i8 of every block of every group, flat, `SLACK` bytes behind it;
    `offsets` int32: where each of these steps reads a row. `sums` int32 [G * blocks * vectors * lanes]: the sum of a
    lane's weights. `ranges`: see `pack_int16`.
    """

    weights: Array
    offsets: Array
    sums: Array
    ranges: Array = field(default_factory=lambda: np.zeros((0, 3), np.int32))


def with_slack(x: Array) -> Array:
    """The bytes of `x` with `SLACK` zero bytes behind them, as uint8."""
    found = np.zeros(x.nbytes + SLACK, np.uint8)
    found[: x.nbytes].view(x.dtype).reshape(x.shape)[...] = x
    return found


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


def step_offsets(taps: tuple[int, ...], channels: int, codes: int = 4) -> Array:
    """Byte offset of each k-step from its row's start: taps in order, `codes` channels a step."""
    return (np.asarray(taps, np.int64)[:, None] + np.arange(0, channels, codes)).reshape(-1).astype(np.int32)


def pack_weights(w: Array, lanes: int, vectors: int, offsets: Array, codes: int = 4) -> PackedWeights:
    """Packs `w` [G, taps, C, N] (i8); every block has all steps, in order, of `codes` channels each."""
    groups, taps, channels, n = w.shape
    padded = np.zeros((groups, taps, -(-channels // codes) * codes, n + 1), np.int8)
    padded[:, :, :channels, :n] = w
    steps = padded.reshape(groups, -1, codes, n + 1)
    index = channel_index(n, lanes, vectors)
    # [G, steps, codes, blocks, vectors, lanes] -> [G * blocks, steps, vectors * lanes, codes]; lane -1 is all zeros
    packed = np.ascontiguousarray(steps[..., index].transpose(0, 3, 1, 4, 5, 2))
    packed = packed.reshape(groups * len(index), len(offsets), vectors * lanes, codes)
    return PackedWeights(with_slack(packed), offsets, packed.sum(axis=(1, 3), dtype=np.int32).reshape(-1))
