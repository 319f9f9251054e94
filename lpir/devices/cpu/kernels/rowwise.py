"""Softmax over the last axis and normalization (MVN) over trailing axes: one row at a time, float32, any epilogue.

Both read a row three times; a row stays in the first-level cache. Softmax keeps the exponentials in a buffer of the
thread. Sums run over the lanes of a vector first. The last vector of a row is masked.
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
from lpir.devices.cpu.kernels.reduce import across
from lpir.devices.cpu.kernels.tail import lane_mask, store_up_to
from lpir.ir.graph import Node
from lpir.ir.graph import Value as Tensor
from lpir.ir.op import Op
from lpir.ir.types import f32
from lpir.ops.lowered import LoweredNormalize, LoweredSoftmax, expanded
from lpir.scalar.expr import Expr, exp, input_

ACC = input_(0, f32)
# what a quantity is for one vector: (vector, index of its first element, mask of its lanes or None)
Each = Callable[[Value, Value, Value | None], list[Value]]
OneVector = Callable[[Value], Value]


class _Rows:
    """Prints a kernel over rows of `length` floats."""

    def __init__(self, name: str, isa: Isa, epilogue: Expr, operands: Sequence[Operand], extra: dict[str, str]) -> None:
        self.isa, self.lanes = isa, isa.lanes()
        self.epilogue = Epilogue(expanded(epilogue), operands)
        self.type = vector_of("float", self.lanes)
        params = {"x": "ptr", "out": "ptr", "rows": "i64", "length": "i64", **extra, **self.epilogue.params()}
        self.f = Function(f"{name}_{isa.name}", params, optimize=False)
        self.length = self.f.p["length"]
        self.even = self.f.sub(self.length, self.f.urem(self.length, self.lanes))

    def fold(self, x: Value, start: float, step: Sequence[str], each: Each) -> list[Value]:
        """Scalars: `each(vector, index, mask)` gives a value for each entry of `step` ("max", "sum") to combine."""
        f = self.f
        zeros = [f.const(self.type, start if kind == "max" else 0.0) for kind in step]

        def round_(index: Value, values: list[Value], mask: Value | None) -> list[Value]:
            v = f.load(self.type, f.gep(x, index, "float"), 4)
            out = []
            for kind, old, new in zip(step, values, each(v, index, mask), strict=True):
                kept = new if mask is None else f.select(mask, new, f.const(self.type, start if kind == "max" else 0.0))
                out.append(f.select(f.fcmp("ogt", kept, old), kept, old) if kind == "max" else f.fadd(old, kept))
            return out

        # two sums a quantity hide the latency of the additions
        both = [*zeros, *zeros]
        pairs = f.sub(self.even, f.urem(self.even, 2 * self.lanes))
        with f.loop(0, pairs, 2 * self.lanes, carried=both) as i:
            n = len(step)
            second = f.add(i.index, self.lanes)
            i.next = [*round_(i.index, i.values[:n], None), *round_(second, i.values[n:], None)]
        first, other = i.results[: len(step)], i.results[len(step) :]
        joined = [
            f.select(f.fcmp("ogt", b, a), b, a) if kind == "max" else f.fadd(a, b)
            for kind, a, b in zip(step, first, other, strict=True)
        ]
        with f.loop(pairs, self.even, self.lanes, carried=joined, name="odd") as i:
            i.next = round_(i.index, i.values, None)
        with f.loop(self.even, self.length, self.lanes, carried=i.results, name="rest") as i:
            mask = lane_mask(f, self.lanes, f.sub(self.length, i.index))
            i.next = round_(i.index, i.values, mask)
        return [across(f, kind, v) for kind, v in zip(step, i.results, strict=True)]

    def finish(self, row: Value, value: OneVector) -> None:
        """Applies the epilogue to `value(index)` along a row and stores it."""
        f, e = self.f, self.epilogue
        size = element_bytes(e.type)
        pointers = e.row(f, row)
        out = f.gep(f.p["out"], f.mul(f.mul(row, self.length), size))
        with f.loop(0, self.length, self.lanes, name="out") as i:
            leaves = {**e.vectors(f, i.index, self.lanes), **e.tensors(f, pointers, i.index, self.lanes)}
            result = e.finish(f, self.isa, value(i.index), leaves)
            store_up_to(f, self.isa, result, f.gep(out, f.mul(i.index, size)), f.sub(self.length, i.index))


@functools.lru_cache(maxsize=128)
def softmax_kernel(isa: Isa, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Code, Epilogue]:
    """Parameters: `x`, `out`, `rows`, `length`, `buffer` with `buffer_step` bytes a thread, the epilogue's."""
    rows = _Rows("softmax", isa, epilogue, operands, {"buffer": "ptr", "buffer_step": "i64"})
    f, e = rows.f, rows.epilogue
    e.start(f, rows.lanes)
    buffer = f.gep(f.p["buffer"], f.mul(f.tid, f.p["buffer_step"]))
    power = expanded(exp(ACC))
    with f.loop(*f.my_range(f.p["rows"]), name="row") as row:
        x = f.gep(f.p["x"], f.mul(row.index, rows.length), "float")
        (top,) = rows.fold(x, -math.inf, ("max",), lambda v, index, mask: [v])
        shift = f.splat(top, rows.lanes)

        def one(v: Value, index: Value, mask: Value | None) -> list[Value]:
            y = emit_expr(f, power, [f.fsub(v, shift)], rows.lanes, x86_bits(isa))
            f.store(y, f.gep(buffer, index, "float"), 4)
            return [y]

        (total,) = rows.fold(x, 0.0, ("sum",), one)
        scale = f.splat(f.fdiv(f.const("float", 1.0), total), rows.lanes)
        rows.finish(row.index, lambda i: f.fmul(f.load(rows.type, f.gep(buffer, i, "float"), 4), scale))
    return f.kernel(), e


