"""Lookups in a table of 256 entries: a chain of unary operations between 8-bit tensors.

Bytes to bytes is done in registers. On x86: 16 `vpshufb`, each with one slice of the table. With `t = x ^ 16 s`, adding
0x70 with saturation leaves the low four bits as they are and sets bit 7 unless x lies in slice s; `vpshufb` gives 0
there. On ARM: 4 `tbl` and `tbx` of 64 entries each; indices outside of these leave what was found. Other element types
are loads, element by element.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.elements import element_size
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ops.lowered import Table

_SHUFFLE = {16: "llvm.x86.ssse3.pshuf.b.128", 32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}


@functools.lru_cache(maxsize=64)
def kernel(isa: Isa, size: int) -> Code:
    """Parameters: codes `x`, `table` of elements of `size` bytes, `out`, `count`."""
    f = Function("table", {"x": "ptr", "table": "ptr", "out": "ptr", "count": "i64"}, optimize=False)
    blocks = f.udiv(f.add(f.p["count"], 63), 64)
    first, last = f.my_range(blocks)
    begin, end = f.mul(first, 64), f.smin(f.mul(last, 64), f.p["count"])
    if size == 1 and isa.arch != "any":
        slices, width = _slices(f, isa), isa.bits // 8
        look_up = _look_up_x86 if isa.is_x86 else _look_up_arm
        whole = f.sub(end, f.urem(f.sub(end, begin), width))
        with f.loop(begin, whole, width) as i:
            codes = f.load(vector_of("i8", width), f.gep(f.p["x"], i.index))
            f.store(look_up(f, codes, slices), f.gep(f.p["out"], i.index))
        begin = whole
    element = f"i{8 * size}"
    with f.loop(begin, end, name="one") as i:
        code = f.convert("zext", f.load("i8", f.gep(f.p["x"], i.index)), "i64")
        f.store(f.load(element, f.gep(f.p["table"], code, element)), f.gep(f.p["out"], i.index, element))
    return f.kernel()


def _slices(f: Function, isa: Isa) -> list[Value]:
    """The 16 slices of the table, each repeated in every 128 bits of a vector."""
    out = []
    for s in range(16):
        one = f.load("<16 x i8>", f.gep(f.p["table"], 16 * s))
        out.append(f.shuffle(one, None, [i % 16 for i in range(isa.bits // 8)]))
    return out


def _look_up_x86(f: Function, codes: Value, slices: list[Value]) -> Value:
    found = []
    for s, entries in enumerate(slices):
        near = f.binary("xor", codes, f.const(codes.type, 16 * s)) if s else codes
        index = f.intrinsic("llvm.uadd.sat", codes.type, near, f.const(codes.type, 0x70))
        found.append(f.call(_SHUFFLE[codes.lanes], codes.type, entries, index))
    while len(found) > 1:
        found = [f.binary("or", a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def _look_up_arm(f: Function, codes: Value, slices: list[Value]) -> Value:
    found = f.call("llvm.aarch64.neon.tbl4.v16i8", codes.type, *slices[:4], codes)
    for first in (4, 8, 12):
        near = f.sub(codes, f.const(codes.type, 16 * first))
        found = f.call("llvm.aarch64.neon.tbx4.v16i8", codes.type, found, *slices[first : first + 4], near)
    return found


class TableKernel(Kernel):
    """Any table: bytes in registers, other entries from memory."""

    name: ClassVar[str] = "table"
    ops: ClassVar[tuple[type[Op], ...]] = (Table,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        type = node.inputs[1].element_type
        return f"elements of type {type} are packed" if element_size(type) is None else None

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        x, table = node.inputs
        values: dict[str, int | float | F32 | Ref] = {
            "x": ctx.ref(x),
            "table": ctx.ref(table),
            "out": ctx.ref(node.output),
            "count": math.prod(x.shape.to_static()),
        }
        return [Step.of(kernel(isa, element_size(table.element_type) or 1), values)]

    def reuses(self, node: Node) -> tuple[int, ...]:
        return (0,) if node.output.element_type.bits == 8 else ()


KERNELS: list[Kernel] = [TableKernel()]
