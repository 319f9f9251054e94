"""Elementwise expressions over any number of inputs and any broadcast.

The loops over the output are merged as far as every input's strides allow; then the innermost loop walks each input
either element by element or not at all, because inputs are dense. Its body is the expression over vectors. Loop counts
and strides are parameters: the text depends on the expression, the rank, and which inputs stand still inside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, size_of
from lpir.devices.cpu.codegen.vector import PRIMITIVES, emit_expr, from_memory, memory_type, to_memory
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.epilogue import lift_constants
from lpir.devices.cpu.kernels.geometry import Nest, broadcast_strides, chunks_of, collapse
from lpir.devices.cpu.kernels.tail import store_up_to
from lpir.errors import LpirError
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import ElementType, bf16, f16, f32
from lpir.ops.bases import ElementwiseOp
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import Elementwise, expanded
from lpir.record import record
from lpir.scalar.expr import Expr, input_, substitute

# expressions with more operations than this are printed once, in a loop over single vectors
LIGHT = 24
# constants whose rows are shorter than this are repeated to make longer rows
SHORT_ROW = 64


def x86_bits(isa: Isa) -> int:
    """What `emit_expr` wants as `bits`."""
    return isa.bits if isa.is_x86 else 0


def operations(expr: Expr) -> int:
    """Number of operations of an expanded expression."""
    return sum(1 for e in expr.walk() if e.args)


def unsupported(expr: Expr, isa: Isa) -> str | None:
    """Why vector code cannot be printed for `expr` on `isa`, or None."""
    try:
        walked = list(expanded(expr).walk())
        for e in walked:
            memory_type(e.type)
    except LpirError as error:
        return str(error)
    for e in walked:
        if e.fn not in PRIMITIVES:
            return f"{e.fn} of {e.type} has no vector code"
        # LLVM would call library functions that the process does not have
        if (e.type == bf16 and e.fn != "input") or (e.type == f16 and not isa.is_x86):
            return f"{isa.name} has no instruction that gives {e.type}"
    return None


class Leaves:
    """The inputs of one innermost loop: pointers at its start, and whether each moves with the loop."""

    def __init__(
        self, f: Function, types: Sequence[ElementType], moving: Sequence[bool], constants: Sequence[Value]
    ) -> None:
        self.f, self.types, self.moving, self.constants = f, types, moving, constants
        self.at: list[Value] = []
        self.still: dict[int, Value] = {}

    def enter(self, starts: Sequence[Value]) -> None:
        """Sets the pointers, and loads the inputs that stand still."""
        self.at = list(starts)
        for i, moves in enumerate(self.moving):
            if not moves:
                loaded = self.f.load(memory_type(self.types[i]), self.at[i])
                self.still[i] = from_memory(self.f, loaded, self.types[i])

    def load(self, index: Value, lanes: int) -> list[Value]:
        """Every input as a vector of elements `index ...`, or as a scalar that stands still."""
        out = []
        for i, type in enumerate(self.types):
            if self.moving[i]:
                at = self.f.gep(self.at[i], index, memory_type(type))
                out.append(from_memory(self.f, self.f.load(memory_type(type, lanes), at), type))
            else:
                out.append(self.still[i])
        return [*out, *self.constants]


def lanes_for(isa: Isa, expr: Expr, types: Sequence[ElementType]) -> tuple[int, int]:
    """`(main, tail)`: elements a round of the main loop (several registers) and of the loop over what is left."""
    # 64 bytes behind every array may be read, so a tail vector reads at most 64 bytes of any
    widest = max(size_of(memory_type(t)) for t in (*types, expr.type))
    tail = min(isa.lanes(), 64 // widest)
    if operations(expr) > LIGHT:
        return tail, tail
    narrow = min(size_of(memory_type(t)) for t in (*types, expr.type)) == 1
    return isa.lanes() * (4 if narrow else 2), tail


@functools.lru_cache(maxsize=1024)
def kernel(isa: Isa, expr: Expr, types: tuple[ElementType, ...], rank: int, moving: tuple[bool, ...]) -> Code:
    """Parameters: pointers, sizes of the loops, strides `s<input>_<loop>`, and constants: the leaves behind `types`."""
    outer, kinds = range(rank - 1), expr.inputs()
    constants = max(kinds, default=-1) + 1 - len(types)
    names = [f"x{i}" for i in range(len(types))]
    f = Function(
        "elementwise",
        {
            **dict.fromkeys((*names, "out"), "ptr"),
            **dict.fromkeys(("length", "chunk", "chunks", "rows"), "i64"),
            **{f"n{d}": "i64" for d in outer},
            **{f"s{i}_{d}": "i64" for i in range(len(types)) for d in outer},
            **{f"c{i}": "float" if kinds[len(types) + i] == f32 else "i32" for i in range(constants)},
        },
        optimize=False,
    )
    leaves = Leaves(f, types, moving, [f.p[f"c{i}"] for i in range(constants)])
    first, last = f.my_range(f.mul(f.p["rows"], f.p["chunks"]))
    with f.loop(first, last, name="item") as item:
        row = f.udiv(item.index, f.p["chunks"])
        begin = f.mul(f.sub(item.index, f.mul(row, f.p["chunks"])), f.p["chunk"])
        end = f.smin(f.p["length"], f.add(begin, f.p["chunk"]))
        leaves.enter(_row_pointers(f, row, types, rank))
        out = f.gep(f.p["out"], f.mul(row, f.p["length"]), memory_type(expr.type))
        _row(f, isa, expanded(expr), leaves, out, begin, end)
    return f.kernel()


def _row_pointers(f: Function, row: Value, types: Sequence[ElementType], rank: int) -> list[Value]:
    """Where each input's row number `row` (over the outer loops, row-major) starts."""
    offsets: list[Value] = [f.const("i64", 0) for _ in types]
    rest = row
    for d in range(rank - 2, -1, -1):
        up = f.udiv(rest, f.p[f"n{d}"]) if d else rest
        index = f.sub(rest, f.mul(up, f.p[f"n{d}"])) if d else rest
        offsets = [f.add(o, f.mul(index, f.p[f"s{i}_{d}"])) for i, o in enumerate(offsets)]
        rest = up
    return [f.gep(f.p[f"x{i}"], o, memory_type(types[i])) for i, o in enumerate(offsets)]


