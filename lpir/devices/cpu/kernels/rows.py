"""Where the rows of a convolution's or a product's tensors are: offset tables, padding copies, epilogue operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref
from lpir.devices.cpu.codegen.emitter import Function
from lpir.devices.cpu.codegen.vector import PRIMITIVES, memory_type
from lpir.devices.cpu.kernels.base import BuildContext, Step
from lpir.devices.cpu.kernels.epilogue import Bound, Epilogue, Operand, Rows, element_bytes
from lpir.devices.cpu.kernels.geometry import dense_strides
from lpir.devices.cpu.kernels.ranges import Range, without_clamp, without_codes
from lpir.errors import UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.types import i8, u8
from lpir.ops.boundary import constant_data
from lpir.scalar.expr import Expr

Array = np.ndarray[Any, np.dtype[Any]]
Rewrite = Callable[[Expr, Mapping[int, Range]], Expr]


def grid_offsets(sizes: Sequence[int], strides: Sequence[int]) -> Array:
    """`sum_i index_i * strides_i` for every index of `sizes`, row-major, flat (int64)."""
    total = np.zeros((1,) * len(sizes), np.int64)
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        steps = np.arange(size, dtype=np.int64) * stride
        total = total + steps.reshape([-1 if a == axis else 1 for a in range(len(sizes))])
    return np.ascontiguousarray(np.broadcast_to(total, tuple(sizes))).reshape(-1)


def refuse_epilogue(epilogue: Expr) -> str | None:
    """Why vector code cannot print an (expanded) epilogue, or None."""
    for e in epilogue.walk():
        if e.fn not in PRIMITIVES:
            return f"the epilogue's {e.fn} has no vector code"
        try:
            memory_type(e.type)
        except UnsupportedError:
            return f"the epilogue uses elements of type {e.type}"
    return None


def refuse_operands(node: Node, first: int) -> str | None:
    """Why inputs `first ..` of `node` cannot be read beside the accumulator, or None."""
    out = node.outputs[0].shape.to_static()
    for i, value in enumerate(node.inputs[first:], first):
        shape = _padded(value.shape.to_static(), len(out))
        if math.prod(shape) > 1 and shape[-1] != out[-1]:
            return f"input {i} {list(shape)} repeats along the channels of {list(out)}"
    return None


def _padded(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def operand_of(value: Value, out: Sequence[int]) -> Operand:
    """How an epilogue reads `value` next to an output of shape `out`."""
    shape = _padded(value.shape.to_static(), len(out))
    if math.prod(shape) == 1:
        return Operand("scalar", value.element_type)
    if math.prod(shape[:-1]) == 1:
        return Operand("vector", value.element_type)
    return Operand("tensor", value.element_type, table=tuple(shape) != tuple(out))


def bind_operand(value: Value, out: Sequence[int], ctx: BuildContext) -> Bound:
    """The buffer of an operand: dense rows, or a table where it is broadcast along some leading axis."""
    operand = operand_of(value, out)
    if operand.kind != "tensor":
        return Bound(ctx.ref(value))
    if not operand.table:
        return Bound(ctx.ref(value), Rows(row_bytes(value)))
    return Bound(ctx.ref(value), Rows(table=ctx.constant(row_offsets(value, out).astype(np.int32))))


def row_bytes(value: Value) -> int:
    """Bytes of a vector along the last axis."""
    return value.shape.to_static()[-1] * element_bytes(value.element_type)


def row_offsets(value: Value, out: Sequence[int]) -> Array:
    """Byte offset of the row of `value` beside each row of an output of shape `out` (int64)."""
    size = element_bytes(value.element_type)
    shape = _padded(value.shape.to_static(), len(out))
    strides = [0 if n == 1 else s * size for n, s in zip(shape, dense_strides(shape), strict=True)]
    return grid_offsets(out[:-1], strides[:-1])


def epilogue_of(
    expr: Expr, kinds: Sequence[Operand], values: Sequence[Value], sums: Range, rewrite: Rewrite | None = None
) -> Epilogue:
    """The epilogue `expr` over sums within `sums` (a channel each), without a clamp that a saturating pack does.

    `rewrite`: gives another expression of the same value, from one and the ranges of its leaves.
    """
    leaves: dict[int, Range] = {0: sums}
    for i, value in enumerate(values, 1):
        data = constant_data(value)
        if data is not None:
            leaves[i] = (data.astype(np.float64),) * 2
        elif value.element_type in (u8, i8):
            low, high = value.element_type.limits
            leaves[i] = (np.asarray(float(low)), np.asarray(float(high)))
    expr = without_codes(expr, leaves)
    bare = without_clamp(expr, leaves)
    final = expr if bare is None else bare
    return Epilogue(rewrite(final, leaves) if rewrite else final, kinds, saturate=bare is not None)


def pad_kernel() -> Kernel:
    """Copies rows of bytes, `count` runs that are `pitch` apart, between two paddings: `table[row]` is where a
    row starts in the source, -1 for all padding."""
    names = ("rows", "left", "count", "run", "pitch", "right", "fill")
    f = Function("pad_rows", {"x": "ptr", "out": "ptr", "table": "ptr", **dict.fromkeys(names, "i64")}, optimize=False)
    left, run, right = f.p["left"], f.p["run"], f.p["right"]
    middle = f.mul(f.p["count"], run)
    width = f.add(f.add(left, middle), right)
    fill = f.convert("trunc", f.p["fill"], "i8")
    with f.loop(*f.my_range(f.p["rows"])) as row:
        out = f.gep(f.p["out"], f.mul(row.index, width))
        source = f.load("i64", f.gep(f.p["table"], row.index, "i64"), 8)
        with f.if_(f.icmp("slt", source, 0)):
            f.memset(out, fill, width)
        with f.if_(f.icmp("sge", source, 0)):
            f.memset(out, fill, left)
            x, inner = f.gep(f.p["x"], source), f.gep(out, left)
            with f.loop(0, f.p["count"], name="part") as i:
                f.memcpy(f.gep(inner, f.mul(i.index, run)), f.gep(x, f.mul(i.index, f.p["pitch"])), run)
            f.memset(f.gep(inner, middle), fill, right)
    return f.kernel()


def pad_step(
    x: Ref, out: Ref, shape: Sequence[int], begin: Sequence[int], end: Sequence[int], fill: int, ctx: BuildContext
) -> Step:
    """Copies u8 `x [N, *S, C]` into `out [N, *(begin + S + end), C]`, `fill` around it."""
    batch, *spatial, channels = shape
    outer = [n + b + e for n, b, e in zip(spatial, begin, end, strict=True)][:-1]
    strides = dense_strides(shape)
    table = np.full((batch, *outer), -1, np.int64)
    inside = tuple(slice(b, b + n) for n, b in zip(spatial[:-1], begin[:-1], strict=True))
    table[(slice(None), *inside)] = grid_offsets((batch, *spatial[:-1]), strides[:-2]).reshape(batch, *spatial[:-1])
    values: dict[str, int | float | F32 | Ref] = {
        **{"x": x, "out": out, "table": ctx.constant(table), "rows": table.size},
        **{"left": begin[-1] * channels, "count": 1, "run": spatial[-1] * channels, "pitch": 0},
        **{"right": end[-1] * channels, "fill": fill},
    }
    return Step.of(pad_kernel(), values)
