"""INT8 depthwise convolution of any rank: NHWC u8, i8 weights a channel, exact int32 sums, any epilogue.

Channels go in blocks, a vector of u8 each; where channels are few, a vector holds 2 or 4 output rows of a half or a
quarter as many. Spatial axes but the last are rows: an output row reads `R = prod(kernel[:-1])` input rows, named by an
offset table (-1: padding). For one input column the bytes of up to four rows are interleaved, so that a 32-bit lane
holds the taps of one channel:

    rows y0 y1 y2        unpack bytes            one 32-bit lane a channel
    c0 c1 c2 ...   ->    y0c0 y1c0 y0c1 ...  ->  y0c0 y1c0 y2c0 0

and one dot product of 4 adds a whole column of taps; `depthwise_weights.py` says which products there are. A column
serves every output it lies under: with stride 1 and a kernel 3 wide, it is loaded once and added to three sums, two of
which wait for the next columns. Interleaving leaves channels in the order of `lane_order`, in which per-channel
constants are stored when the model is compiled; packing four vectors of results to bytes undoes it. Rows and columns
outside the input are read from a row of zero points: no border cases and no padded copy. What columns of padding at
the start of a row add to the outputs that wait is known beforehand.

Units are the blocks of each output row; `by_blocks`: all rows of a block come before the next block, so that a line of
the input, which `R` output rows read, comes from the second cache once.

Reads are whole blocks: input and operands need 64 readable bytes behind their end. The last block of channels overlaps
the one before it, so the output must not share memory with an operand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import Function, Value, size_of, vector_of
from lpir.devices.cpu.codegen.vector import concat, from_memory, memory_type, split
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.isa.dots import pmaddwd
from lpir.devices.cpu.kernels.depthwise_weights import Array, Shape
from lpir.devices.cpu.kernels.epilogue import Epilogue, element_bytes, row_pointer, store_lanes
from lpir.devices.cpu.kernels.interleave import Interleaved, pack_bytes, to_lane_order, to_memory_order
from lpir.ir.types import i32
from lpir.record import record
from lpir.scalar.expr import Expr


@functools.lru_cache(maxsize=256)
def build(isa: Isa, shape: Shape, fold: int, narrow: bool, epilogue: Epilogue, ordered: frozenset[int]) -> Kernel:
    """The kernel for one shape class. `narrow`: fewer channels than a block; `ordered`: leaves that `spread` stored."""
    return _Printer(isa, shape, fold, narrow, epilogue, ordered).kernel()


@record
class _Window:
    """A column of the input and its distance in bytes from the start of its row."""

    column: Value
    offset: Value


class _Printer:
    """Prints one kernel."""

    def __init__(
        self, isa: Isa, shape: Shape, fold: int, narrow: bool, epilogue: Epilogue, ordered: frozenset[int]
    ) -> None:
        self.isa, self.shape, self.fold, self.narrow = isa, shape, fold, narrow
        self.epilogue, self.ordered = epilogue, ordered
        self.bytes = isa.bits // 8
        self.width = self.bytes // fold
        self.lanes = self.bytes // 4
        self.raw_type = vector_of("i8", self.bytes)
        numbers = ("channels", "first", "last", "blocks", "rows", "columns", "in_columns", "pad", "by_blocks")
        params = {
            **dict.fromkeys(("x", "table", "zeros", "w", "init", "waiting", "out"), "ptr"),
            **dict.fromkeys(numbers, "i64"),
            **epilogue.params(),
        }
        name = f"idepthwise_{isa.name}_{shape.rows}x{shape.width}s{shape.stride}p{shape.pad}f{fold}"
        # weights and vectors from the stack take most of the loads that there can be
        self.f = Function(name, params, optimize=False, aligned=True, lean=isa.lean)

    def kernel(self) -> Kernel:
        f, p = self.f, self.f.p
        self.epilogue.start(f, self.lanes)
        weight_bytes = self.shape.products * 4 * self.bytes
        row_groups = f.udiv(f.add(p["rows"], self.fold - 1), self.fold)
        first, last = f.my_range(f.mul(row_groups, p["blocks"]))
        by_blocks = f.icmp("ne", p["by_blocks"], 0)
        inner = f.select(by_blocks, row_groups, p["blocks"])
        start = [f.udiv(first, inner), f.urem(first, inner)]
        with f.loop(first, last, carried=start, name="unit") as unit:
            outside, inside = unit.values
            group, block = f.select(by_blocks, inside, outside), f.select(by_blocks, outside, inside)
            self.block = block
            self.n = f.smin(f.add(p["first"], f.mul(block, self.width)), p["last"])
            self.w = f.gep(p["w"], f.mul(block, weight_bytes))
            self.rows = [f.add(f.mul(group, self.fold), i) for i in range(self.fold)]
            if self.fold > 1:
                self.rows = [f.smin(row, f.sub(p["rows"], 1)) for row in self.rows]
            self.bases = [self._sources(tap) for tap in range(self.shape.rows)]
            self.init = self._ordered("i32", p["init"])
            self.leaves = self._vectors()
            self._row()
            following = f.add(inside, 1)
            over = f.icmp("eq", following, inner)
            unit.next = [f.add(outside, f.convert("zext", over, "i64")), f.select(over, 0, following)]
        return f.kernel()

    def _sources(self, tap: int) -> list[Value]:
        """Where the input row under tap row `tap` starts, for each of the folded rows; of padding: zero points."""
        f, p = self.f, self.f.p
        found = []
        for row in self.rows:
            entry = f.gep(p["table"], f.add(f.mul(row, self.shape.rows), tap), "i32")
            offset = f.convert("sext", f.load("i32", entry, 4), "i64")
            found.append(f.select(f.icmp("sge", offset, 0), f.gep(f.gep(p["x"], offset), self.n), p["zeros"]))
        return found

    def _ordered(self, element: str, base: Value, rows: int = 1) -> list[Value]:
        """The four vectors of this block of each row of an array that `Blocks.spread` put in order."""
        f, type = self.f, vector_of(element, self.lanes)
        at = f.gep(base, f.mul(self.block, 4 * rows * size_of(type)))
        return [f.load(type, f.gep(at, v * size_of(type)), align=size_of(type)) for v in range(4 * rows)]

    def _vectors(self) -> list[dict[int, Value]]:
        """Per-channel leaves of the four vectors."""
        f, e = self.f, self.epilogue
        leaves: list[dict[int, Value]] = [{} for _ in range(4)]
        for i, operand in enumerate(e.operands, 1):
            if operand.kind != "vector":
                continue
            base = f.p[f"{e.prefix}e{i}"]
            if i in self.ordered:
                found = [from_memory(f, x, operand.type) for x in self._ordered(memory_type(operand.type), base)]
            else:
                at = f.gep(base, self.n, memory_type(operand.type))
                part = from_memory(f, f.load(memory_type(operand.type, self.width), at), operand.type)
                found = to_lane_order(f, concat(f, [part] * self.fold), self.lanes)
            for leaf, value in zip(leaves, found, strict=True):
                leaf[i] = value
        return leaves

    def _row(self) -> None:
        """All output columns of the folded rows of one block.

        Outputs that wait start with what they have seen of padding, whose columns are left out.
        """
        f, s, p = self.f, self.shape, self.f.p
        outs = [f.mul(row, p["columns"]) for row in self.rows]
        width = f.mul(p["channels"], element_bytes(self.epilogue.type))
        places = [f.gep(row_pointer(f, p["out"], width, out), self.n, self._out_type()) for out in outs]
        found = self._ordered("i32", p["waiting"], s.carried) if s.pad else self.init * s.carried
        waiting = [found[4 * i : 4 * i + 4] for i in range(s.carried)]
        first = f.mul(f.sub(0, p["pad"]), p["channels"])
        start = _Window(f.const("i64", 0), first)
        if s.dilation == 1:
            for c in range(s.pad, max(0, s.width - s.stride)):
                self._add(waiting, self._column(start, self._ahead(c)), c)
        for before in s.early_strips:
            left = f.add(first, f.mul(p["channels"], -before * s.stride))
            self._add_strips(waiting, _Window(f.const("i64", -before * s.stride), left), before, self._strip_columns())
        flat = [v for sums in waiting for v in sums]
        fresh = range(max(0, s.width - s.stride), s.width) if s.dilation == 1 else range(s.width)
        columns, strip = [self._ahead(k * s.dilation) for k in fresh], self._strip_columns()
        step = f.mul(p["channels"], s.stride)
        with f.loop(0, p["columns"], carried=flat, nonempty=True, name="column") as x:
            sums = [x.values[4 * i : 4 * i + 4] for i in range(s.carried)] + [list(self.init)]
            window = _Window(f.mul(x.index, s.stride), f.moving(x, first, step))
            for k, column in zip(fresh, columns, strict=True):
                self._add(sums, self._column(window, column), k)
            self._add_strips(sums, window, 0, strip)
            to = f.moving(x, f.const("i64", 0), width)
            pixels = [f.add(out, x.index) for out in outs] if self.epilogue.tensor_bytes else []
            self._store(sums[0], pixels, [f.gep(place, to) for place in places])
            x.next = [v for later in sums[1:] for v in later]

    def _out_type(self) -> str:
        return memory_type(self.epilogue.type)

    def _ahead(self, columns: int) -> _Window:
        """How far a column lies behind the start of a window, less the padding: as a column, and in bytes."""
        f, p = self.f, self.f.p
        return _Window(f.sub(columns, p["pad"]), f.mul(p["channels"], columns))

    def _strip_columns(self) -> list[_Window]:
        s = self.shape
        return [self._ahead(s.width - s.size + k) for k in range(s.size)] if s.strips else []

    def _place(self, window: _Window, ahead: _Window) -> tuple[Value, Value]:
        """Whether a column is inside, and its distance from the start of its row."""
        f = self.f
        column = f.add(window.column, ahead.column)
        offset = f.add(window.offset, ahead.offset) if f.lean else f.mul(column, f.p["channels"])
        return f.icmp("ult", column, f.p["in_columns"]), offset

    def _load(self, row: int, place: tuple[Value, Value]) -> Value:
        """The block of a column of a tap row; zero points where the column is outside."""
        f = self.f
        inside, offset = place
        pointers = [f.select(inside, f.gep(base, offset), f.p["zeros"]) for base in self.bases[row]]
        return concat(f, [f.load(vector_of("i8", self.width), pointer) for pointer in pointers])

    def _column(self, window: _Window, ahead: _Window) -> list[Interleaved]:
        """The interleaved bytes of one column: an entry for each group of rows."""
        place = self._place(window, ahead)
        loaded = [[self._load(row, place) for row in rows] for rows in self.shape.groups]
        return [Interleaved.of(self.f, rows, self.shape.words) for rows in loaded]

    def _add(self, sums: list[list[Value]], column: list[Interleaved], tap: int) -> None:
        """Adds a column to `sums[i]`, where it lies under tap `tap - i * stride`; one vector at a time."""
        taps = [tap - i * self.shape.stride for i in range(len(sums))]
        for v in range(4):
            for g, rows in enumerate(column):
                bytes_ = rows.vector(self.f, v)
                for i, t in enumerate(taps):
                    if t >= 0:
                        sums[i][v] = self._dot(sums[i][v], bytes_, t * len(column) + g, v)

    def _add_strips(self, sums: list[list[Value]], window: _Window, before: int, columns: list[_Window]) -> None:
        """Adds the strip of `columns` that ends under the output of `window`, `before` that of `sums[0]`."""
        f, s = self.f, self.shape
        wanted = [(n, strip.later - before) for n, strip in enumerate(s.strips, s.width * len(s.groups))]
        wanted = [(n, i) for n, i in wanted if i >= 0]
        if not wanted:
            return
        places = [self._place(window, column) for column in columns]
        strip = Interleaved.of(f, [self._load(s.rows - 1, place) for place in places], s.words)
        for v in range(4):
            bytes_ = strip.vector(f, v)
            for number, i in wanted:
                sums[i][v] = self._dot(sums[i][v], bytes_, number, v)

    def _dot(self, acc: Value, a: Value, product: int, v: int) -> Value:
        """`acc` plus the products of `a` with the weights of vector `v` of a product."""
        f = self.f
        w = f.load(self.raw_type, f.gep(self.w, (4 * product + v) * self.bytes), align=self.bytes)
        if not self.shape.words:
            return self.isa.weight_dot(f, acc, a, w)
        wide = vector_of("i16", self.bytes // 2)
        return f.add(acc, pmaddwd(f, f.convert("bitcast", a, wide), f.convert("bitcast", w, wide)))

    def _store(self, sums: list[Value], pixels: list[Value], outs: list[Value]) -> None:
        """Finishes an output pixel of each folded row."""
        f, e = self.f, self.epilogue
        tensors = self._tensors(pixels)
        pack = e.ends_in_bytes
        parts = [e.finish(f, self.isa, acc, {**self.leaves[v], **tensors[v]}, pack) for v, acc in enumerate(sums)]
        result = pack_bytes(f, parts, self.isa.is_x86, e.saturate) if pack else to_memory_order(f, parts, self.bytes)
        for part, out in zip(split(f, result, self.width), outs, strict=True):
            if self.narrow:
                store_lanes(f, part, out, f.p["channels"], self.isa.masks)
            else:
                f.store(part, out)

    def _tensors(self, pixels: list[Value]) -> list[dict[int, Value]]:
        """Tensor leaves of one pixel of each folded row for the four vectors."""
        f, e = self.f, self.epilogue
        found = [e.tensors(f, e.row(f, m), self.n, self.width) for m in pixels] or [{}]
        leaves: list[dict[int, Value]] = [{} for _ in range(4)]
        for i in found[0]:
            whole = concat(f, [tensors[i] for tensors in found])
            for leaf, ordered in zip(leaves, to_lane_order(f, whole, self.lanes), strict=True):
                leaf[i] = ordered
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
