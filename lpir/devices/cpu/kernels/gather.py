"""Gather: rows of `x` along an axis at positions that a tensor holds (an embedding is axis 0)."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.elements import element_size, not_movable, registered, shape_of
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import i32, i64
from lpir.ops.boundary import constant_data

# runs of so many bytes are single loads and stores
FIXED_RUNS = (1, 2, 4, 8, 16, 32, 64)


@functools.lru_cache(maxsize=64)
def kernel(index_type: str, run: int) -> Code:
    """Parameters: `x [batch, outer, length, run]`, `indices [batch, count]`, `out [batch, outer, count, run]`.

    `run`: bytes of a run if compiled in, 0 for a parameter. An index outside the axis is taken to its nearest end, so
    that nothing outside of `x` is read.
    """
    sizes = ("batch", "outer", "length", "count", "run")
    f = Function("gather", {"x": "ptr", "indices": "ptr", "out": "ptr", **dict.fromkeys(sizes, "i64")}, optimize=False)
    length, count = f.p["length"], f.p["count"]
    bytes_ = f.const("i64", run) if run else f.p["run"]
    first, last = f.my_range(f.mul(f.mul(f.p["batch"], f.p["outer"]), count))
    # a thread's items are whole blocks of `count`, and parts of two: one division a block, none an item
    with f.loop(f.udiv(first, count), f.udiv(f.add(last, f.sub(count, 1)), count), name="block") as block:
        start = f.mul(block.index, count)
        places = f.gep(f.p["indices"], f.mul(f.udiv(block.index, f.p["outer"]), count), index_type)
        rows = f.gep(f.p["x"], f.mul(f.mul(block.index, length), bytes_))
        outs = f.gep(f.p["out"], f.mul(start, bytes_))
        begin, end = f.smax(f.sub(first, start), 0), f.smin(f.sub(last, start), count)
        with f.loop(begin, end, name="item") as item:
            index = f.convert("sext", f.load(index_type, f.gep(places, item.index, index_type)), "i64")
            index = f.select(f.icmp("slt", index, 0), f.add(index, length), index)
            index = f.smax(f.smin(index, f.sub(length, 1)), 0)
            source = f.gep(rows, f.mul(index, bytes_))
            out = f.gep(outs, f.mul(item.index, bytes_))
            if run:
                type = f"i{8 * run}" if run <= 8 else f"<{run} x i8>"
                f.store(f.load(type, source), out)
            else:
                f.memcpy(out, source, bytes_)
    return f.kernel()


class GatherKernel(Kernel):
    """Gather along any constant axis, with batch dimensions."""

    name: ClassVar[str] = "gather"
    ops: ClassVar[tuple[type[Op], ...]] = registered("Gather")

    def applies(self, node: Node, isa: Isa) -> str | None:
        if constant_data(node.inputs[2]) is None:
            return "the axis is not constant"
        if node.inputs[1].element_type not in (i32, i64):
            return f"indices of type {node.inputs[1].element_type}"
        return not_movable(node)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        x, indices = node.inputs[:2]
        shape, places = shape_of(x), shape_of(indices)
        axis = int(np.asarray(constant_data(node.inputs[2])).reshape(-1)[0]) % len(shape)
        batch = int(node.op.attributes().get("batch_dims", 0))
        batch += len(places) if batch < 0 else 0
        run = math.prod(shape[axis + 1 :]) * (element_size(x.element_type) or 1)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": ctx.table(x), "indices": ctx.ref(indices), "out": ctx.ref(node.output)},
            **{"batch": math.prod(shape[:batch]), "outer": math.prod(shape[batch:axis]), "length": shape[axis]},
            **{"count": math.prod(places[batch:]), "run": run},
        }
        index_type = "i64" if indices.element_type == i64 else "i32"
        return [Step.of(kernel(index_type, run if run in FIXED_RUNS else 0), values)]


def gather_step(x: Ref, length: int, indices: Ref, index_type: str, out: Ref, count: int, run: int) -> Step:
    """The step that copies `count` rows of `run` bytes, number `indices[i]` of the `length` at `x`, to `out`."""
    values: dict[str, int | float | F32 | Ref] = {
        **{"x": x, "indices": indices, "out": out, "batch": 1, "outer": 1},
        **{"length": length, "count": count, "run": run},
    }
    return Step.of(kernel(index_type, run if run in FIXED_RUNS else 0), values)


KERNELS: list[Kernel] = [GatherKernel()]
