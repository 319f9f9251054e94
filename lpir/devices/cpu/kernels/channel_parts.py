"""Copies a convolution's input in parts of its channels, padded, so that rows of each part stay in the first cache.

The pixels that one tap reads lie one behind the other: where strides are 2, the even columns of the padded input come
before the odd ones, and those of even rows before those of odd ones. Columns and rows that no tap reads are left out.

    [columns' remainder, part, N, rows' remainders.., *rows, columns, channels / parts]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.kernels.amx_blocks import DEPTH
from lpir.devices.cpu.kernels.base import BuildContext, Step
from lpir.devices.cpu.kernels.geometry import dense_strides
from lpir.devices.cpu.kernels.pack import Array
from lpir.devices.cpu.kernels.rows import grid_offsets, pad_kernel
from lpir.ops.lowered import LoweredConvolution
from lpir.record import record

# measured: bytes of rows that stay in the first cache beside weights, where their sums wait in memory and where not
NEAR, NEAR_WHOLE = 26 * 1024, 42 * 1024


@record
class Axis:
    """One spatial axis: `before` padding, the input's `size`, the `stride` of outputs, and where each tap reads: in
    which of the `remainders`, and how many pixels behind the output's; `length` pixels of each remainder are kept."""

    size: int
    before: int
    stride: int
    taps: tuple[tuple[int, int], ...]
    remainders: tuple[int, ...]
    length: int

    def inside(self, remainder: int) -> tuple[int, int, int]:
        """Of the pixels of a remainder: how many padding ones come first, how many are the input's, its first one."""
        at = [remainder + self.stride * i - self.before for i in range(self.length)]
        kept = [i for i, x in enumerate(at) if 0 <= x < self.size]
        return (kept[0], len(kept), at[kept[0]]) if kept else (self.length, 0, 0)


def axis_of(size: int, out: int, taps: int, stride: int, dilation: int, before: int) -> Axis:
    """The axis of a convolution with `out` outputs."""
    at = [divmod(tap * dilation, stride) for tap in range(taps)]
    remainders = tuple(sorted({rest for _, rest in at}))
    found = tuple((remainders.index(rest), shift) for shift, rest in at)
    return Axis(size, before, stride, found, remainders, out + max(shift for shift, _ in at))


@record
class ChannelParts:
    """The copy of an input `[N, *S, C]` in `parts` of its channels."""

    axes: tuple[Axis, ...]
    batch: int
    channels: int
    parts: int

    @property
    def width(self) -> int:
        """Channels of a part, which are the bytes of a pixel."""
        return self.channels // self.parts

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the copy's axes; see the module."""
        *rows, columns = self.axes
        remainders = [len(a.remainders) for a in rows]
        lengths = [a.length for a in rows]
        return len(columns.remainders), self.parts, self.batch, *remainders, *lengths, columns.length, self.width

    @property
    def nbytes(self) -> int:
        """Bytes of the copy."""
        return math.prod(self.sizes)

    @property
    def is_copy(self) -> bool:
        """Whether the copy is unlike the input."""
        kept = all(a.length == a.size and not a.before and a.stride == 1 for a in self.axes)
        return self.parts > 1 or not kept

    def offsets(self, out: Sequence[int]) -> Array:
        """Byte offset of each output pixel's first tap within a part; `out`: [N, *So]."""
        strides = dense_strides(self.sizes)
        return grid_offsets(out, (strides[2], *strides[-len(self.axes) - 1 : -1]))

    def taps(self) -> Array:
        """Byte offset of each tap in part 0."""
        strides, count = dense_strides(self.sizes), len(self.axes)
        remainders = [*strides[3 : 2 + count], strides[0]]
        moves = strides[-count - 1 : -1]
        places = [
            [rest * r + shift * m for rest, shift in axis.taps]
            for axis, r, m in zip(self.axes, remainders, moves, strict=True)
        ]
        return np.array([sum(at) for at in itertools.product(*places)], np.int64)

    def step_offsets(self, depth: int) -> Array:
        """int32 byte offset of each step of `depth` channels: of all taps of the first part, then of the next one."""
        starts = np.arange(self.parts) * dense_strides(self.sizes)[1]
        channels = np.arange(0, self.width, depth)
        return (starts[:, None, None] + self.taps()[:, None] + channels).reshape(-1).astype(np.int32)

    def table(self) -> Array:
        """int64 byte offset in the input of the first pixel of each row of a part, -1 for all padding."""
        *rows, _ = self.axes
        strides = dense_strides((self.batch, *(a.size for a in self.axes), self.channels))
        count = len(rows)
        shape = (self.parts, self.batch, *(len(a.remainders) for a in rows), *(a.length for a in rows))
        table = np.zeros(shape, np.int64)
        padding = np.zeros(shape, np.bool_)
        starts = np.arange(self.parts)[:, None] * self.width + np.arange(self.batch) * strides[0]
        table += starts.reshape(*starts.shape, *[1] * (2 * count))
        for i, (axis, stride) in enumerate(zip(rows, strides[1:], strict=False)):
            at = np.array(axis.remainders)[:, None] + axis.stride * np.arange(axis.length) - axis.before
            place = [1] * len(shape)
            place[2 + i], place[2 + count + i] = at.shape
            at = at.reshape(place)
            table += at * stride
            padding |= (at < 0) | (at >= axis.size)
        table[padding] = -1
        return table

    def steps(self, x: Ref, out: Ref, fill: int, ctx: BuildContext) -> list[Step]:
        """Copies input `x` to `out`, with `fill` for padding: a step for each remainder of the columns."""
        columns, table = self.axes[-1], self.table()
        found = []
        for i, remainder in enumerate(columns.remainders):
            left, count, first = columns.inside(remainder)
            values: dict[str, int | float | F32 | Ref] = {
                **{"x": x + first * self.channels, "out": out + i * dense_strides(self.sizes)[0]},
                **{"table": ctx.constant(table), "rows": table.size, "left": left * self.width},
                **{"count": count, "run": self.width, "pitch": columns.stride * self.channels},
                **{"right": (columns.length - left - count) * self.width, "fill": fill},
            }
            found.append(Step.of(pad_kernel(), values))
        return found


def parts_of(
    op: LoweredConvolution, image: Sequence[int], out: Sequence[int], kernel: Sequence[int]
) -> ChannelParts | None:
    """The fewest parts of an input `image` [N, *S, C] that are near, of whole steps; None where there are none."""
    geometry = zip(image[1:-1], out[1:-1], kernel, op.strides, op.dilations, op.pads_begin, strict=True)
    whole = ChannelParts(tuple(axis_of(*axis) for axis in geometry), image[0], image[-1], 1)
    steps, rest = divmod(image[-1], DEPTH)
    if rest or whole.nbytes <= NEAR_WHOLE:
        return None if rest else whole
    fitting = (parts for parts in range(2, steps + 1) if steps % parts == 0 and whole.nbytes <= parts * NEAR)
    parts = next(fitting, 0)
    return ChannelParts(whole.axes, whole.batch, whole.channels, parts) if parts else None
