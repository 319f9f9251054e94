"""Sums, maxima, minima and products over any axes.

The axes are merged into `[outer, reduced, inner]`: with `inner > 1` vectors run along what is kept (global pooling of
channels-last data), else along what is reduced. Other arrangements are copied first. The result goes to memory as
int32, int64 or float32 and the epilogue runs over it as an elementwise step: it is small.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.vector import cast, llvm_type
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.copy import View, copy
from lpir.devices.cpu.kernels.elementwise import Source, apply, unsupported
from lpir.devices.cpu.kernels.geometry import collapse, dense_strides
from lpir.devices.cpu.kernels.tail import lane_mask, store_up_to
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import ElementType, f32, i8, i32, i64, u8
from lpir.ops.lowered import Reduce, accumulator_of
from lpir.scalar.expr import input_

# rows that `across_rows` reduces together
ROWS = 4
# combines two vectors lane by lane
Combine = Callable[[Function, Value, Value], Value]
TYPES = {"f32": f32, "i64": i64, "i32": i32, "u8": u8, "i8": i8}


def identity(kind: str, type: ElementType) -> float:
    """What leaves a sum, maximum, minimum or product as it is."""
    if kind in ("sum", "prod"):
        return 0 if kind == "sum" else 1
    low, acc = kind == "max", accumulator_of(type)
    if acc == f32:
        return -math.inf if low else math.inf
    return acc.limits[0] if low else acc.limits[1]


def combine(f: Function, kind: str, a: Value, b: Value) -> Value:
    """One step of the reduction; a NaN wins a maximum and a minimum, as in NumPy."""
    float_ = a.element == "float"
    if kind in ("max", "min"):
        name = f"llvm.{kind}imum" if float_ else f"llvm.s{kind}"
        return f.intrinsic(name, a.type, a, b)
    return f.binary({"sum": "add", "prod": "mul"}[kind] if not float_ else {"sum": "fadd", "prod": "fmul"}[kind], a, b)


def across(f: Function, kind: str, x: Value) -> Value:
    """All lanes of `x` combined into a scalar, halves first."""
    while x.lanes > 2:
        half = x.lanes // 2
        low, high = f.shuffle(x, None, range(half)), f.shuffle(x, None, range(half, x.lanes))
        x = combine(f, kind, low, high)
    return combine(f, kind, f.extract(x, 0), f.extract(x, 1))


def across_rows(f: Function, rows: Sequence[Value], combine: Combine) -> Value:
    """What `combine` makes of all lanes of each of four vectors, as one vector of four."""
    lanes = rows[0].lanes
    found = list(rows)
    part = lanes
    while len(found) > 1:
        # lanes of two vectors side by side, half of each: `part` lanes come from one row
        part //= 2
        low = [i for i in range(2 * lanes) if i % (2 * part) < part]
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [combine(f, f.shuffle(a, b, low), f.shuffle(a, b, [i + part for i in low])) for a, b in pairs]
    (x,) = found
    while part > 1:
        part //= 2
        x = combine(f, x, f.shuffle(x, None, [i ^ part for i in range(lanes)]))
    return f.shuffle(x, None, range(0, lanes, lanes // ROWS)) if lanes > ROWS else x


def _widened(f: Function, at: Value, type: ElementType, lanes: int, zero_point: Value) -> Value:
    """`lanes` elements as int32 (less the zero point), int64 or float32."""
    acc = accumulator_of(type)
    x = cast(f, f.load(llvm_type(type, lanes), at), type, acc)
    return f.sub(x, f.splat(zero_point, lanes)) if acc == i32 else x


@functools.lru_cache(maxsize=128)
def kernel(isa: Isa, kind: str, type_name: str, along: str) -> Code:
    """Parameters: `x [outer, reduced, inner]`, `out [outer, inner]`; `along`: "inner", or "reduced" for inner 1."""
    f = Function(
        f"reduce_{kind}",
        {
            "x": "ptr",
            "out": "ptr",
            **dict.fromkeys(("outer", "reduced", "inner"), "i64"),
            "zero_point": "i32",
        },
        optimize=False,
    )
    type = TYPES[type_name]
    acc, size = llvm_type(accumulator_of(type)), type.bits // 8
    lanes = isa.lanes() * (4 if along == "inner" else 2)
    start = f.const(vector_of(acc, lanes), identity(kind, type))
    zero_point = f.p["zero_point"]
    if along == "inner":
        blocks = f.udiv(f.add(f.p["inner"], lanes - 1), lanes)
        with f.loop(*f.my_range(f.mul(f.p["outer"], blocks)), name="unit") as unit:
            outer, first = f.udiv(unit.index, blocks), f.mul(f.urem(unit.index, blocks), lanes)
            x = f.gep(f.p["x"], f.mul(f.add(f.mul(f.mul(outer, f.p["reduced"]), f.p["inner"]), first), size))
            left = f.sub(f.p["inner"], first)
            out = f.gep(f.p["out"], f.add(f.mul(outer, f.p["inner"]), first), acc)
            # a narrow block reads less behind the end than a wide one would
            for width in (lanes, isa.lanes()):
                enough = f.icmp("sge", left, lanes)
                chosen = enough if width == lanes else f.binary("xor", enough, f.const("i1", True))
                with f.if_(chosen):
                    _column(f, isa, kind, type, x, out, left, width, zero_point)
        return f.kernel()
    with f.loop(*f.my_range(f.p["outer"]), name="row") as row:
        x = f.gep(f.p["x"], f.mul(f.mul(row.index, f.p["reduced"]), size))
        even = f.sub(f.p["reduced"], f.urem(f.p["reduced"], lanes))
        with f.loop(0, even, lanes, carried=[start]) as i:
            i.next = [
                combine(f, kind, i.values[0], _widened(f, f.gep(x, f.mul(i.index, size)), type, lanes, zero_point))
            ]
        narrow = isa.lanes()
        total = combine(f, kind, *(f.shuffle(i.results[0], None, range(h, h + narrow)) for h in (0, narrow)))
        with f.loop(even, f.p["reduced"], narrow, carried=[total], name="rest") as i:
            value = _widened(f, f.gep(x, f.mul(i.index, size)), type, narrow, zero_point)
            mask = lane_mask(f, narrow, f.smin(f.sub(f.p["reduced"], i.index), narrow))
            i.next = [combine(f, kind, i.values[0], f.select(mask, value, f.const(value.type, identity(kind, type))))]
        f.store(across(f, kind, i.results[0]), f.gep(f.p["out"], row.index, acc))
    return f.kernel()


def _column(
    f: Function,
    isa: Isa,
    kind: str,
    type: ElementType,
    x: Value,
    out: Value,
    left: Value,
    lanes: int,
    zero_point: Value,
) -> None:
    """Reduces columns `0 ... left` (at most four vectors) of rows `inner` elements apart, `lanes` at a time."""
    acc, size = llvm_type(accumulator_of(type)), type.bits // 8
    start = f.const(vector_of(acc, lanes), identity(kind, type))
    step = f.mul(f.p["inner"], size)
    with f.loop(0, f.smin(left, 4 * isa.lanes()), lanes, name="part") as part:
        at = f.gep(x, f.mul(part.index, size))
        with f.loop(0, f.p["reduced"], carried=[start], name="r") as r:
            value = _widened(f, f.gep(at, f.mul(r.index, step)), type, lanes, zero_point)
            r.next = [combine(f, kind, r.values[0], value)]
        store_up_to(f, isa, r.results[0], f.gep(out, part.index, acc), f.sub(left, part.index))


class ReduceKernel(Kernel):
    """Reduction of u8, i8, i32, i64 or f32 over any axes."""

    name: ClassVar[str] = "reduce"
    ops: ClassVar[tuple[type[Op], ...]] = (Reduce,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        op, type = node.op, node.inputs[0].element_type
        assert isinstance(op, Reduce)
        if type.name not in TYPES:
            return f"elements of type {type}"
        return unsupported(op.epilogue, isa)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op, x, out = node.op, node.inputs[0], node.output
        assert isinstance(op, Reduce)
        shape, type = x.shape.to_static(), x.element_type
        acc = accumulator_of(type)
        at, steps, sizes = arrange(isa, ctx.ref(x), shape, op.axes, type.bits // 8, ctx)
        plain = op.epilogue == input_(0, acc)
        kept = out.shape.to_static()
        sums = ctx.ref(out) if plain else ctx.scratch(acc.bits // 8 * math.prod(kept))
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": at, "out": sums, "outer": sizes[0], "reduced": sizes[1], "inner": sizes[2]},
            "zero_point": op.x_zero_point,
        }
        steps.append(Step.of(kernel(isa, op.kind, type.name, "inner" if sizes[2] > 1 else "reduced"), values))
        if not plain:
            sources = [Source(sums, kept, acc)]
            sources += [Source(ctx.ref(v), v.shape.to_static(), v.element_type) for v in node.inputs[1:]]
            steps.append(apply(isa, op.epilogue, sources, ctx.ref(out), kept, ctx.threads))
        return steps


def arrange(
    isa: Isa, x: Ref, shape: Sequence[int], axes: Sequence[int], size: int, ctx: BuildContext
) -> tuple[Ref, list[Step], tuple[int, int, int]]:
    """`x` as `[outer, reduced, inner]`, with the steps that copy it if its axes do not lie so."""
    strides = dense_strides(shape)
    reduced = [int(a in axes) for a in range(len(shape))]
    marks = [s if r else 0 for s, r in zip(strides, reduced, strict=True)]
    # axes merge only with neighbors of their own sort: a second "array" moves along the reduced ones alone
    nest = collapse(shape, [strides, marks])
    sorts = [mark != 0 for mark in nest.strides[1]]
    if math.prod(shape) == 1 or not any(sorts):
        return x, [], (1, 1, math.prod(shape))
    first = sorts.index(True)
    if sum(sorts) == 1:
        return x, [], (math.prod(nest.sizes[:first]), nest.sizes[first], math.prod(nest.sizes[first + 1 :]))
    order = sorted(range(nest.rank), key=lambda d: sorts[d])
    sizes = [nest.sizes[d] for d in order]
    moved = ctx.scratch(math.prod(shape) * size)
    view = View(x, tuple(nest.strides[0][d] for d in order))
    steps = copy(isa, size, sizes, view, View(moved, dense_strides(sizes)), ctx.threads)
    inner = math.prod(n for n, r in zip(nest.sizes, sorts, strict=True) if r)
    return moved, steps, (math.prod(shape) // inner, inner, 1)


KERNELS: list[Kernel] = [ReduceKernel()]
