"""Softmax over the last axis and normalization (MVN) over trailing axes: a few rows at a time, float32, any epilogue.

Both read rows three times; they stay in the first-level cache. Softmax keeps the exponentials in a buffer of the
thread. Sums run over the lanes of a vector first; then those of four rows are reduced, divided and rooted together,
because each of these steps waits for the one before. The last vector of a row is masked.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.vector import emit_expr
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.elementwise import Source, apply, unsupported, x86_bits
from lpir.devices.cpu.kernels.epilogue import Bound, Epilogue, Operand, Rows, element_bytes
from lpir.devices.cpu.kernels.reduce import ROWS as TOGETHER
from lpir.devices.cpu.kernels.reduce import across, across_rows
from lpir.devices.cpu.kernels.tail import lane_mask, store_up_to
from lpir.ir.graph import Node
from lpir.ir.graph import Value as Tensor
from lpir.ir.op import Op
from lpir.ir.types import f32
from lpir.ops.lowered import LoweredNormalize, LoweredSoftmax, expanded
from lpir.scalar.expr import Expr, exp, input_

ACC = input_(0, f32)
# what a quantity is for one vector: (which of the rows, vector, index of its first element, mask of its lanes or None)
Each = Callable[[int, Value, Value, Value | None], Value]
# of one of the rows: the value at an index
OneVector = Callable[[int, Value], Value]


class _Rows:
    """Prints a kernel over rows of `length` floats: `x` to `out`, and to `out_second` what `second` makes of that."""

    def __init__(
        self,
        name: str,
        isa: Isa,
        epilogue: Expr,
        second: Expr | None,
        operands: Sequence[Operand],
        extra: dict[str, str],
    ) -> None:
        self.isa, self.lanes = isa, isa.lanes()
        self.epilogue = Epilogue(expanded(epilogue), operands)
        self.second = Epilogue(expanded(second), operands, prefix="s_") if second else None
        self.type = vector_of("float", self.lanes)
        params = {"x": "ptr", "out": "ptr", "rows": "i64", "length": "i64", **extra, **self.epilogue.params()}
        if self.second:
            params |= {"out_second": "ptr", **self.second.params()}
        self.f = Function(f"{name}_{isa.name}", params, optimize=False)
        self.length = self.f.p["length"]
        self.even = self.f.sub(self.length, self.f.urem(self.length, self.lanes))
        for printer in self.printers:
            printer.start(self.f, self.lanes)

    @property
    def printers(self) -> list[Epilogue]:
        return [self.epilogue, self.second] if self.second else [self.epilogue]

    def run(self, some: Callable[[list[Value]], None]) -> Code:
        """The kernel: `some` prints what becomes of a few rows, several together and then one by one."""
        f = self.f
        first, last = f.my_range(f.p["rows"])
        whole = f.sub(last, f.urem(f.sub(last, first), TOGETHER))
        with f.loop(first, whole, TOGETHER, name="rows") as r:
            some([f.add(r.index, i) for i in range(TOGETHER)])
        with f.loop(whole, last, name="row") as r:
            some([r.index])
        return f.kernel()

    def inputs(self, rows: list[Value]) -> list[Value]:
        return [self.f.gep(self.f.p["x"], self.f.mul(row, self.length), "float") for row in rows]

    def fold(self, xs: list[Value], kind: str, each: Each) -> Value:
        """`each` vector of rows combined ("max", "sum"): a scalar of one row, a vector of several."""
        f, n = self.f, len(xs)
        start = f.const(self.type, -math.inf if kind == "max" else 0.0)
        combine = _larger if kind == "max" else Function.fadd

        def round_(index: Value, values: Sequence[Value], mask: Value | None) -> list[Value]:
            out = []
            for i, (x, old) in enumerate(zip(xs, values, strict=True)):
                new = each(i, f.load(self.type, f.gep(x, index, "float"), 4), index, mask)
                out.append(combine(f, old, new if mask is None else f.select(mask, new, start)))
            return out

        # two of each row hide the latency of the additions
        pairs = f.sub(self.even, f.urem(self.even, 2 * self.lanes))
        with f.loop(0, pairs, 2 * self.lanes, carried=[start] * (2 * n)) as i:
            second = f.add(i.index, self.lanes)
            i.next = [*round_(i.index, i.values[:n], None), *round_(second, i.values[n:], None)]
        joined = [combine(f, a, b) for a, b in zip(i.results[:n], i.results[n:], strict=True)]
        with f.loop(pairs, self.even, self.lanes, carried=joined, name="odd") as i:
            i.next = round_(i.index, i.values, None)
        with f.loop(self.even, self.length, self.lanes, carried=i.results, name="rest") as i:
            mask = lane_mask(f, self.lanes, f.sub(self.length, i.index))
            i.next = round_(i.index, i.values, mask)
        return across(f, kind, i.results[0]) if n == 1 else across_rows(f, i.results, combine)

    def spread(self, x: Value) -> list[Value]:
        """What `fold` gave, a vector for each row."""
        f = self.f
        return [f.splat(f.extract(x, i) if x.lanes > 1 else x, self.lanes) for i in range(x.lanes)]

    def finish(self, rows: list[Value], value: OneVector) -> None:
        """Applies the epilogues to `value` along rows and stores what they give."""
        f = self.f
        outs = [f.p["out"], f.p["out_second"]] if self.second else [f.p["out"]]
        pointers = [[e.row(f, row) for row in rows] for e in self.printers]
        lines = [
            [f.gep(out, f.mul(f.mul(row, self.length), element_bytes(e.type))) for row in rows]
            for e, out in zip(self.printers, outs, strict=True)
        ]
        with f.loop(0, self.length, self.lanes, name="out") as i:
            left = f.sub(self.length, i.index)
            shared = [e.vectors(f, i.index, self.lanes) for e in self.printers]
            for number in range(len(rows)):
                x = value(number, i.index)
                for e, vectors, row, line in zip(self.printers, shared, pointers, lines, strict=True):
                    x = e.finish(f, self.isa, x, {**vectors, **e.tensors(f, row[number], i.index, self.lanes)})
                    store_up_to(f, self.isa, x, f.gep(line[number], f.mul(i.index, element_bytes(e.type))), left)


def _larger(f: Function, a: Value, b: Value) -> Value:
    return f.select(f.fcmp("ogt", b, a), b, a)


@functools.lru_cache(maxsize=128)
def softmax_kernel(isa: Isa, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Code, list[Epilogue]]:
    """Parameters: `x`, `out`, `rows`, `length`, `buffer` with `buffer_step` bytes a thread, the epilogue's."""
    rows = _Rows("softmax", isa, epilogue, None, operands, {"buffer": "ptr", "buffer_step": "i64"})
    f = rows.f
    own = f.gep(f.p["buffer"], f.mul(f.tid, f.p["buffer_step"]))
    power = expanded(exp(ACC))

    def some(numbers: list[Value]) -> None:
        xs = rows.inputs(numbers)
        buffers = [f.gep(own, f.mul(f.udiv(f.p["buffer_step"], TOGETHER), i)) for i in range(len(xs))]
        shifts = rows.spread(rows.fold(xs, "max", lambda i, v, index, mask: v))

        def one(i: int, v: Value, index: Value, mask: Value | None) -> Value:
            y = emit_expr(f, power, [f.fsub(v, shifts[i])], rows.lanes, x86_bits(isa))
            f.store(y, f.gep(buffers[i], index, "float"), 4)
            return y

        total = rows.fold(xs, "sum", one)
        scales = rows.spread(f.fdiv(f.const(total.type, 1.0), total))
        rows.finish(
            numbers, lambda i, index: f.fmul(f.load(rows.type, f.gep(buffers[i], index, "float"), 4), scales[i])
        )

    return rows.run(some), rows.printers


