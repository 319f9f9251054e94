"""What an INT8 depthwise convolution multiplies at once, and how its weights are packed for that.

Rows of taps go in fours, whose bytes of one column are a 32-bit lane (in twos as 16-bit words, where the dot product of
bytes may saturate). A single row that is left goes along its axis instead: a strip of columns is a lane.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.interleave import lane_order
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]
LEAST_WIDTH = 16  # channels of a block: two interleaving steps exchange elements within 16 bytes
STEP_COST = 1.0  # of a second step, in rows of a block


@record
class Strip:
    """A product of a lane's columns, the last of which lies under an output's last tap, for the one `later` than it.

    Taps `first` to `end - 1` of the later output count; the others' weights are zero.
    """

    later: int
    first: int
    end: int


@record
class Shape:
    """What is compiled in: `rows` taps outside the last axis, `width` taps along it with `stride` and `dilation`.

    `words`: bytes are multiplied as 16-bit words. `pad`: columns of padding under the first output which are left out,
    of those before its last `stride` ones.
    """

    rows: int
    width: int
    stride: int
    dilation: int
    words: bool
    pad: int = 0

    @staticmethod
    def of(rows: int, width: int, stride: int, dilation: int, words: bool, pad: int) -> Shape:
        """The shape for an axis that begins with `pad` columns of padding."""
        return Shape(rows, width, stride, dilation, words, min(pad, max(width - stride, 0)) if dilation == 1 else 0)

    @property
    def size(self) -> int:
        """Taps that a lane holds."""
        return 2 if self.words else 4

    @property
    def carried(self) -> int:
        """Later outputs that a column is added to besides its own."""
        return (self.width - 1) // self.stride if self.dilation == 1 else 0

    @property
    def has_strips(self) -> bool:
        """Whether the last row goes in strips."""
        return self.rows % self.size == 1 and self.width > 1 and self.dilation == 1 and self.stride <= self.size

    @property
    def groups(self) -> list[range]:
        """Rows whose bytes of a column share a lane."""
        rows = self.rows - self.has_strips
        return [range(i, min(i + self.size, rows)) for i in range(0, rows, self.size)]

    @property
    def strips(self) -> list[Strip]:
        """Products that cover every tap of the last row once."""
        found: list[Strip] = []
        end = self.width if self.has_strips else 0
        while end:
            later = min((self.width - end) // self.stride, -(-max(self.width - self.size, 0) // self.stride))
            first = max(self.width - self.size - later * self.stride, 0)
            found.append(Strip(later, first, end))
            end = first
        return found

    @property
    def early_strips(self) -> list[int]:
        """How many outputs before the first a strip lies that later ones take, and that is not all padding."""
        latest = max((strip.later for strip in self.strips), default=0)
        return [i for i in range(1, latest + 1) if self.width - i * self.stride > self.pad]

    def unseen(self, output: int) -> Array:
        """Taps of output `output` among the columns of padding that are left out: bool [rows, width]."""
        taps = np.zeros((self.rows, self.width), bool)
        taps[:, : max(self.pad - output * self.stride, 0)] = True
        if self.has_strips:
            taps[-1] = False
            for strip in self.strips:
                before = strip.later - output
                taps[-1, strip.first : strip.end] = before > 0 and before not in self.early_strips
        return taps

    @property
    def products(self) -> int:
        """Dot products of an output."""
        return self.width * len(self.groups) + len(self.strips)


@record
class Blocks:
    """`count` blocks of `width` channels from channel `first` on; the last one overlaps rather than passes the end.

    A vector of bytes holds a block of `fold` output rows.
    """

    channels: int
    first: int
    count: int
    width: int
    fold: int

    @property
    def narrow(self) -> bool:
        """Whether there are fewer channels than a block has."""
        return self.channels < self.width

    @property
    def last(self) -> int:
        """The largest first channel of a block."""
        return max(self.channels - self.width, 0)

    @property
    def index(self) -> Array:
        """The channel of each lane of the four vectors of each block: [count, 4, lanes]."""
        starts = np.minimum(self.first + np.arange(self.count) * self.width, self.last)
        return np.asarray(starts[:, None, None] + lane_order(self.width * self.fold) % self.width)

    def apart(self) -> list[Blocks]:
        """Each block by itself."""
        starts = [min(self.first + i * self.width, self.last) for i in range(self.count)]
        return [replace(self, first=start, count=1) for start in starts]

    def spread(self, values: Array) -> Array:
        """A value a channel, [..., C], in the order of lanes: [count, ..., 4, lanes]."""
        room = [(0, 0)] * (values.ndim - 1) + [(0, max(0, self.width - self.channels))]
        return np.moveaxis(np.pad(values, room)[..., self.index], -3, 0)


def choose_blocks(isa: Isa, channels: int, rows: int) -> list[Blocks]:
    """Whole vectors of channels, then what is left: in an overlapping vector, or as several rows of a part of one."""
    wide = isa.bits // 8
    folds = [fold for fold in (1, 2, 4) if wide // fold >= LEAST_WIDTH]

    def cost(fold: int, count: int) -> float:
        return count * -(-rows // fold) * (1 + 0.07 * (fold - 1))

    whole = channels // wide
    rest = channels - whole * wide
    if not rest:
        return [Blocks(channels, 0, whole, wide, 1)]
    fitting = [fold for fold in folds if wide // fold <= channels] or folds[-1:]
    fold = min(fitting, key=lambda fold: (cost(fold, -(-rest * fold // wide)) + STEP_COST * (fold > 1), fold))
    if fold == 1:
        return [Blocks(channels, 0, whole + 1, wide, 1)]
    tail = Blocks(channels, whole * wide, -(-rest * fold // wide), wide // fold, fold)
    return [Blocks(channels, 0, whole, wide, 1), tail] if whole else [tail]


def pack_depthwise(shape: Shape, w: Array, blocks: Blocks) -> Array:
    """`w` [rows, width, C] i8 as [blocks, products, 4 vectors, lanes * 4 bytes], flat uint8: columns, then strips."""
    size, type = shape.size, np.int16 if shape.words else np.int8
    taps = np.zeros((shape.products, size, max(blocks.channels, blocks.width)), type)
    columns = taps[: shape.width * len(shape.groups)].reshape(shape.width, -1, size, taps.shape[-1])
    for g, rows in enumerate(shape.groups):
        columns[:, g, : len(rows), : blocks.channels] = w[rows.start : rows.stop].swapaxes(0, 1)
    for product, strip in zip(taps[shape.width * len(shape.groups) :], shape.strips, strict=True):
        left = shape.width - size - strip.later * shape.stride
        product[strip.first - left : strip.end - left, : blocks.channels] = w[-1, strip.first : strip.end]
    return np.ascontiguousarray(taps[..., blocks.index].transpose(2, 0, 3, 4, 1)).view(np.uint8).reshape(-1)