def _row(f: Function, isa: Isa, expr: Expr, leaves: Leaves, out: Value, begin: Value, end: Value) -> None:
    main, tail = lanes_for(isa, expr, leaves.types)
    element = memory_type(expr.type)

    def compute(index: Value, lanes: int) -> Value:
        return to_memory(f, emit_expr(f, expr, leaves.load(index, lanes), lanes, x86_bits(isa)), expr.type)

    if main > tail:
        even = f.sub(end, f.urem(f.sub(end, begin), main))
        with f.loop(begin, even, main) as i:
            f.store(compute(i.index, main), f.gep(out, i.index, element))
        begin = even
    with f.loop(begin, end, tail, name="tail") as i:
        x = compute(i.index, tail)
        store_up_to(f, isa, x, f.gep(out, i.index, element), f.sub(end, i.index))


def run(
    isa: Isa,
    expr: Expr,
    types: Sequence[ElementType],
    sources: Sequence[Ref],
    out: Ref,
    nest: Nest,
    threads: int,
) -> Step:
    """The step that computes `expr` over `nest` (strides of the sources, then of the dense output)."""
    moving = tuple(s[-1] != 0 for s in nest.strides[:-1])
    shared, constants = lifted(expr, len(types))
    made = kernel(isa, shared, tuple(types), nest.rank, moving)
    rows, length = math.prod(nest.sizes[:-1]), nest.sizes[-1]
    chunk, chunks = chunks_of(rows, length, threads, 1024)
    values: dict[str, int | float | F32 | Ref] = {"out": out, "length": length, "chunk": chunk, "chunks": chunks}
    values["rows"] = rows
    values |= {f"x{i}": ref for i, ref in enumerate(sources)}
    values |= {f"c{i}": value for i, value in enumerate(constants)}
    for d in range(nest.rank - 1):
        values[f"n{d}"] = nest.sizes[d]
        values |= {f"s{i}_{d}": s[d] for i, s in enumerate(nest.strides[:-1])}
    return Step.of(made, values)


