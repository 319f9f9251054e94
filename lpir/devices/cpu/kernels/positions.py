"""Reading and writing elements at positions that a tensor holds: GatherND, GatherElements, the Scatter operations.

What is written twice keeps its last value, or joins the updates in their order, as in the reference: one thread writes
all that can meet. A position outside is taken to the nearest inside, so that nothing else is read or written.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, size_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.copy import View, copy
from lpir.devices.cpu.kernels.elements import element_size, not_movable, registered, shape_of
from lpir.devices.cpu.kernels.geometry import dense_strides
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import f32, i32, i64
from lpir.ops.boundary import constant_data
from lpir.record import record

# LLVM's types of what updates may join
JOINED = {f32: "float", i32: "i32", i64: "i64"}
# for a join: what a place holds before its first update where what was there does not count
NEUTRAL = {"sum": 0, "prod": 1, "min": math.inf, "max": -math.inf}


@record
class Join:
    """How an update joins what is there: a reduction of the Scatter operations, or "fill", which starts one anew."""

    kind: str
    type: str
    start: float = 0

    def apply(self, f: Function, old: Value, new: Value) -> Value:
        """What is there afterwards."""
        kind, is_float = self.kind, self.type == "float"
        if kind == "fill":
            return f.const(self.type, self.start)
        if kind in ("min", "max"):
            if not is_float:
                return f.intrinsic(f"llvm.s{kind}", self.type, old, new)
            # NumPy's: a NaN stays, and of two that are equal the new one
            better = f.fcmp("olt" if kind == "min" else "ogt", old, new)
            return f.select(f.binary("or", better, f.fcmp("uno", old, old)), old, new)
        name = {"sum": "add", "sub": "sub", "prod": "mul"}[kind]
        return f.binary(f"f{name}" if is_float else name, old, new)


def place(f: Function, at: Value, index_type: str, length: Value) -> Value:
    """The index at an address, counted from the front and inside of `length`."""
    index = f.convert("sext", f.load(index_type, at), "i64")
    index = f.select(f.icmp("slt", index, 0), f.add(index, length), index)
    return f.smax(f.smin(index, f.sub(length, 1)), 0)


@functools.lru_cache(maxsize=16)
def tuple_kernel(index_type: str, scatter: bool, join: Join | None = None) -> Code:
    """Runs of bytes at positions of several numbers.

    Parameters: `whole`, where the positions are; `indices [batch * count, depth]`; `runs`, one a position; `lengths`,
    `strides` (bytes) of each number; `batch_bytes` of `whole`; `run` bytes; `shared`: every batch has the same indices.
    """
    pointers = ("whole", "indices", "runs", "lengths", "strides")
    sizes = ("batch", "count", "depth", "batch_bytes", "run", "shared")
    f = Function("positions", {**dict.fromkeys(pointers, "ptr"), **dict.fromkeys(sizes, "i64")}, optimize=False)
    p = f.p
    # batches never meet; inside of one, order counts where it is written
    first, last = f.my_range(p["batch"] if scatter else f.mul(p["batch"], p["count"]))
    if scatter:
        first, last = f.mul(first, p["count"]), f.mul(last, p["count"])
    with f.loop(first, last, name="item") as item:
        base = f.mul(f.udiv(item.index, p["count"]), p["batch_bytes"])
        own = f.select(f.icmp("ne", p["shared"], 0), f.urem(item.index, p["count"]), item.index)
        row = f.mul(own, p["depth"])
        with f.loop(0, p["depth"], carried=[base], name="number") as j:
            length = f.load("i64", f.gep(p["lengths"], j.index, "i64"), 8)
            stride = f.load("i64", f.gep(p["strides"], j.index, "i64"), 8)
            index = place(f, f.gep(p["indices"], f.add(row, j.index), index_type), index_type, length)
            j.next = [f.add(j.values[0], f.mul(index, stride))]
        there, run = f.gep(p["whole"], j.results[0]), f.gep(p["runs"], f.mul(item.index, p["run"]))
        if join is not None:
            size = size_of(join.type)
            with f.loop(0, p["run"], size, name="byte") as byte:
                _join(f, join, f.gep(there, byte.index), f.gep(run, byte.index))
        else:
            f.memcpy(there, run, p["run"]) if scatter else f.memcpy(run, there, p["run"])
    return f.kernel()


def _join(f: Function, join: Join, there: Value, update: Value) -> None:
    f.store(join.apply(f, f.load(join.type, there), f.load(join.type, update)), there)


@functools.lru_cache(maxsize=64)
def axis_kernel(index_type: str, size: int, scatter: bool, join: Join | None = None) -> Code:
    """Elements of `size` bytes at places along an axis.

    Parameters: `whole [outer, length, inner]`; `indices` and `parts [outer, count, inner]`.
    """
    pointers, sizes = ("whole", "indices", "parts"), ("outer", "length", "count", "inner")
    f = Function("elements", {**dict.fromkeys(pointers, "ptr"), **dict.fromkeys(sizes, "i64")}, optimize=False)
    p, element = f.p, f"i{8 * size}"
    with f.loop(*f.my_range(p["outer"]), name="outer") as o, f.loop(0, p["count"], name="place") as j:
        row = f.mul(f.add(f.mul(o.index, p["count"]), j.index), p["inner"])
        whole = f.mul(f.mul(o.index, p["length"]), p["inner"])
        with f.loop(0, p["inner"], name="inner") as i:
            item = f.add(row, i.index)
            index = place(f, f.gep(p["indices"], item, index_type), index_type, p["length"])
            there = f.gep(p["whole"], f.add(f.add(whole, f.mul(index, p["inner"])), i.index), element)
            part = f.gep(p["parts"], item, element)
            if join is not None:
                _join(f, join, there, part)
            else:
                f.store(f.load(element, part), there) if scatter else f.store(f.load(element, there), part)
    return f.kernel()


def _refuse(node: Node, index: int) -> str | None:
    """Why elements at the positions of input `index` cannot be moved, or None."""
    type = node.inputs[index].element_type
    if type not in (i32, i64):
        return f"indices of type {type}"
    kind, joined = str(getattr(node.op, "reduction", "none")), node.inputs[0].element_type
    if kind == "mean":
        return "updates are averaged"
    if kind != "none" and joined not in JOINED:
        return f"updates of type {joined} are joined with what is there"
    return not_movable(node)


def _joins(node: Node) -> list[Join | None]:
    """How updates are written, pass by pass."""
    op, type = node.op, node.inputs[0].element_type
    kind = str(getattr(op, "reduction", "none"))
    if kind == "none":
        return [None]
    join = Join(kind, JOINED[type])
    if getattr(op, "use_init_val", True):
        return [join]
    start: float = NEUTRAL[kind]
    if not type.is_float and math.isinf(start):
        start = type.limits[1] if start > 0 else type.limits[0]
    return [Join("fill", JOINED[type], start), join]


def _index_type(node: Node) -> str:
    return "i64" if node.inputs[1].element_type == i64 else "i32"


def _axis(node: Node) -> int | None:
    """The axis of an operation that has it as an attribute or as its last input; None when that is not constant."""
    rank = len(node.inputs[0].shape)
    if "axis" in node.op.attributes():
        return int(node.op.attributes()["axis"]) % rank
    found = constant_data(node.inputs[3])
    return None if found is None else int(np.asarray(found).reshape(-1)[0]) % rank


def _copied(node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
    """The steps that copy input 0 to the output."""
    count = math.prod(shape_of(node.output))
    x, out = View(ctx.ref(node.inputs[0]), (1,)), View(ctx.ref(node.output), (1,))
    return copy(isa, element_size(node.output.element_type) or 1, (count,), x, out, ctx.threads)


class Positions(Kernel):
    """GatherND, ScatterNDUpdate and ScatterUpdate."""

    name: ClassVar[str] = "positions"
    ops: ClassVar[tuple[type[Op], ...]] = registered("GatherND", "ScatterNDUpdate", "ScatterUpdate")

    def applies(self, node: Node, isa: Isa) -> str | None:
        if node.op.type_name == "ScatterUpdate" and _axis(node) is None:
            return "the axis is not constant"
        return _refuse(node, 1)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        shape, places = shape_of(node.inputs[0]), shape_of(node.inputs[1])
        scatter, shared = node.op.type_name != "GatherND", node.op.type_name == "ScatterUpdate"
        # axes in front of those that a position names, and how many numbers a position has
        before = (_axis(node) or 0) if shared else int(node.op.attributes().get("batch_dims", 0))
        depth = 1 if shared else places[-1]
        size, strides = element_size(node.output.element_type) or 1, dense_strides(shape)
        numbers = range(before, before + depth)
        values: dict[str, int | float | F32 | Ref] = {
            "whole": ctx.ref(node.output if scatter else node.inputs[0]),
            "indices": ctx.ref(node.inputs[1]),
            "runs": ctx.ref(node.inputs[2] if scatter else node.output),
            "lengths": ctx.constant(np.array([shape[i] for i in numbers], np.int64)),
            "strides": ctx.constant(np.array([strides[i] * size for i in numbers], np.int64)),
            **{"batch": math.prod(shape[:before]), "depth": depth, "shared": int(shared)},
            "count": math.prod(places) if shared else math.prod(places[before:-1]),
            **{"batch_bytes": math.prod(shape[before:]) * size, "run": math.prod(shape[before + depth :]) * size},
        }
        steps = [Step.of(tuple_kernel(_index_type(node), scatter, join), values) for join in _joins(node)]
        return [*_copied(node, isa, ctx), *steps] if scatter else steps


class Elements(Kernel):
    """GatherElements and ScatterElementsUpdate; not means."""

    name: ClassVar[str] = "elements"
    ops: ClassVar[tuple[type[Op], ...]] = registered("GatherElements", "ScatterElementsUpdate")

    def applies(self, node: Node, isa: Isa) -> str | None:
        axis = _axis(node)
        if axis is None:
            return "the axis is not constant"
        shapes = [list(shape_of(v)) for v in node.inputs[:2]]
        for shape in shapes:
            del shape[axis]
        if shapes[0] != shapes[1]:
            return "the indices do not cover the other axes"
        return _refuse(node, 1)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        axis, shape, places = _axis(node) or 0, shape_of(node.inputs[0]), shape_of(node.inputs[1])
        scatter = node.op.type_name == "ScatterElementsUpdate"
        values: dict[str, int | float | F32 | Ref] = {
            "whole": ctx.ref(node.output if scatter else node.inputs[0]),
            "indices": ctx.ref(node.inputs[1]),
            "parts": ctx.ref(node.inputs[2] if scatter else node.output),
            **{"outer": math.prod(shape[:axis]), "length": shape[axis], "count": places[axis]},
            "inner": math.prod(shape[axis + 1 :]),
        }
        size = element_size(node.output.element_type) or 1
        steps = [Step.of(axis_kernel(_index_type(node), size, scatter, join), values) for join in _joins(node)]
        return [*(_copied(node, isa, ctx) if scatter else []), *steps]


KERNELS: list[Kernel] = [Positions(), Elements()]