@functools.lru_cache(maxsize=128)
def normalize_kernel(
    isa: Isa, variance: bool, inside: bool, epilogue: Expr, second: Expr | None, operands: tuple[Operand, ...]
) -> tuple[Code, list[Epilogue]]:
    """Parameters: `x`, `out`, `rows`, `length`, `share` = 1 / length, `eps`, the epilogues', and `out_second`."""
    rows = _Rows("normalize", isa, epilogue, second, operands, {"share": "float", "eps": "float"})
    f = rows.f

    def some(numbers: list[Value]) -> None:
        xs = rows.inputs(numbers)
        share, eps = (f.splat(f.p[name], len(xs)) for name in ("share", "eps"))
        means = rows.spread(f.fmul(rows.fold(xs, "sum", lambda i, v, index, mask: v), share))
        scales: list[Value] = []
        if variance:

            def square(i: int, v: Value, index: Value, mask: Value | None) -> Value:
                d = f.fsub(v, means[i])
                return f.fmul(d, d)

            var = f.fmul(rows.fold(xs, "sum", square), share)
            root = f.intrinsic("llvm.sqrt", var.type, f.fadd(var, eps) if inside else var)
            deviation = root if inside else f.fadd(root, eps)
            scales = rows.spread(f.fdiv(f.const(var.type, 1.0), deviation))

        def centred(i: int, index: Value) -> Value:
            d = f.fsub(f.load(rows.type, f.gep(xs[i], index, "float"), 4), means[i])
            return f.fmul(d, scales[i]) if variance else d

        rows.finish(numbers, centred)

    return rows.run(some), rows.printers


def flat_operand(value: Tensor, out: Sequence[int], axes: int) -> Operand | None:
    """How an epilogue reads `value` beside rows of the last `axes` axes of `out`; None if it cannot be read so."""
    shape = value.shape.to_static()
    shape = (1,) * (len(out) - len(shape)) + shape
    split = len(out) - axes
    if math.prod(shape) == 1:
        return Operand("scalar", value.element_type)
    if tuple(shape[split:]) != tuple(out[split:]):
        return None
    if math.prod(shape[:split]) == 1:
        return Operand("vector", value.element_type)
    return Operand("tensor", value.element_type) if tuple(shape) == tuple(out) else None