@functools.lru_cache(maxsize=4096)
def lifted(expr: Expr, leaves: int) -> tuple[Expr, tuple[float | int, ...]]:
    """`expr` with its constants as leaves behind the first `leaves`, so that kernels are shared, and their values.

    An expression with many constants (a polynomial) stays as it is.
    """
    shared, constants = lift_constants(expanded(expr), leaves)
    return (shared, tuple(c.value or 0 for c in constants)) if constants else (expr, ())


@record
class Source:
    """A dense array that an expression reads."""

    at: Ref
    shape: tuple[int, ...]
    type: ElementType


def apply(isa: Isa, expr: Expr, sources: Sequence[Source], out: Ref, shape: Sequence[int], threads: int) -> Step:
    """The step that computes `expr` (leaf i = source i, broadcast) into the dense `out` of `shape`."""
    used = sorted(expr.inputs())
    read = [sources[i] for i in used]
    nest = _nest(shape, [s.shape for s in read])
    return run(isa, _renumber(expr, used), [s.type for s in read], [s.at for s in read], out, nest, threads)


def _expression(node: Node) -> Expr:
    op = node.op
    if isinstance(op, Elementwise):
        return op.expr
    assert isinstance(op, ElementwiseOp)
    return op.expression([v.element_type for v in node.inputs])


class ElementwiseKernel(Kernel):
    """Any expression of integers, floats and booleans."""

    name: ClassVar[str] = "elementwise"
    ops: ClassVar[tuple[type[Op], ...]] = (Elementwise, ElementwiseOp)

    def applies(self, node: Node, isa: Isa) -> str | None:
        if getattr(node.op, "auto_broadcast", "numpy") == "pdpd":
            return "auto_broadcast is pdpd"
        return unsupported(_expression(node), isa)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        expr = _expression(node)
        shape = node.output.shape.to_static()
        if math.prod(shape) == 0:
            return []
        # leaves that the expression does not read are not passed
        used = sorted(expr.inputs())
        values = [node.inputs[i] for i in used]
        shapes = [v.shape.to_static() for v in values]
        refs = [ctx.ref(v) for v in values]
        nest = _nest(shape, shapes)
        if nest.rank == 2 and nest.sizes[1] < SHORT_ROW:
            repeat = _repeats(nest, [constant_data(v) is not None for v in values])
            for i, v in enumerate(values):
                data = constant_data(v)
                if repeat > 1 and data is not None and data.size > 1 and nest.strides[i][0] == 0:
                    refs[i] = ctx.constant(np.tile(np.ascontiguousarray(data).reshape(-1), repeat))
            nest = Nest(
                (nest.sizes[0] // repeat, nest.sizes[1] * repeat), tuple((s[0] * repeat, s[1]) for s in nest.strides)
            )
        expr = _renumber(expr, used)
        return [run(isa, expr, [v.element_type for v in values], refs, ctx.ref(node.output), nest, ctx.threads)]

    def reuses(self, node: Node) -> tuple[int, ...]:
        shape, bits = node.output.shape, node.output.element_type.bits
        return tuple(i for i, v in enumerate(node.inputs) if v.shape == shape and v.element_type.bits == bits)


def _nest(shape: Sequence[int], shapes: Sequence[Sequence[int]]) -> Nest:
    strides = [broadcast_strides(s, shape) for s in shapes]
    return collapse(shape, [*strides, broadcast_strides(shape, shape)])


def _repeats(nest: Nest, constant: Sequence[bool]) -> int:
    """How many short rows may be walked as one: rows of constants are repeated in memory, others must be dense."""
    rows, length = nest.sizes
    for (outer, inner), is_constant in zip(nest.strides, (*constant, False), strict=True):
        dense = outer == length and inner == 1
        still = outer == 0 and inner == 0
        if not (dense or still or (is_constant and outer == 0)):
            return 1
    limit = -(-4 * SHORT_ROW // length)
    return max((k for k in range(1, limit + 1) if rows % k == 0), default=1)


def _renumber(expr: Expr, used: Sequence[int]) -> Expr:
    types = expr.inputs()
    return substitute(expr, {leaf: input_(i, types[leaf]) for i, leaf in enumerate(used)})


KERNELS = [ElementwiseKernel()]
