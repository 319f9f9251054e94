"""INT8 depthwise convolution of any rank: NHWC u8, i8 weights a channel, exact int32 sums, any epilogue.

Channels go in blocks of `W` bytes (a vector of u8, or a part of one where channels are few). Spatial axes but the last
are rows: an output row reads `R = prod(kernel[:-1])` input rows, named by an offset table (-1: padding). For one input
column the bytes of up to four rows are interleaved, so that a 32-bit lane holds the taps of one channel:

    rows y0 y1 y2        unpack bytes            one 32-bit lane a channel
    c0 c1 c2 ...   ->    y0c0 y1c0 y0c1 ...  ->  y0c0 y1c0 y2c0 0

and one dot product of 4 adds a whole column of taps. A column serves every output it lies under: with stride 1 and a
kernel 3 wide, it is loaded once and added to three sums, two of which wait for the next columns. Interleaving leaves
channels in the order of `lane_order`; packing four vectors of results to bytes undoes it. Rows and columns outside the
input are read from a vector of zero points: no border cases and no padded copy.

Where the dot product is `vpmaddubsw`, pairs of rows go as 16-bit lanes through `vpmaddwd` instead: always exact.

Reads are whole blocks: input and operands need 64 readable bytes behind their end. The last block of channels overlaps
the one before it, so the output must not share memory with an operand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.isa.dots import pmaddwd
from lpir.devices.cpu.kernels.epilogue import Epilogue, element_bytes, row_pointer, store_lanes
from lpir.devices.cpu.kernels.interleave import Interleaved, lane_order, pack_bytes, to_lane_order, to_memory_order
from lpir.ir.types import i32
from lpir.scalar.expr import Expr

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What is compiled in: `rows` taps outside the last axis, `width` taps along it with `stride` and `dilation`."""

    rows: int
    width: int
    stride: int
    dilation: int

    @property
    def carried(self) -> int:
        """Later outputs that a column is added to besides its own."""
        return (self.width - 1) // self.stride if self.dilation == 1 else 0


