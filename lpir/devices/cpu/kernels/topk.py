"""TopK: the k largest or smallest elements of each row, and where they are.

A row keeps its k best in a heap, the worst of them at the top: most elements are compared with it and forgotten. At the
end the heap is sorted, by rank or by place.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value
from lpir.devices.cpu.codegen.vector import llvm_type
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.heap import heapify, order_of_float, place_of, ranked, sift, sort_down
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import ElementType, f32
from lpir.ops.boundary import constant_data
from lpir.ops.sorting import TopK


@functools.lru_cache(maxsize=64)
def kernel(type: ElementType, largest: bool, by_place: bool, index_type: str) -> Code:
    """Parameters: `x [outer, length, inner]`, `values` and `places [outer, k, inner]`, `heap`: k numbers a thread."""
    pointers, sizes = ("x", "values", "places", "heap"), ("outer", "length", "inner", "k")
    f = Function("topk", {**dict.fromkeys(pointers, "ptr"), **dict.fromkeys(sizes, "i64")}, optimize=False)
    element, inner, k = llvm_type(type), f.p["inner"], f.p["k"]
    heap = f.gep(f.p["heap"], f.mul(f.tid, k), "i64")

    def number(row: Value, place: Value) -> Value:
        return ranked(f, _order(f, f.load(element, f.gep(row, f.mul(place, inner), element)), type, largest), place)

    with f.loop(*f.my_range(f.mul(f.p["outer"], inner)), name="row") as row:
        block, column = f.udiv(row.index, inner), f.urem(row.index, inner)
        x = f.gep(f.p["x"], f.add(f.mul(f.mul(block, f.p["length"]), inner), column), element)
        with f.loop(0, k, name="fill") as i:
            f.store(number(x, i.index), f.gep(heap, i.index, "i64"), 8)
        heapify(f, heap, k)
        with f.loop(k, f.p["length"], name="rest") as i:
            found = number(x, i.index)
            with f.if_(f.icmp("sgt", found, f.load("i64", heap, 8))):
                sift(f, heap, k, 0, found)
        if by_place:
            _by_place(f, heap, k)
        sort_down(f, heap, k)
        first = f.add(f.mul(f.mul(block, k), inner), column)
        with f.loop(0, k, name="out") as i:
            place = place_of(f, f.load("i64", f.gep(heap, i.index, "i64"), 8))
            to = f.add(first, f.mul(i.index, inner))
            value = f.load(element, f.gep(x, f.mul(place, inner), element))
            f.store(value, f.gep(f.p["values"], to, element))
            index = place if index_type == "i64" else f.convert("trunc", place, index_type)
            f.store(index, f.gep(f.p["places"], to, index_type))
    return f.kernel()


def _order(f: Function, x: Value, type: ElementType, largest: bool) -> Value:
    """An i32 that is larger for what comes first."""
    if type == f32:
        order = order_of_float(f, x)
    elif x.type == "i32":
        order = x
    else:
        order = f.convert("sext" if type.is_signed else "zext", x, "i32")
    return order if largest else f.binary("xor", order, -1)


def _by_place(f: Function, heap: Value, k: Value) -> None:
    """Forgets the order of the values: numbers are ranked by their place alone."""
    with f.loop(0, k, name="place") as i:
        at = f.gep(heap, i.index, "i64")
        f.store(f.binary("and", f.load("i64", at, 8), 0xFFFFFFFF), at, 8)
    heapify(f, heap, k)


class TopKKernel(Kernel):
    """Any axis; of float32 or of integers of up to 32 bits (unsigned: 16)."""

    name: ClassVar[str] = "topk"
    ops: ClassVar[tuple[type[Op], ...]] = (TopK,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        type = node.inputs[0].element_type
        if constant_data(node.inputs[1]) is None:
            return "k is not constant"
        if type != f32 and (not type.is_integer or type.bits not in (8, 16, 32) or type.name == "u32"):
            return f"elements of type {type}"
        return None

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op, x = node.op, node.inputs[0]
        assert isinstance(op, TopK)
        shape = x.shape.to_static()
        axis = op.axis % len(shape)
        k = int(np.asarray(constant_data(node.inputs[1])).reshape(-1)[0])
        index_type = llvm_type(op.index_element_type)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": ctx.ref(x), "values": ctx.ref(node.outputs[0]), "places": ctx.ref(node.outputs[1])},
            **{"heap": ctx.scratch(8 * k * ctx.threads), "k": k},
            **{"outer": math.prod(shape[:axis]), "length": shape[axis], "inner": math.prod(shape[axis + 1 :])},
        }
        return [Step.of(kernel(x.element_type, op.mode == "max", op.sort == "index", index_type), values)]


KERNELS: list[Kernel] = [TopKKernel()]