@functools.lru_cache(maxsize=128)
def normalize_kernel(
    isa: Isa, variance: bool, inside: bool, epilogue: Expr, operands: tuple[Operand, ...]
) -> tuple[Code, Epilogue]:
    """Parameters: `x`, `out`, `rows`, `length`, `share` = 1 / length, `eps`, the epilogue's."""
    rows = _Rows("normalize", isa, epilogue, operands, {"share": "float", "eps": "float"})
    f, e = rows.f, rows.epilogue
    e.start(f, rows.lanes)
    with f.loop(*f.my_range(f.p["rows"]), name="row") as row:
        x = f.gep(f.p["x"], f.mul(row.index, rows.length), "float")
        (total,) = rows.fold(x, 0.0, ("sum",), lambda v, index, mask: [v])
        mean = f.splat(f.fmul(total, f.p["share"]), rows.lanes)
        scale = None
        if variance:

            def square(v: Value, index: Value, mask: Value | None) -> list[Value]:
                d = f.fsub(v, mean)
                return [f.fmul(d, d)]

            (squares,) = rows.fold(x, 0.0, ("sum",), square)
            var = f.fmul(squares, f.p["share"])
            root = f.intrinsic("llvm.sqrt", "float", f.fadd(var, f.p["eps"]) if inside else var)
            deviation = root if inside else f.fadd(root, f.p["eps"])
            scale = f.splat(f.fdiv(f.const("float", 1.0), deviation), rows.lanes)

        def centred(i: Value) -> Value:
            d = f.fsub(f.load(rows.type, f.gep(x, i, "float"), 4), mean)
            return d if scale is None else f.fmul(d, scale)

        rows.finish(row.index, centred)
    return f.kernel(), e


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
        op, x, out = node.op, node.inputs[0], node.output
        assert isinstance(op, LoweredSoftmax | LoweredNormalize)
        shape = out.shape.to_static()
        axes = op.axes if isinstance(op, LoweredNormalize) else 1
        found = [flat_operand(v, shape, axes) for v in node.inputs[1:]]
        operands = [o for o in found if o is not None]
        length = math.prod(shape[len(shape) - axes :])
        if len(operands) < len(found):
            plain = ctx.scratch(4 * math.prod(shape))
            code, printer = self._code(op, isa, ACC, ())
            sources = [Source(plain, shape, f32)]
            sources += [Source(ctx.ref(v), v.shape.to_static(), v.element_type) for v in node.inputs[1:]]
            rest = [apply(isa, op.epilogue, sources, ctx.ref(out), shape, ctx.threads)]
        else:
            plain, rest = ctx.ref(out), []
            code, printer = self._code(op, isa, op.epilogue, tuple(operands))
        bound = []
        for operand, v in zip(printer.operands, node.inputs[1:], strict=False):
            step = length * element_bytes(operand.type)
            bound.append(Bound(ctx.ref(v), Rows(step) if operand.kind == "tensor" else Rows()))
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": ctx.ref(x), "out": plain, "rows": math.prod(shape) // length, "length": length},
            **self._values(op, length, isa, ctx),
            **printer.values(bound),
        }
        return [Step.of(code, values), *rest]

    @abstractmethod
    def _code(self, op: Op, isa: Isa, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Code, Epilogue]:
        """The kernel and the printer of its epilogue."""

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

    def _code(self, op: Op, isa: Isa, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Code, Epilogue]:
        return softmax_kernel(isa, epilogue, operands)

    def _values(self, op: Op, length: int, isa: Isa, ctx: BuildContext) -> dict[str, int | float | F32 | Ref]:
        row = -(-4 * length // 64) * 64
        return {"buffer": ctx.scratch(row * ctx.threads), "buffer_step": row}


class Normalize(_RowKernel):
    """`(x - mean) / sqrt(var + eps)` over trailing axes."""

    name: ClassVar[str] = "normalize"
    ops: ClassVar[tuple[type[Op], ...]] = (LoweredNormalize,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        assert isinstance(node.op, LoweredNormalize)
        type = node.inputs[0].element_type
        return f"the input is {type}, not f32" if type != f32 else unsupported(node.op.epilogue, isa)

    def _code(self, op: Op, isa: Isa, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Code, Epilogue]:
        assert isinstance(op, LoweredNormalize)
        return normalize_kernel(isa, op.normalize_variance, op.eps_mode == "INSIDE_SQRT", epilogue, operands)

    def _values(self, op: Op, length: int, isa: Isa, ctx: BuildContext) -> dict[str, int | float | F32 | Ref]:
        assert isinstance(op, LoweredNormalize)
        return {"share": F32(1.0 / length), "eps": F32(op.eps)}


KERNELS: list[Kernel] = [Softmax(), Normalize()]
