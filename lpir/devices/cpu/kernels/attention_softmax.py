"""The softmax of a block of rows of sums, in place: scores, then their powers; the reciprocals of the rows' sums aside.

Operations are printed for several rows in turn: chains as long as that of a power then run side by side. Powers may
also be computed a few columns at a time, by who needs them: `score_rows`, `powers` for all columns, then `shares`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.epilogue import Epilogue
from lpir.devices.cpu.kernels.reduce import ROWS, across, across_rows
from lpir.devices.cpu.kernels.tail import lane_mask
from lpir.ir.types import i32

LOG2_E, LN2 = 1.4426950408889634, 0.6931471805599453
POWERS = (1.0, 1.0, 0.4999922811985016, 0.16667117178440094, 0.04189065471291542, 0.00831241998821497)
MAGIC = float(1.5 * 2**23)
# e^x of what lies further below a row's largest score is 0: no sum notices, and no product with v is denormal
FLOOR = -64.0
# rows at once
TOGETHER = ROWS


class Softmax:
    """Prints it. `block`: `block_rows` lines of `columns` sums (kernel parameters, `n` of them count); `sums`: a float
    a row; `tail`: whether there may be columns that do not count; `most`: the most rows of a block whose powers are
    computed a few columns at a time."""

    def __init__(
        self, f: Function, isa: Isa, scores: Epilogue, block: Value, sums: Value, tail: bool, most: int = 0
    ) -> None:
        self.f, self.isa, self.scores, self.sums, self.tail = f, isa, scores, sums, tail
        self.memory, self.lanes = block, isa.lanes()
        # sums of powers, a vector a row
        self.totals = f.alloca("float", most * self.lanes) if most else block
        self.floats, self.ints = vector_of("float", self.lanes), vector_of("i32", self.lanes)
        integer = scores.expr.inputs().get(0) == i32
        self.sum_type = self.ints if integer else self.floats

    def block(self, row: Value) -> None:
        """The softmax of the block whose first row has number `row` among the rows of scores."""
        f, p = self.f, self.f.p
        even = f.sub(p["block_rows"], f.urem(p["block_rows"], TOGETHER))
        with f.loop(0, even, TOGETHER, name="rows") as r:
            self._rows(row, [f.add(r.index, i) for i in range(TOGETHER)])
        with f.loop(even, p["block_rows"], name="row") as r:
            self._rows(row, [r.index])

    def score_rows(self, row: Value) -> None:
        """Turns sums into scores. The number of rows is a multiple of TOGETHER."""
        f = self.f
        with f.loop(0, f.p["block_rows"], TOGETHER, nonempty=True, name="rows") as r:
            rows = [f.add(r.index, i) for i in range(TOGETHER)]
            tops = self._tops(row, rows, self._lines(rows))
            # where the reciprocals of the sums will be
            f.store(across_rows(f, tops, _larger), f.gep(self.sums, r.index, "float"), 4)
            for own in rows:
                f.store(f.zeros(self.floats), self._total(own), 64)

    def powers(self, row: Value, column: Value) -> list[tuple[Value, Value]]:
        """Two vectors of powers of each of TOGETHER rows; they are added to the rows' sums."""
        f = self.f
        rows = [f.add(row, i) for i in range(TOGETHER)]
        found: list[tuple[Value, Value]] = []
        # two rows at a time: more do not fit the registers
        for some in (rows[i : i + 2] for i in range(0, TOGETHER, 2)):
            tops = [f.splat(f.load("float", f.gep(self.sums, own, "float"), 4), self.lanes) for own in some]
            places = [
                f.gep(f.gep(line, column, "float"), 4 * self.lanes * i) for line in self._lines(some) for i in (0, 1)
            ]
            powers = self._powers(
                [f.load(self.floats, at, 4) for at in places], [top for top in tops for _ in range(2)]
            )
            for i, own in enumerate(some):
                a, b = powers[2 * i : 2 * i + 2]
                total = f.load(self.floats, self._total(own), 64)
                f.store(f.fadd(total, f.fadd(a, b)), self._total(own), 64)
                found.append((a, b))
        return found

    def shares(self) -> None:
        """The reciprocals of the rows' sums, when all powers have been computed."""
        f = self.f
        with f.loop(0, f.p["block_rows"], TOGETHER, nonempty=True, name="rows") as r:
            rows = [f.add(r.index, i) for i in range(TOGETHER)]
            self._share(rows, [f.load(self.floats, self._total(own), 64) for own in rows])

    def _total(self, row: Value) -> Value:
        return self.f.gep(self.totals, self.f.mul(row, 4 * self.lanes))

    def _lines(self, rows: list[Value]) -> list[Value]:
        pitch = self.f.mul(self.f.p["columns"], 4)
        return [self.f.gep(self.memory, self.f.mul(row, pitch)) for row in rows]

    def _rows(self, first: Value, rows: list[Value]) -> None:
        f, p, lanes = self.f, self.f.p, self.lanes
        lines = self._lines(rows)
        tops = [f.splat(largest(f, x), lanes) for x in self._tops(first, rows, lines)]
        zeros = [f.zeros(self.floats)] * len(rows)
        with f.loop(0, p["columns"], lanes, carried=zeros, nonempty=True, name="exp") as c:
            places = [f.gep(line, c.index, "float") for line in lines]
            powers = self._powers([f.load(self.floats, at, 4) for at in places], tops)
            for at, power in zip(places, powers, strict=True):
                f.store(power, at, 4)
            c.next = [f.fadd(total, power) for total, power in zip(c.values, powers, strict=True)]
        self._share(rows, c.results)

    def _share(self, rows: list[Value], totals: Sequence[Value]) -> None:
        """Keeps the reciprocals of sums, of which each row has a vector."""
        f = self.f
        if len(rows) == TOGETHER:
            whole = across_rows(f, totals, Function.fadd)
            ones = f.const(whole.type, 1.0)
            f.store(f.fdiv(ones, whole), f.gep(self.sums, rows[0], "float"), 4)
            return
        for row, x in zip(rows, totals, strict=True):
            share = f.fdiv(f.const("float", 1.0), across(f, "sum", x))
            f.store(share, f.gep(self.sums, row, "float"), 4)

    def _tops(self, first: Value, rows: list[Value], lines: list[Value]) -> list[Value]:
        """Turns sums of some rows into scores. Returns the largest in each lane."""
        f, p, lanes = self.f, self.f.p, self.lanes
        pointers = [self.scores.row(f, f.add(first, row)) for row in rows]
        tops = [f.const(self.floats, -math.inf)] * len(rows)
        # where the last vector has columns that do not count, it is on its own
        whole = f.sub(p["columns"], lanes) if self.tail else p["columns"]
        with f.loop(0, whole, lanes, carried=tops, nonempty=not self.tail, name="max") as c:
            c.next = self._score(lines, pointers, c.index, c.values, None)
        tops = c.results
        if self.tail:
            mask = lane_mask(f, lanes, f.sub(p["n"], whole))
            tops = self._score(lines, pointers, whole, tops, mask)
        return tops

    def _score(
        self, lines: list[Value], pointers: list[dict[int, Value]], n: Value, tops: list[Value], mask: Value | None
    ) -> list[Value]:
        """Turns a vector of each line's sums, columns `n ..`, into scores. Returns `tops` or those, if larger."""
        f = self.f
        shared = self.scores.vectors(f, n, self.lanes)
        places = [f.gep(line, n, "float") for line in lines]
        results = []
        for at, row, top in zip(places, pointers, tops, strict=True):
            leaves = {**shared, **self.scores.tensors(f, row, n, self.lanes)}
            x = self.scores.finish(f, self.isa, f.load(self.sum_type, at, 4), leaves)
            if mask is not None:
                x = f.select(mask, x, f.const(self.floats, -math.inf))
            f.store(x, at, 4)
            results.append(_larger(f, top, x))
        return results

    def _powers(self, scores: list[Value], tops: list[Value]) -> list[Value]:
        """e^(score - top), within 2 ulp of what is near the top; NaN stays NaN."""
        f = self.f

        def fma(a: list[Value], b: list[Value] | float, c: list[Value] | float) -> list[Value]:
            rest = [v if isinstance(v, list) else [f.const(self.floats, v)] * len(a) for v in (b, c)]
            return [f.intrinsic("llvm.fmuladd", self.floats, *abc) for abc in zip(a, *rest, strict=True)]

        x = [f.fsub(a, b) for a, b in zip(scores, tops, strict=True)]
        counts = [f.fcmp("uge", a, f.const(self.floats, FLOOR)) for a in x]
        shifted = fma(x, LOG2_E, MAGIC)
        n = [f.fsub(a, f.const(self.floats, MAGIC)) for a in shifted]
        r = fma(n, -LN2, x)
        power = fma(r, POWERS[-1], POWERS[-2])
        for c in reversed(POWERS[:-2]):
            power = fma(r, power, c)
        # the low bits of `shifted` are n: they become the exponent
        exponents = [f.binary("shl", f.convert("bitcast", a, self.ints), f.const(self.ints, 23)) for a in shifted]
        scaled = [f.add(f.convert("bitcast", a, self.ints), e) for a, e in zip(power, exponents, strict=True)]
        zero = f.zeros(self.ints)
        return [f.convert("bitcast", f.select(c, a, zero), self.floats) for a, c in zip(scaled, counts, strict=True)]


def largest(f: Function, x: Value) -> Value:
    """The largest lane; as the kernel's maxima, without regard to NaN."""
    while x.lanes > 2:
        half = x.lanes // 2
        x = _larger(f, f.shuffle(x, None, range(half)), f.shuffle(x, None, range(half, x.lanes)))
    return _larger(f, f.extract(x, 0), f.extract(x, 1))


def _larger(f: Function, a: Value, b: Value) -> Value:
    return f.select(f.fcmp("ogt", b, a), b, a)
