"""Float32 depthwise convolution of any rank, channels last, any epilogue.

A unit of work is a few output rows of one vector of channels. A row reads `R = prod(kernel[:-1])` input rows, named by
an offset table (-1: padding), and keeps a tile of neighboring output columns in registers, so that a loaded column
serves every output it lies under. Rows and columns outside the input are read from a vector of zeros: no padded copy; a
tile that lies inside does not ask. Fused multiply-adds, taps in row-major order.

Reads are whole vectors: input and operands need 64 readable bytes behind their end. The last tile and the last vector
overlap their neighbors, so the output must not share memory with an operand.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.convolution_f32 import refuse
from lpir.devices.cpu.kernels.copy import View, copy
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand, element_bytes, store_lanes
from lpir.devices.cpu.kernels.idepthwise import row_table
from lpir.devices.cpu.kernels.rows import bind_operand, operand_of, refuse_operands
from lpir.ir.graph import Node
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import LoweredConvolution, expanded
from lpir.record import record
from lpir.scalar.expr import Expr

Array = np.ndarray[Any, np.dtype[Any]]

MAX_TAPS = 121  # taps are unrolled
# output rows of a unit of work: neighbors with stride 1 share most of their input rows, which stay in the first cache;
# fewer where there are more threads, because rows that another core wrote come fastest in the order of memory
ROWS = 4


@record
class Shape:
    """What is compiled in: `rows` taps outside the last axis, `width` along it, `tile` output columns at once."""

    rows: int
    width: int
    stride: int
    dilation: int
    tile: int
    narrow: bool

    @property
    def columns(self) -> list[int]:
        """Input columns that a tile reads, counted from its left end."""
        return sorted({t * self.stride + k * self.dilation for t in range(self.tile) for k in range(self.width)})


def choose_tile(columns: int, taps: int) -> int:
    """Output columns a tile: the last tile overlaps, so a divisor wastes nothing; many taps want a short text."""
    most = 8 if taps <= 9 else 7 if taps <= 25 else 4
    return min(range(1, min(columns, most) + 1), key=lambda t: (-(-columns // t) * (t + 1.5), -t))


def row_chunks(rows: int, stride: int, threads: int) -> int:
    """Into how many chunks to cut the output rows: as many for each thread."""
    chunk = max(ROWS // threads, 1) if stride == 1 else 1
    return min(-(-rows // (chunk * threads)) * threads, rows)


@functools.lru_cache(maxsize=256)
def kernel(isa: Isa, shape: Shape, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Code, Epilogue]:
    """The kernel of a shape class and the printer of its epilogue."""
    printer = _Printer(isa, shape, Epilogue(expanded(epilogue), operands))
    return printer.kernel(), printer.epilogue


class _Printer:
    """Prints one kernel."""

    def __init__(self, isa: Isa, shape: Shape, epilogue: Epilogue) -> None:
        self.isa, self.shape, self.epilogue = isa, shape, epilogue
        self.lanes = isa.lanes()
        self.type = vector_of("float", self.lanes)
        numbers = ("channels", "blocks", "rows", "chunks", "columns", "in_columns", "pad")
        params = {
            **dict.fromkeys(("x", "table", "zeros", "w", "out"), "ptr"),
            **dict.fromkeys(numbers, "i64"),
            **epilogue.params(),
        }
        self.f = Function(f"fdepthwise_{isa.name}_{shape.rows}x{shape.width}s{shape.stride}", params, optimize=False)
        self.size = element_bytes(epilogue.type)

    def kernel(self) -> Code:
        f, p, s = self.f, self.f.p, self.shape
        self.epilogue.start(f, self.lanes)
        pixel = f.mul(p["channels"], 4)
        first, last = f.my_range(f.mul(p["chunks"], p["blocks"]))
        with f.loop(first, last, name="unit") as unit:
            chunk, block = f.udiv(unit.index, p["blocks"]), f.urem(unit.index, p["blocks"])
            n = f.mul(block, self.lanes)
            n = n if s.narrow else f.smin(n, f.sub(p["channels"], self.lanes))
            w = f.gep(p["w"], f.mul(block, s.rows * s.width * self.lanes * 4))
            leaves = self.epilogue.vectors(f, n, self.lanes)
            top = f.udiv(f.mul(p["rows"], chunk), p["chunks"])
            bottom = f.udiv(f.mul(p["rows"], f.add(chunk, 1)), p["chunks"])
            with f.loop(top, bottom, name="row") as row:
                self._row(row.index, n, pixel, w, leaves)
        return f.kernel()

    def _row(self, row: Value, n: Value, pixel: Value, w: Value, leaves: dict[int, Value]) -> None:
        """One output row of one vector of channels."""
        f, p, s = self.f, self.f.p, self.shape
        sources = self._sources(row, n, pixel)
        with f.loop(0, p["columns"], s.tile, nonempty=True, name="column") as c:
            column = f.smin(c.index, f.sub(p["columns"], s.tile))
            left = f.sub(f.mul(column, s.stride), p["pad"])
            right = f.add(left, s.columns[-1])
            inside = f.binary("and", f.icmp("sge", left, 0), f.icmp("slt", right, p["in_columns"]))
            m = f.add(f.mul(row, p["columns"]), column)
            with f.if_(inside):
                self._finish(self._inner(sources, left, w), m, n, leaves)
            with f.if_(f.binary("xor", inside, f.const("i1", True))):
                self._finish(self._border(sources, left, w), m, n, leaves)

    def _sources(self, row: Value, n: Value, pixel: Value) -> list[tuple[Value, Value]]:
        """Pointer and distance of columns of every input row; a row of padding stands still at the zeros."""
        f, p, out = self.f, self.f.p, []
        for r in range(self.shape.rows):
            entry = f.gep(p["table"], f.add(f.mul(row, self.shape.rows), r), "i32")
            offset = f.convert("sext", f.load("i32", entry, 4), "i64")
            inside = f.icmp("sge", offset, 0)
            at = f.gep(f.gep(p["x"], offset), n, "float")
            out.append((f.select(inside, at, p["zeros"]), f.select(inside, pixel, 0)))
        return out

    def _inner(self, sources: list[tuple[Value, Value]], left: Value, w: Value) -> list[Value]:
        """The sums of a tile whose columns are all inside."""
        f = self.f
        starts = [f.gep(base, f.mul(left, step)) for base, step in sources]

        def column(r: int, c: int) -> Value:
            return f.load(self.type, f.gep(starts[r], f.mul(sources[r][1], c)), 4)

        return self._sum(column, w)

    def _border(self, sources: list[tuple[Value, Value]], left: Value, w: Value) -> list[Value]:
        """The sums of a tile with columns in the padding."""
        f, p = self.f, self.f.p
        at = {c: f.add(left, c) for c in self.shape.columns}
        inside = {c: f.icmp("ult", x, p["in_columns"]) for c, x in at.items()}

        def column(r: int, c: int) -> Value:
            base, step = sources[r]
            return f.load(self.type, f.select(inside[c], f.gep(base, f.mul(at[c], step)), p["zeros"]), 4)

        return self._sum(column, w)

    def _sum(self, column: Any, w: Value) -> list[Value]:
        f, s = self.f, self.shape
        sums = [f.zeros(self.type)] * s.tile
        for r in range(s.rows):
            weights = [f.load(self.type, f.gep(w, (r * s.width + k) * self.lanes * 4), 4) for k in range(s.width)]
            for c in s.columns:
                x = column(r, c)
                for t in range(s.tile):
                    k, rest = divmod(c - t * s.stride, s.dilation)
                    if rest == 0 and 0 <= k < s.width:
                        sums[t] = f.intrinsic("llvm.fmuladd", self.type, x, weights[k], sums[t])
        return sums

    def _finish(self, sums: list[Value], first: Value, n: Value, leaves: dict[int, Value]) -> None:
        f = self.f
        for t, acc in enumerate(sums):
            m = f.add(first, t)
            tensors = self.epilogue.tensors(f, self.epilogue.row(f, m), n, self.lanes)
            result = self.epilogue.finish(f, self.isa, acc, {**leaves, **tensors})
            at = f.gep(f.p["out"], f.mul(f.add(f.mul(m, f.p["channels"]), n), self.size))
            if self.shape.narrow:
                store_lanes(f, result, at, f.p["channels"], self.isa.masks)
            else:
                f.store(result, at)


def pack(w: Array, lanes: int) -> Array:
    """`w` [taps, C] as `[blocks, taps, lanes]`; the last block overlaps the one before it."""
    taps, channels = w.shape
    padded = np.zeros((taps, max(channels, lanes)), np.float32)
    padded[:, :channels] = w
    starts = np.minimum(np.arange(-(-channels // lanes)) * lanes, max(channels - lanes, 0))
    return np.ascontiguousarray(padded[:, starts[:, None] + np.arange(lanes)].transpose(1, 0, 2))


class DepthwiseF32(Kernel):
    """Depthwise convolution of any rank, padding handled inside."""

    name = "fdepthwise"
    ops = (LoweredConvolution,)
    rank = 5

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        w = node.inputs[1].shape.to_static()
        if w[-2] != 1 or w[-1] != op.groups:
            return "not one channel a group"
        if math.prod(w[:-2]) > MAX_TAPS:
            return f"more than {MAX_TAPS} taps"
        return refuse_operands(node, 2) or refuse(node, isa)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        x, out = node.inputs[0].shape.to_static(), node.output.shape.to_static()
        size, channels = node.inputs[1].shape.to_static()[:-2], x[-1]
        taps = math.prod(size)
        shape = Shape(
            rows=taps // size[-1],
            width=size[-1],
            stride=op.strides[-1],
            dilation=op.dilations[-1],
            tile=choose_tile(out[-2], taps),
            narrow=channels < isa.lanes(),
        )
        operands = node.inputs[2:]
        code, epilogue = kernel(isa, shape, op.epilogue, tuple(operand_of(v, out) for v in operands))
        table = row_table((*x[:-1], 4 * x[-1]), out, size, op.strides, op.dilations, op.pads_begin)
        weights, steps = _weights(node, isa, ctx)
        values = {
            **{"x": ctx.ref(node.inputs[0]), "out": ctx.ref(node.output), "table": ctx.constant(table)},
            **{"zeros": ctx.constant(np.zeros(16, np.float32)), "w": weights},
            **{"channels": channels, "blocks": -(-channels // isa.lanes()), "rows": len(table), "columns": out[-2]},
            **{"chunks": row_chunks(len(table), op.strides[0], ctx.threads)},
            **{"in_columns": x[-2], "pad": op.pads_begin[-1]},
            **epilogue.values([bind_operand(v, out, ctx) for v in operands]),
        }
        return [*steps, Step.of(code, values)]


def _weights(node: Node, isa: Isa, ctx: BuildContext) -> tuple[Ref, list[Step]]:
    """Where the weights lie in the order of `pack`, and what brings them there if the model computes them."""
    *size, _, channels = node.inputs[1].shape.to_static()
    taps, lanes = math.prod(size), isa.lanes()
    known = constant_data(node.inputs[1])
    if known is not None:
        return ctx.constant(pack(np.ascontiguousarray(known).reshape(taps, channels), lanes)), []
    blocks, whole = -(-channels // lanes), channels // lanes
    x, packed = ctx.ref(node.inputs[1]), ctx.scratch(4 * blocks * taps * lanes)

    def moved(count: int, width: int, start: int, block: int) -> list[Step]:
        to = Ref(packed.buffer, packed.offset + 4 * block * taps * lanes)
        source = View(Ref(x.buffer, x.offset + 4 * start), (lanes, channels, 1))
        return copy(isa, 4, (count, taps, width), source, View(to, (taps * lanes, lanes, 1)), ctx.threads)

    rest = moved(1, min(lanes, channels), max(channels - lanes, 0), whole) if blocks > whole else []
    return packed, [*(moved(whole, lanes, 0, 0) if whole else []), *rest]


KERNELS: list[Kernel] = [DepthwiseF32()]
