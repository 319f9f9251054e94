"""Maximum and average pooling of any rank, channels last, u8 or float32, any epilogue.

A unit of work is one output row of some blocks of channels. It reads `R = prod(kernel[:-1])` input rows, named by an
offset table (-1: padding); the taps of a window that lie inside are a range of columns. u8 maxima stay bytes until the
end.

Reads are whole vectors; the last block of channels overlaps the one before it, so the output must not share memory
with an operand.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import ClassVar

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.elementwise import unsupported
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand, element_bytes, store_lanes
from lpir.devices.cpu.kernels.idepthwise import row_table
from lpir.devices.cpu.kernels.rows import bind_operand, operand_of, refuse_operands
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import f32, u8
from lpir.ops.lowered import Pool, expanded
from lpir.record import record
from lpir.scalar.expr import Expr, input_, substitute

# the leaf of the number of elements, out of the way of operands and constants
COUNT = 1000


@record
class Form:
    """What is compiled in: `lanes` channels at once; `narrow`: fewer channels than that; `clipped`: whether the mean
    divides by the elements inside."""

    kind: str
    is_bytes: bool
    lanes: int
    narrow: bool
    clipped: bool


@functools.lru_cache(maxsize=128)
def kernel(isa: Isa, form: Form, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Code, Epilogue]:
    """The kernel of a shape class and the printer of its epilogue."""
    big = expanded(epilogue)
    if form.kind == "avg":
        kinds = big.inputs()
        moved = {1: input_(COUNT, f32), **{i: input_(i - 1, kinds[i]) for i in kinds if i > 1}}
        big = substitute(big, moved)
    printer = _Printer(isa, form, Epilogue(big, operands))
    return printer.kernel(), printer.epilogue


_NUMBERS = (
    "channels",
    "blocks",
    "chunks",
    "rows",
    "columns",
    "in_columns",
    "pad",
    "stride",
    "dilation",
    "tap_rows",
    "taps",
    "window",
)


class _Printer:
    """Prints one kernel."""

    def __init__(self, isa: Isa, form: Form, epilogue: Epilogue) -> None:
        self.isa, self.form, self.epilogue = isa, form, epilogue
        self.element = "i8" if form.is_bytes else "float"
        self.size = 1 if form.is_bytes else 4
        self.raw = vector_of(self.element, form.lanes)
        self.wide = vector_of("i32" if form.is_bytes else "float", form.lanes)
        params = {
            **dict.fromkeys(("x", "table", "out"), "ptr"),
            **dict.fromkeys(_NUMBERS, "i64"),
            "zero_point": "i32",
            **epilogue.params(),
        }
        self.f = Function(f"pool_{form.kind}_{isa.name}", params, optimize=False)

    def kernel(self) -> Code:
        f, p, lanes = self.f, self.f.p, self.form.lanes
        self.epilogue.start(f, lanes)
        with f.loop(*f.my_range(f.mul(p["rows"], p["chunks"])), name="unit") as unit:
            row, chunk = f.udiv(unit.index, p["chunks"]), f.urem(unit.index, p["chunks"])
            begin, end = (f.udiv(f.mul(p["blocks"], c), p["chunks"]) for c in (chunk, f.add(chunk, 1)))
            entries = f.gep(p["table"], f.mul(row, p["tap_rows"]), "i32")
            inside = self._rows_inside(entries)
            with f.loop(0, p["columns"], name="column") as c:
                left = f.sub(f.mul(c.index, p["stride"]), p["pad"])
                first, last = self._columns_inside(left)
                count = f.mul(inside, f.smax(f.sub(last, first), 0))
                m = f.add(f.mul(row, p["columns"]), c.index)
                with f.loop(begin, end, name="block") as block:
                    n = f.mul(block.index, lanes)
                    n = n if self.form.narrow else f.smin(n, f.sub(p["channels"], lanes))
                    acc = self._window(entries, n, left, first, last)
                    self._finish(acc, count, m, n)
        return f.kernel()

    def _offset(self, entries: Value, r: Value) -> Value:
        f = self.f
        return f.convert("sext", f.load("i32", f.gep(entries, r, "i32"), 4), "i64")

    def _rows_inside(self, entries: Value) -> Value:
        f = self.f
        with f.loop(0, f.p["tap_rows"], carried=[f.const("i64", 0)], name="count") as r:
            ok = f.icmp("sge", self._offset(entries, r.index), 0)
            r.next = [f.add(r.values[0], f.convert("zext", ok, "i64"))]
        return r.results[0]

    def _columns_inside(self, left: Value) -> tuple[Value, Value]:
        """Taps `[first, last)` of a window that starts at column `left` and lie inside."""
        f, p = self.f, self.f.p
        up = f.sub(p["dilation"], 1)
        first = f.udiv(f.add(f.smax(f.sub(0, left), 0), up), p["dilation"])
        room = f.smax(f.sub(p["in_columns"], left), 0)
        return first, f.smin(f.udiv(f.add(room, up), p["dilation"]), p["taps"])

    def _window(self, entries: Value, n: Value, left: Value, first: Value, last: Value) -> Value:
        """The maximum or the sum of one window, in `wide` (a maximum of bytes: in `raw`)."""
        f, p = self.f, self.f.p
        x = f.gep(p["x"], f.mul(n, self.size))
        pixel = f.mul(p["channels"], self.size)
        with f.loop(0, p["tap_rows"], carried=[self._start(x, entries, left, pixel)], name="tap_row") as r:
            offset = self._offset(entries, r.index)
            # a row of padding has no columns
            end = f.select(f.icmp("sge", offset, 0), last, first)
            step = f.mul(p["dilation"], pixel)
            at = f.gep(f.gep(f.gep(x, offset), f.mul(left, pixel)), f.mul(first, step))
            with f.loop(first, end, carried=[at, *r.values], name="tap") as t:
                value = f.load(self.raw, t.values[0])
                t.next = [f.gep(t.values[0], step), self._combine(t.values[1], value)]
            r.next = t.results[1:]
        return r.results[0]

    def _start(self, x: Value, entries: Value, left: Value, pixel: Value) -> Value:
        """The first tap of a maximum (it keeps a NaN there), or what changes nothing."""
        f = self.f
        if self.form.kind == "avg":
            return f.zeros(self.wide)
        if self.form.is_bytes:
            return f.zeros(self.raw)
        offset = self._offset(entries, f.const("i64", 0))
        inside = f.binary("and", f.icmp("sge", offset, 0), f.icmp("ult", left, f.p["in_columns"]))
        at = f.select(inside, f.gep(f.gep(x, offset), f.mul(left, pixel)), x)
        return f.select(inside, f.load(self.raw, at), f.const(self.raw, -math.inf))

    def _combine(self, acc: Value, value: Value) -> Value:
        f = self.f
        if self.form.kind == "avg":
            return f.add(acc, f.convert("zext", value, self.wide)) if self.form.is_bytes else f.fadd(acc, value)
        if self.form.is_bytes:
            return f.intrinsic("llvm.umax", self.raw, acc, value)
        return f.select(f.fcmp("ogt", value, acc), value, acc)

    def _finish(self, acc: Value, count: Value, m: Value, n: Value) -> None:
        f, e, lanes = self.f, self.epilogue, self.form.lanes
        leaves = e.vectors(f, n, lanes)
        if self.form.is_bytes:
            zero = f.p["zero_point"]
            if self.form.kind == "avg":
                zero = f.mul(zero, f.convert("trunc", count, "i32"))
            acc = f.sub(f.convert("zext", acc, self.wide), f.splat(zero, lanes))
        if self.form.kind == "avg":
            divisor = count if self.form.clipped else f.p["window"]
            leaves[COUNT] = f.splat(f.convert("sitofp", divisor, "float"), lanes)
        tensors = e.tensors(f, e.row(f, m), n, lanes)
        result = e.finish(f, self.isa, acc, {**leaves, **tensors})
        at = f.gep(f.p["out"], f.mul(f.add(f.mul(m, f.p["channels"]), n), element_bytes(e.type)))
        if self.form.narrow:
            store_lanes(f, result, at, f.p["channels"], self.isa.masks)
        else:
            f.store(result, at)


def choose_lanes(isa: Isa, channels: int, is_bytes: bool, operands: tuple[Operand, ...]) -> int:
    """The most channels at once that the tensor has; wide operands are read a register at a time."""
    least = isa.lanes()
    widest = 4 * least if is_bytes else 2 * least
    while widest > least and widest > channels:
        widest //= 2
    return widest


class PoolKernel(Kernel):
    """Pooling of any rank, padding handled inside."""

    name: ClassVar[str] = "pool"
    ops: ClassVar[tuple[type[Op], ...]] = (Pool,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        op, x = node.op, node.inputs[0]
        assert isinstance(op, Pool)
        if x.element_type not in (u8, f32):
            return f"elements of type {x.element_type}"
        if math.prod(x.shape.to_static()) >= 1 << 29:
            return "the input is larger than 2 GiB"
        counts = replace(op, exclude_pad=True).counts(x.shape.to_static()[1:-1])
        if not counts.all() and (op.kind == "max" or op.exclude_pad):
            return "a window lies in the padding"
        return unsupported(op.epilogue, isa) or refuse_operands(node, 1)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, Pool)
        x, out = node.inputs[0].shape.to_static(), node.output.shape.to_static()
        is_bytes, channels = node.inputs[0].element_type == u8, x[-1]
        kinds = tuple(operand_of(v, out) for v in node.inputs[1:])
        lanes = choose_lanes(isa, channels, is_bytes, kinds)
        form = Form(op.kind, is_bytes, lanes, channels < lanes, op.exclude_pad)
        code, printer = kernel(isa, form, op.epilogue, kinds)
        size = 1 if is_bytes else 4
        table = row_table((*x[:-1], x[-1] * size), out, op.kernel, op.strides, op.dilations, op.pads_begin)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": ctx.ref(node.inputs[0]), "out": ctx.ref(node.output), "table": ctx.constant(table)},
            **{"channels": channels, "blocks": -(-channels // lanes), "rows": len(table), "columns": out[-2]},
            "chunks": 1 if len(table) >= 4 * ctx.threads else -(-channels // lanes),
            **{"in_columns": x[-2], "pad": op.pads_begin[-1], "stride": op.strides[-1], "dilation": op.dilations[-1]},
            **{"tap_rows": math.prod(op.kernel[:-1]), "taps": op.kernel[-1], "window": math.prod(op.kernel)},
            "zero_point": op.x_zero_point,
            **printer.values([bind_operand(v, out, ctx) for v in node.inputs[1:]]),
        }
        return [Step.of(code, values)]


KERNELS: list[Kernel] = [PoolKernel()]
