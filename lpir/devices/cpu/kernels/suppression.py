"""NonMaxSuppression: greedy, a class at a time, with the arithmetic of the reference.

Three steps: corners and areas of all boxes; for every class of every batch a heap of its candidates, of which the best
is compared with all that were kept, a vector of them at a time; and the kept boxes of all classes in one list.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.vector import llvm_type
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.heap import heapify, order_of_float, place_of, ranked, sift, sort_down
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import f32, i32, i64
from lpir.ops.boundary import constant_data
from lpir.ops.lowered_detection import PaddedSuppression

Values = dict[str, int | float | F32 | Ref]

# of a box: y1, x1, y2, x2, area
PARTS = 5


@functools.lru_cache(maxsize=2)
def corner_kernel(centered: bool) -> Code:
    """Parameters: `boxes [count, 4]`, `corners`: PARTS rows of `stride` floats."""
    f = Function("box_corners", {"boxes": "ptr", "corners": "ptr", "count": "i64", "stride": "i64"}, optimize=False)
    with f.loop(*f.my_range(f.p["count"])) as i:
        at = f.gep(f.p["boxes"], f.mul(i.index, 4), "float")
        a, b, c, d = (f.load("float", f.gep(at, j, "float"), 4) for j in range(4))
        if centered:
            half = f.const("float", 0.5)
            tall, wide = f.fmul(d, half), f.fmul(c, half)
            box = [f.fsub(b, tall), f.fsub(a, wide), f.fadd(b, tall), f.fadd(a, wide)]
        else:
            swap = [f.fcmp("olt", c, a), f.fcmp("olt", d, b)]
            low = [f.select(s, y, x) for s, x, y in zip(swap, (a, b), (c, d), strict=True)]
            high = [f.select(s, x, y) for s, x, y in zip(swap, (a, b), (c, d), strict=True)]
            box = [*low, *high]
        box.append(f.fmul(f.fsub(box[2], box[0]), f.fsub(box[3], box[1])))
        for j, part in enumerate(box):
            f.store(part, f.gep(f.p["corners"], f.add(f.mul(f.p["stride"], j), i.index), "float"), 4)
    return f.kernel()


class _Suppressor:
    """Prints the second step.

    Parameters: `scores [units, n]`, a unit being a class of a batch; `corners` as above, of all batches; `heap`: n + 1
    numbers a thread; `kept`: PARTS rows of `kept_stride` floats a thread; `slots`, `slot_scores [units, cap]`: i32
    boxes and their scores; `counts [units]` i64; `most`, `iou`, `least`: the limits in memory.
    """

    def __init__(self, isa: Isa, most_type: str) -> None:
        self.lanes = isa.lanes()
        self.type = vector_of("float", self.lanes)
        self.most_type = most_type
        pointers = ("scores", "corners", "heap", "kept", "slots", "slot_scores", "counts", "most", "iou", "least")
        sizes = ("units", "classes", "n", "stride", "kept_stride", "cap")
        self.f = Function(
            f"suppress_{isa.name}", {**dict.fromkeys(pointers, "ptr"), **dict.fromkeys(sizes, "i64")}, optimize=False
        )

    def kernel(self) -> Code:
        f, p = self.f, self.f.p
        most = f.load(self.most_type, p["most"])
        most = f.smin(most if self.most_type == "i64" else f.convert("sext", most, "i64"), p["cap"])
        self.heap = f.gep(p["heap"], f.mul(f.tid, f.add(p["n"], 1)), "i64")
        self.kept = f.gep(p["kept"], f.mul(f.mul(f.tid, p["kept_stride"]), PARTS), "float")
        self.iou = f.load("float", p["iou"])
        with f.loop(*f.my_range(p["units"]), name="unit") as unit:
            scores = f.gep(p["scores"], f.mul(unit.index, p["n"]), "float")
            found = self.candidates(scores)
            counter = f.gep(p["counts"], unit.index, "i64")
            f.store(f.const("i64", 0), counter, 8)
            with f.if_(f.binary("and", f.icmp("sgt", found, 0), f.icmp("sgt", most, 0))):
                heapify(f, self.heap, found)
                with f.repeat([found, f.const("i64", 0)], name="best") as best:
                    left, count = best.values
                    rest, total = self.next_best(unit.index, scores, left, count)
                    best.next = [rest, total]
                    best.again = f.binary("and", f.icmp("sgt", rest, 0), f.icmp("slt", total, most))
                f.store(best.results[1], counter, 8)
        return f.kernel()

    def candidates(self, scores: Value) -> Value:
        """Puts the boxes with a sufficient score into the heap, the best one the smallest number; how many."""
        f = self.f
        least = f.load("float", f.p["least"])
        with f.loop(0, f.p["n"], carried=[f.const("i64", 0)], name="candidate") as i:
            score = f.load("float", f.gep(scores, i.index, "float"), 4)
            number = f.binary("xor", ranked(f, order_of_float(f, score), i.index), -1)
            f.store(number, f.gep(self.heap, i.values[0], "i64"), 8)
            i.next = [f.add(i.values[0], f.convert("zext", f.fcmp("ogt", score, least), "i64"))]
        return i.results[0]

    def next_best(self, unit: Value, scores: Value, left: Value, count: Value) -> tuple[Value, Value]:
        """Takes the best candidate; how many are left, and how many are kept."""
        f, p = self.f, self.f.p
        box = place_of(f, f.binary("xor", f.load("i64", self.heap, 8), -1))
        rest = f.sub(left, 1)
        sift(f, self.heap, f.smax(rest, 1), 0, f.load("i64", f.gep(self.heap, rest, "i64"), 8))
        place = f.add(f.mul(f.udiv(unit, p["classes"]), p["n"]), box)
        rows = [f.gep(p["corners"], f.mul(p["stride"], j), "float") for j in range(PARTS)]
        own = [f.load("float", f.gep(row, place, "float"), 4) for row in rows]
        covered = self.covered(own, count)
        # written in any case: what is not kept is written over by the next one
        for j, part in enumerate(own):
            f.store(part, f.gep(self.kept, f.add(f.mul(p["kept_stride"], j), count), "float"), 4)
        slot = f.add(f.mul(unit, p["cap"]), count)
        f.store(f.convert("trunc", box, "i32"), f.gep(p["slots"], slot, "i32"), 4)
        score = f.load("float", f.gep(scores, box, "float"), 4)
        f.store(score, f.gep(p["slot_scores"], slot, "float"), 4)
        return rest, f.add(count, f.select(covered, 0, f.const("i64", 1)))

    def covered(self, own: list[Value], count: Value) -> Value:
        """Whether a box overlaps one of those kept by the limit or more (i1)."""
        f, lanes = self.f, self.lanes
        y1, x1, y2, x2, area = (f.splat(part, lanes) for part in own)
        zero, limit = f.zeros(self.type), f.splat(self.iou, lanes)
        none = f.zeros(vector_of("i1", lanes))
        with f.loop(0, count, lanes, carried=[none], name="kept") as k:
            rows = [f.gep(self.kept, f.add(f.mul(f.p["kept_stride"], j), k.index), "float") for j in range(PARTS)]
            other = [f.load(self.type, row, 4) for row in rows]
            tall = f.fsub(self._lower(y2, other[2]), self._higher(y1, other[0]))
            wide = f.fsub(self._lower(x2, other[3]), self._higher(x1, other[1]))
            common = f.fmul(self._higher(tall, zero), self._higher(wide, zero))
            union = f.fsub(f.fadd(area, other[4]), common)
            real = f.binary("and", f.fcmp("ogt", area, zero), f.fcmp("ogt", other[4], zero))
            overlap = f.select(real, f.fdiv(common, union), zero)
            there = f.icmp("slt", f.iota("i64", lanes), f.splat(f.sub(count, k.index), lanes))
            hit = f.binary("and", there, f.fcmp("oge", overlap, limit))
            k.next = [f.binary("or", k.values[0], hit)]
        return f.call(f"llvm.vector.reduce.or.v{lanes}i1", "i1", k.results[0])

    def _lower(self, a: Value, b: Value) -> Value:
        return self.f.select(self.f.fcmp("olt", b, a), b, a)

    def _higher(self, a: Value, b: Value) -> Value:
        return self.f.select(self.f.fcmp("ogt", b, a), b, a)


@functools.lru_cache(maxsize=32)
def suppress_kernel(isa: Isa, most_type: str) -> Code:
    """The kernel of the second step."""
    return _Suppressor(isa, most_type).kernel()


@functools.lru_cache(maxsize=8)
def list_kernel(sort: bool, index_type: str) -> Code:
    """The third step: the first thread writes the rows of all units, by falling score or one unit after the other."""
    pointers = ("slots", "slot_scores", "counts", "heap", "indices", "values", "total")
    sizes = ("units", "classes", "cap", "rows")
    f = Function("list_boxes", {**dict.fromkeys(pointers, "ptr"), **dict.fromkeys(sizes, "i64")}, optimize=False)
    p, heap = f.p, f.p["heap"]
    size = 8 if index_type == "i64" else 4
    with f.if_(f.icmp("eq", f.tid, 0)):
        with f.loop(0, p["units"], carried=[f.const("i64", 0)], name="unit") as unit:
            first, end = unit.values[0], f.load("i64", f.gep(p["counts"], unit.index, "i64"), 8)
            with f.loop(0, end, name="slot") as slot:
                place = f.add(f.mul(unit.index, p["cap"]), slot.index)
                order = order_of_float(f, f.load("float", f.gep(p["slot_scores"], place, "float"), 4))
                f.store(ranked(f, order, place), f.gep(heap, f.add(first, slot.index), "i64"), 8)
            unit.next = [f.add(first, end)]
        count = unit.results[0]
        if sort:
            heapify(f, heap, count)
            sort_down(f, heap, count)
        f.memset(p["indices"], f.const("i8", 0), f.mul(p["rows"], 3 * size))
        f.memset(p["values"], f.const("i8", 0), f.mul(p["rows"], 12))
        with f.loop(0, count, name="row") as row:
            place = place_of(f, f.load("i64", f.gep(heap, row.index, "i64"), 8))
            owner = f.udiv(place, p["cap"])
            batch, kind = f.udiv(owner, p["classes"]), f.urem(owner, p["classes"])
            box = f.convert("sext", f.load("i32", f.gep(p["slots"], place, "i32"), 4), "i64")
            at = f.mul(row.index, 3)
            for j, x in enumerate((batch, kind, box)):
                whole = x if index_type == "i64" else f.convert("trunc", x, index_type)
                f.store(whole, f.gep(p["indices"], f.add(at, j), index_type))
            score = f.load("float", f.gep(p["slot_scores"], place, "float"), 4)
            for j, real in enumerate((f.convert("sitofp", batch, "float"), f.convert("sitofp", kind, "float"), score)):
                f.store(real, f.gep(p["values"], f.add(at, j), "float"))
        f.store(count if index_type == "i64" else f.convert("trunc", count, index_type), p["total"])
    return f.kernel()


class Suppression(Kernel):
    """Hard suppression in float32."""

    name: ClassVar[str] = "suppression"
    ops: ClassVar[tuple[type[Op], ...]] = (PaddedSuppression,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        limits = node.inputs[2:]
        wanted = (f32, f32, None, f32, f32, f32)
        for value, type in zip(node.inputs, wanted, strict=False):
            if value.element_type != type and (type is not None or value.element_type not in (i32, i64)):
                return f"an input of type {value.element_type}"
        sigma = constant_data(limits[3]) if len(limits) > 3 else np.zeros(1)
        if sigma is None or np.asarray(sigma).any():
            return "scores are lowered where boxes overlap (soft suppression)"
        return None

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, PaddedSuppression)
        (batch, n, _), classes = node.inputs[0].shape.to_static(), node.inputs[1].shape.to_static()[1]
        units = batch * classes
        cap = op.rows // units
        index_type, most_type = llvm_type(op.suppression.output_type), "i64"
        limits: list[Ref] = [ctx.constant(np.zeros(1, np.int64)), *[ctx.constant(np.zeros(1, np.float32))] * 2]
        for i, value in enumerate(node.inputs[2:5]):
            limits[i] = ctx.ref(value)
            most_type = llvm_type(value.element_type) if i == 0 else most_type
        kept_stride = -(-(cap + 1) // 16) * 16 + 16
        corners, stride = ctx.scratch(4 * PARTS * batch * n), batch * n
        shared: Values = {
            **{"slots": ctx.scratch(4 * (op.rows + 1)), "slot_scores": ctx.scratch(4 * (op.rows + 1))},
            **{"counts": ctx.scratch(8 * units), "units": units, "classes": classes, "cap": cap},
        }
        numbers: Values = {"heap": ctx.scratch(8 * max((n + 1) * ctx.threads, op.rows))}
        first: Values = {"boxes": ctx.ref(node.inputs[0]), "corners": corners, "count": stride, "stride": stride}
        second: Values = {
            **{"scores": ctx.ref(node.inputs[1]), "corners": corners, "n": n, "stride": stride},
            **{"kept": ctx.scratch(4 * PARTS * kept_stride * ctx.threads), "kept_stride": kept_stride},
            **dict(zip(("most", "iou", "least"), limits, strict=True)),
        }
        outputs = dict(zip(("indices", "values", "total"), (ctx.ref(v) for v in node.outputs), strict=True))
        return [
            Step.of(corner_kernel(op.suppression.box_encoding == "center"), first),
            Step.of(suppress_kernel(isa, most_type), {**shared, **numbers, **second}),
            Step.of(
                list_kernel(op.suppression.sort_result_descending, index_type),
                {**shared, **numbers, **outputs, "rows": op.rows},
            ),
        ]


KERNELS: list[Kernel] = [Suppression()]