def block_bytes(isa: Isa, channels: int) -> int:
    """Channels a block: the widest vector that wastes little on the last, overlapping block."""
    widths = [w for w in (64, 32, 16) if w <= isa.bits // 8]
    penalty = {64: 1.0, 32: 1.04, 16: 1.5}
    return min(widths, key=lambda w: -(-channels // w) * w * penalty[w])


def uses_words(isa: Isa) -> bool:
    """Whether rows are multiplied as pairs of 16-bit lanes, because the dot product of bytes may saturate."""
    return not isa.exact


def quads(rows: int, words: bool) -> list[int]:
    """How `rows` are grouped: up to four a dot product of bytes, up to two of words."""
    size = 2 if words else 4
    return [min(size, rows - i) for i in range(0, rows, size)]


def pack_depthwise(isa: Isa, w: Array, block: int) -> Array:
    """`w` [rows, width, C] i8 as [blocks, width, groups of rows, 4 vectors, lanes * 4 bytes], flat uint8."""
    rows, width, channels = w.shape
    words = uses_words(isa)
    groups, size = quads(rows, words), 2 if words else 4
    full = np.zeros((len(groups) * size, width, max(channels, block)), np.int16 if words else np.int8)
    full[:rows, :, :channels] = w
    blocks = -(-channels // block)
    starts = np.minimum(np.arange(blocks) * block, max(channels - block, 0))
    index = starts[:, None, None] + lane_order(block)[None]  # [blocks, 4, lanes]
    taken = full.reshape(len(groups), size, width, -1)[..., index]
    return np.ascontiguousarray(taken.transpose(3, 2, 0, 4, 5, 1)).view(np.uint8).reshape(-1)


@functools.lru_cache(maxsize=256)
def build(isa: Isa, shape: Shape, block: int, narrow: bool, epilogue: Epilogue) -> Kernel:
    """The kernel for one shape class. `narrow`: fewer channels than a block."""
    return _Printer(isa, shape, block, narrow, epilogue).kernel()


class _Printer:
    """Prints one kernel."""

    def __init__(self, isa: Isa, shape: Shape, block: int, narrow: bool, epilogue: Epilogue) -> None:
        self.isa, self.shape, self.block, self.narrow, self.epilogue = isa, shape, block, narrow, epilogue
        self.lanes = block // 4
        self.words = uses_words(isa)
        self.groups = quads(shape.rows, self.words)
        self.acc_type = vector_of("i32", self.lanes)
        self.raw_type = vector_of("i8", block)
        numbers = ("channels", "blocks", "rows", "columns", "in_columns", "pad")
        params = {
            **dict.fromkeys(("x", "table", "zeros", "w", "init", "out"), "ptr"),
            **dict.fromkeys(numbers, "i64"),
            **epilogue.params(),
        }
        name = f"idepthwise_{isa.name}_{shape.rows}x{shape.width}s{shape.stride}"
        self.f = Function(name, params, optimize=False)

    def kernel(self) -> Kernel:
        f, p = self.f, self.f.p
        self.epilogue.start(f, self.lanes)
        weight_bytes = self.shape.width * len(self.groups) * 4 * self.block
        first, last = f.my_range(f.mul(p["rows"], p["blocks"]))
        with f.loop(first, last, name="unit") as unit:
            row, block = f.udiv(unit.index, p["blocks"]), f.urem(unit.index, p["blocks"])
            start = f.mul(block, self.block)
            n = start if self.narrow else f.smin(start, f.sub(p["channels"], self.block))
            self.n, self.w = n, f.gep(p["w"], f.mul(block, weight_bytes))
            self._sources(row)
            inits = self._in_lane_order("i32", f.gep(p["init"], n, "i32"))
            self.init = inits
            self.leaves = self._vectors()
            self._row(row)
        return f.kernel()

    def _sources(self, row: Value) -> None:
        """Pointer and distance of columns of every input row; a row of padding stands still at the zero points."""
        f, p = self.f, self.f.p
        self.bases: list[tuple[Value, Value]] = []
        for r in range(self.shape.rows):
            entry = f.gep(p["table"], f.add(f.mul(row, self.shape.rows), r), "i32")
            offset = f.convert("sext", f.load("i32", entry, 4), "i64")
            inside = f.icmp("sge", offset, 0)
            at = f.gep(f.gep(p["x"], offset), self.n)
            self.bases.append((f.select(inside, at, p["zeros"]), f.select(inside, p["channels"], 0)))

    def _in_lane_order(self, element: str, at: Value) -> list[Value]:
        return to_lane_order(self.f, self.f.load(vector_of(element, self.block), at), self.lanes)

    def _vectors(self) -> list[dict[int, Value]]:
        """Per-channel leaves of the four vectors."""
        whole = self.epilogue.vectors(self.f, self.n, self.block)
        leaves: list[dict[int, Value]] = [{} for _ in range(4)]
        for i, value in whole.items():
            for part, ordered in zip(leaves, to_lane_order(self.f, value, self.lanes), strict=True):
                part[i] = ordered
        return leaves

    def _row(self, row: Value) -> None:
        """All output columns of one row of one block."""
        f, s = self.f, self.shape
        out_row = f.mul(row, f.p["columns"])
        waiting = [list(self.init) for _ in range(s.carried)]
        if s.dilation == 1:
            for c in range(max(0, s.width - s.stride)):
                self._add(waiting, self._column(f.const("i64", c)), c)
        flat = [v for sums in waiting for v in sums]
        with f.loop(0, f.p["columns"], carried=flat, nonempty=True, name="column") as x:
            sums = [x.values[4 * i : 4 * i + 4] for i in range(s.carried)] + [list(self.init)]
            self._columns(f.mul(x.index, s.stride), sums)
            self._store(sums[0], f.add(out_row, x.index))
            x.next = [v for later in sums[1:] for v in later]

    def _columns(self, left: Value, sums: list[list[Value]]) -> None:
        """Adds the columns that are new to the output whose window starts at `left`."""
        f, s = self.f, self.shape
        fresh = range(max(0, s.width - s.stride), s.width) if s.dilation == 1 else range(s.width)
        for k in fresh:
            self._add(sums, self._column(f.add(left, k * s.dilation)), k)

    def _column(self, at: Value) -> list[Interleaved]:
        """The interleaved bytes of one column, counted from the left padding: an entry for each group of rows."""
        f, p = self.f, self.f.p
        x = f.sub(at, p["pad"])
        inside = f.icmp("ult", x, p["in_columns"])
        loaded = []
        for base, step in self.bases:
            pointer = f.select(inside, f.gep(base, f.mul(x, step)), p["zeros"])
            loaded.append(f.load(self.raw_type, pointer))
        size = 2 if self.words else 4
        return [Interleaved.of(f, loaded[i : i + size], self.words) for i in range(0, len(loaded), size)]

    def _add(self, sums: list[list[Value]], column: list[Interleaved], tap: int) -> None:
        """Adds a column to `sums[i]`, where it lies under tap `tap - i * stride`; one vector at a time."""
        taps = [tap - i * self.shape.stride for i in range(len(sums))]
        for v in range(4):
            for g, rows in enumerate(column):
                bytes_ = rows.vector(self.f, v)
                for i, t in enumerate(taps):
                    if t >= 0:
                        sums[i][v] = self._dot(sums[i][v], bytes_, ((t * len(self.groups) + g) * 4 + v) * self.block)

    def _dot(self, acc: Value, a: Value, offset: int) -> Value:
        """`acc` plus the products of `a` with the weights at `offset`."""
        f = self.f
        w = f.load(self.raw_type, f.gep(self.w, offset))
        if not self.words:
            return self.isa.weight_dot(f, acc, a, w)
        wide = vector_of("i16", self.block // 2)
        return f.add(acc, pmaddwd(f, f.convert("bitcast", a, wide), f.convert("bitcast", w, wide)))

    def _store(self, sums: list[Value], m: Value) -> None:
        """Finishes one output pixel."""
        f, e = self.f, self.epilogue
        size = element_bytes(e.type)
        at = f.gep(row_pointer(f, f.p["out"], f.mul(f.p["channels"], size), m), f.mul(self.n, size))
        rows = self._tensors(m)
        pack = e.ends_in_bytes
        parts = [e.finish(f, self.isa, acc, {**self.leaves[v], **rows[v]}, pack) for v, acc in enumerate(sums)]
        result = pack_bytes(f, parts, self.isa.is_x86, e.saturate) if pack else to_memory_order(f, parts, self.block)
        if self.narrow:
            store_lanes(f, result, at, f.p["channels"], self.isa.masks)
        else:
            f.store(result, at)

    def _tensors(self, m: Value) -> list[dict[int, Value]]:
        """Tensor leaves of one pixel for the four vectors."""
        leaves: list[dict[int, Value]] = [{} for _ in range(4)]
        for i, value in self.epilogue.tensors(self.f, self.epilogue.row(self.f, m), self.n, self.block).items():
            for part, ordered in zip(leaves, to_lane_order(self.f, value, self.lanes), strict=True):
                part[i] = ordered
        return leaves


def row_table(
    x: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> Array:
    """Byte offset of the input row under each tap of each output row, -1 for padding: int32 [output rows, R].

    Shapes `[N, *S, C]` and `[N, *So, C]`; the last spatial axis is not part of it.
    """
    row = x[-1] * x[-2]
    total, inside = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
    for axis in range(len(kernel) - 1):
        at = np.arange(out[1 + axis])[:, None] * strides[axis] + np.arange(kernel[axis]) * dilations[axis] - pads[axis]
        ok = (at >= 0) & (at < x[1 + axis])
        total = _outer(total * x[1 + axis], at)
        inside = _outer(inside.astype(np.int64) - 1, ok.astype(np.int64) - 1) == 0
    batch = np.arange(out[0], dtype=np.int64) * math.prod(x[1:-2])
    total = (batch[:, None, None] + total[None]).reshape(-1, total.shape[1])
    return np.where(np.tile(inside, (out[0], 1)), total * row, -1).astype(np.int32)


def _outer(a: Array, b: Array) -> Array:
    """Sums of every (row, tap) of `a` with every one of `b`: rows and taps both multiply."""
    result: Array = a[:, None, :, None] + b[None, :, None, :]
    return result.reshape(a.shape[0] * b.shape[0], -1)


def applies(epilogue: Expr) -> str | None:
    """Why the kernel cannot be used, or None."""
    if epilogue.inputs().get(0, i32) != i32:
        return f"the epilogue wants a {epilogue.inputs()[0]} sum, not int32"
    return None