class _RowKernel(Kernel):
    """What softmax and normalization share. An operand that cannot be read along rows gets an elementwise step."""

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op, x, outs = node.op, node.inputs[0], node.outputs
        assert isinstance(op, LoweredSoftmax | LoweredNormalize)
        shape = outs[0].shape.to_static()
        axes = op.axes if isinstance(op, LoweredNormalize) else 1
        second = op.second if isinstance(op, LoweredNormalize) else None
        found = [flat_operand(v, shape, axes) for v in node.inputs[1:]]
        operands = [o for o in found if o is not None]
        length = math.prod(shape[len(shape) - axes :])
        rest: list[Step] = []
        if len(operands) < len(found):
            plain = ctx.scratch(4 * math.prod(shape))
            code, printers = self._code(op, isa, ACC, None, ())
            sources = [Source(ctx.ref(v), v.shape.to_static(), v.element_type) for v in node.inputs[1:]]
            before = Source(plain, shape, f32)
            for expr, out in zip([op.epilogue, *([second] if second else [])], outs, strict=True):
                rest.append(apply(isa, expr, [before, *sources], ctx.ref(out), shape, ctx.threads))
                before = Source(ctx.ref(out), shape, out.element_type)
        else:
            plain = ctx.ref(outs[0])
            code, printers = self._code(op, isa, op.epilogue, second, tuple(operands))
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": ctx.ref(x), "out": plain, "rows": math.prod(shape) // length, "length": length},
            **self._values(op, length, isa, ctx),
        }
        if len(printers) > 1:
            values["out_second"] = ctx.ref(outs[1])
        for printer in printers:
            bound = []
            for operand, v in zip(printer.operands, node.inputs[1:], strict=False):
                step = length * element_bytes(operand.type)
                bound.append(Bound(ctx.ref(v), Rows(step) if operand.kind == "tensor" else Rows()))
            values |= printer.values(bound)
        return [Step.of(code, values), *rest]

    @abstractmethod
    def _code(
        self, op: Op, isa: Isa, epilogue: Expr, second: Expr | None, operands: tuple[Operand, ...]
    ) -> tuple[Code, list[Epilogue]]:
        """The kernel and the printers of its epilogues."""

    @abstractmethod
    def _values(self, op: Op, length: int, isa: Isa, ctx: BuildContext) -> dict[str, int | float | F32 | Ref]:
        """Values of the kernel's own parameters."""


class Softmax(_RowKernel):
    """`exp(x - max) / sum` over the last axis."""

    name: ClassVar[str] = "softmax"
    ops: ClassVar[tuple[type[Op], ...]] = (LoweredSoftmax,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        assert isinstance(node.op, LoweredSoftmax)
        type = node.inputs[0].element_type
        return f"the input is {type}, not f32" if type != f32 else unsupported(node.op.epilogue, isa)

    def _code(
        self, op: Op, isa: Isa, epilogue: Expr, second: Expr | None, operands: tuple[Operand, ...]
    ) -> tuple[Code, list[Epilogue]]:
        return softmax_kernel(isa, epilogue, operands)

    def _values(self, op: Op, length: int, isa: Isa, ctx: BuildContext) -> dict[str, int | float | F32 | Ref]:
        row = -(-4 * length // 64) * 64 * TOGETHER
        return {"buffer": ctx.scratch(row * ctx.threads), "buffer_step": row}


class Normalize(_RowKernel):
    """`(x - mean) / sqrt(var + eps)` over trailing axes."""

    name: ClassVar[str] = "normalize"
    ops: ClassVar[tuple[type[Op], ...]] = (LoweredNormalize,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        assert isinstance(node.op, LoweredNormalize)
        type = node.inputs[0].element_type
        if type != f32:
            return f"the input is {type}, not f32"
        return unsupported(node.op.epilogue, isa) or (unsupported(node.op.second, isa) if node.op.second else None)

    def _code(
        self, op: Op, isa: Isa, epilogue: Expr, second: Expr | None, operands: tuple[Operand, ...]
    ) -> tuple[Code, list[Epilogue]]:
        assert isinstance(op, LoweredNormalize)
        return normalize_kernel(isa, op.normalize_variance, op.eps_mode == "INSIDE_SQRT", epilogue, second, operands)

    def _values(self, op: Op, length: int, isa: Isa, ctx: BuildContext) -> dict[str, int | float | F32 | Ref]:
        assert isinstance(op, LoweredNormalize)
        return {"share": F32(1.0 / length), "eps": F32(op.eps)}


KERNELS: list[Kernel] = [Softmax(), Normalize()]
