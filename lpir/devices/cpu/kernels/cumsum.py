"""CumSum: running sums along an axis, in the order of the reference."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function
from lpir.devices.cpu.codegen.vector import llvm_type
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.elements import registered
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import ElementType, f32, f64, i32, i64
from lpir.ops.boundary import constant_data


@functools.lru_cache(maxsize=32)
def kernel(type: ElementType, exclusive: bool, reverse: bool) -> Code:
    """Parameters: `x` and `out [outer, length, inner]`."""
    f = Function("cumsum", {"x": "ptr", "out": "ptr", "outer": "i64", "length": "i64", "inner": "i64"})
    element, length, inner = llvm_type(type), f.p["length"], f.p["inner"]
    with f.loop(*f.my_range(f.mul(f.p["outer"], inner)), name="line") as line:
        start = f.add(f.mul(f.mul(f.udiv(line.index, inner), length), inner), f.urem(line.index, inner))
        # -0 + x is x, for every x
        with f.loop(0, length, carried=[f.const(element, -0.0 if type.is_float else 0)], name="step") as i:
            place = f.sub(f.sub(length, 1), i.index) if reverse else i.index
            at = f.add(start, f.mul(place, inner))
            x = f.load(element, f.gep(f.p["x"], at, element))
            before = i.values[0]
            total = f.fadd(before, x) if type.is_float else f.add(before, x)
            if exclusive:
                before = f.select(f.icmp("eq", i.index, 0), f.const(element, 0), before)
            f.store(before if exclusive else total, f.gep(f.p["out"], at, element))
            i.next = [total]
    return f.kernel()


class CumSumKernel(Kernel):
    """Along a constant axis; a thread sums whole lines."""

    name: ClassVar[str] = "cumsum"
    ops: ClassVar[tuple[type[Op], ...]] = registered("CumSum")

    def applies(self, node: Node, isa: Isa) -> str | None:
        if len(node.inputs) > 1 and constant_data(node.inputs[1]) is None:
            return "the axis is not constant"
        if node.inputs[0].element_type not in (f32, f64, i32, i64):
            return f"elements of type {node.inputs[0].element_type}"
        return "a scalar" if not len(node.inputs[0].shape) else None

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        shape, attributes = node.inputs[0].shape.to_static(), node.op.attributes()
        found = constant_data(node.inputs[1]) if len(node.inputs) > 1 else None
        axis = 0 if found is None else int(np.asarray(found).reshape(-1)[0]) % len(shape)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": ctx.ref(node.inputs[0]), "out": ctx.ref(node.output)},
            **{"outer": math.prod(shape[:axis]), "length": shape[axis], "inner": math.prod(shape[axis + 1 :])},
        }
        code = kernel(node.inputs[0].element_type, bool(attributes["exclusive"]), bool(attributes["reverse"]))
        return [Step.of(code, values)]


KERNELS: list[Kernel] = [CumSumKernel()]
