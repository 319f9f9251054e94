"""Copies between strided views of two arrays: what every operation that only moves elements comes down to.

A view is a pointer and strides in elements; the copy's loops are ordered by the destination and merged. The two
innermost loops, `rows` and `cols`, decide the form:

* run: columns are contiguous on both sides: whole runs of bytes;
* splat: the source stands still along the columns;
* transpose: the source is contiguous along the rows, the destination along the columns: square blocks in registers;
* interleave, deinterleave: the same with 2 to 4 planes (an image's channels);
* strided: anything else, element by element.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import Step
from lpir.devices.cpu.kernels.geometry import Nest, chunks_of, collapse, reorder
from lpir.devices.cpu.kernels.tail import store_up_to
from lpir.record import record

FIXED_RUNS = (1, 2, 4, 8, 16, 32, 64)
PLANES = (2, 3, 4)


@record
class View:
    """An array as a copy sees it: where its first element is, and strides in elements along the copy's loops."""

    at: Ref
    strides: tuple[int, ...]


@record
class Form:
    """What is compiled into a copy: `kind`, bytes an element, number of loops, and a size that `kind` needs."""

    kind: str
    size: int
    rank: int
    extra: int = 0

    @property
    def element(self) -> str:
        return f"i{8 * self.size}"


def copy(isa: Isa, size: int, sizes: Sequence[int], source: View, to: View, threads: int) -> list[Step]:
    """The steps (none if there is nothing to copy) that copy elements of `size` bytes over loops of `sizes`."""
    if 0 in sizes:
        return []
    nest = reorder(collapse(sizes, [source.strides, to.strides]), by=1)
    form, nest = choose_form(isa, size, nest)
    rows, cols = nest.sizes[-2:]
    # a chunk holds a few thousand elements; transposes cut both ways
    blocked = form.kind == "transpose"
    col_chunk, col_chunks = (64, -(-cols // 64)) if blocked else chunks_of(1, cols, 1 if rows > 1 else threads, 4096)
    row_chunk, row_chunks = chunks_of(_count(nest.sizes[:-2]) * col_chunks, rows, threads, 64 if blocked else 1)
    values: dict[str, int | float | F32 | Ref] = {
        **{"x": source.at, "out": to.at, "rows": rows, "cols": cols},
        **{"row_chunk": row_chunk, "row_chunks": row_chunks, "col_chunk": col_chunk, "col_chunks": col_chunks},
        **{"outer": _count(nest.sizes[:-2])},
    }
    for d in range(nest.rank):
        values |= {f"x{d}": nest.strides[0][d] * size, f"o{d}": nest.strides[1][d] * size}
        if d < nest.rank - 2:
            values[f"n{d}"] = nest.sizes[d]
    return [Step.of(kernel(isa, form), values)]


def _count(sizes: Sequence[int]) -> int:
    return functools.reduce(lambda a, b: a * b, sizes, 1)


def choose_form(isa: Isa, size: int, nest: Nest) -> tuple[Form, Nest]:
    """The form of the copy, and the nest with its rows and columns innermost (at least two loops)."""
    if nest.rank == 1:
        nest = Nest((1, *nest.sizes), tuple((0, *s) for s in nest.strides))
    x, out = nest.strides
    cols = nest.sizes[-1]
    if out[-1] == 1 and x[-1] == 1:
        run = cols * size
        width = isa.bits // 8
        kind = "fixed" if run in FIXED_RUNS else "run" if run >= width else "short"
        return Form(kind, size, nest.rank, run if kind == "fixed" else 0), nest
    if out[-1] == 1 and x[-1] == 0 and cols * size >= isa.bits // 8:
        return Form("splat", size, nest.rank), nest
    rows = next((d for d in range(nest.rank - 1) if x[d] == 1), None)
    if out[-1] != 1 or rows is None:
        return Form("strided", size, nest.rank), nest
    moved = [d for d in range(nest.rank - 1) if d != rows]
    nest = _permuted(nest, [*moved, rows, nest.rank - 1])
    col_x, row_out = nest.strides[0][-1], nest.strides[1][-2]
    height, lanes = nest.sizes[-2], isa.bits // 8 // size
    if cols in PLANES and row_out == cols and height >= lanes:
        return Form("interleave", size, nest.rank, cols), nest
    if height in PLANES and col_x == height and cols >= lanes:
        return Form("deinterleave", size, nest.rank, height), nest
    block = _block(isa, size, min(height, cols))
    return (Form("transpose", size, nest.rank, block) if block else Form("strided", size, nest.rank)), nest


def _permuted(nest: Nest, order: Sequence[int]) -> Nest:
    return Nest(tuple(nest.sizes[d] for d in order), tuple(tuple(s[d] for d in order) for s in nest.strides))


def _block(isa: Isa, size: int, least: int) -> int:
    """The side of the blocks of a transpose whose shorter side is `least`; 0 if blocks do not pay."""
    block = min(16, isa.bits // 8 // size)
    while block > least:
        block //= 2
    return block if block >= 4 else 0


@functools.lru_cache(maxsize=512)
def kernel(isa: Isa, form: Form) -> Code:
    """Parameters: pointers, loop sizes `n<loop>`, byte strides `x<loop>` and `o<loop>`, and how work is cut."""
    loops = range(form.rank)
    f = Function(
        f"copy_{form.kind}",
        {
            **{"x": "ptr", "out": "ptr"},
            **dict.fromkeys(("rows", "cols", "row_chunk", "row_chunks", "col_chunk", "col_chunks", "outer"), "i64"),
            **{f"x{d}": "i64" for d in loops},
            **{f"o{d}": "i64" for d in loops},
            **{f"n{d}": "i64" for d in loops[:-2]},
        },
        optimize=False,
    )
    pieces = f.mul(f.p["row_chunks"], f.p["col_chunks"])
    first, last = f.my_range(f.mul(f.p["outer"], pieces))
    with f.loop(first, last, name="item") as item:
        outer, piece = f.udiv(item.index, pieces), f.urem(item.index, pieces)
        x, out = _outer_pointers(f, outer, form.rank)
        bounds = []
        for which, index in (("row", f.udiv(piece, f.p["col_chunks"])), ("col", f.urem(piece, f.p["col_chunks"]))):
            begin = f.mul(index, f.p[f"{which}_chunk"])
            bounds.append((begin, f.smin(f.p[f"{which}s"], f.add(begin, f.p[f"{which}_chunk"]))))
        _Body(f, isa, form, x, out).emit(*bounds)
    return f.kernel()


def _outer_pointers(f: Function, rest: Value, rank: int) -> tuple[Value, Value]:
    x, out = f.p["x"], f.p["out"]
    for d in range(rank - 3, -1, -1):
        up = f.udiv(rest, f.p[f"n{d}"]) if d else rest
        index = f.sub(rest, f.mul(up, f.p[f"n{d}"])) if d else rest
        x, out = f.gep(x, f.mul(index, f.p[f"x{d}"])), f.gep(out, f.mul(index, f.p[f"o{d}"]))
        rest = up
    return x, out


Bounds = tuple[Value, Value]


class _Body:
    """Prints the two innermost loops over rows and columns `[first, last)`."""

    def __init__(self, f: Function, isa: Isa, form: Form, x: Value, out: Value) -> None:
        self.f, self.isa, self.form, self.x, self.out = f, isa, form, x, out
        # bytes of planes are shuffled within 128 bits, where that is one instruction for each of them
        bits = 128 if form.kind == "interleave" and form.size == 1 else isa.bits
        self.lanes = bits // 8 // form.size
        row, col = form.rank - 2, form.rank - 1
        self.row_x, self.row_out, self.col_x, self.col_out = (
            f.p[f"x{row}"],
            f.p[f"o{row}"],
            f.p[f"x{col}"],
            f.p[f"o{col}"],
        )

    def emit(self, rows: Bounds, cols: Bounds) -> None:
        f, kind = self.f, self.form.kind
        if kind == "transpose":
            return self._transpose(rows, cols)
        if kind == "interleave":
            return self._planes(rows, self._interleave, self.row_x, self.row_out)
        if kind == "deinterleave":
            return self._planes(cols, self._deinterleave, self.col_x, self.col_out)
        forms: dict[str, Callable[[Value, Value, Bounds], None]] = {
            "fixed": self._fixed,
            "run": self._run,
            "short": self._short,
            "splat": self._splat,
            "strided": self._strided,
        }
        with f.loop(*rows, name="row") as r:
            forms[kind](f.gep(self.x, f.mul(r.index, self.row_x)), f.gep(self.out, f.mul(r.index, self.row_out)), cols)
        return None

    def _fixed(self, x: Value, out: Value, cols: Bounds) -> None:
        size = self.form.extra
        type = f"i{8 * size}" if size <= 8 else vector_of("i8", size)
        self.f.store(self.f.load(type, x), out)

    def _short(self, x: Value, out: Value, cols: Bounds) -> None:
        f, size = self.f, self.form.size
        first, last = cols
        at = f.mul(first, size)
        f.memcpy(f.gep(out, at), f.gep(x, at), f.mul(f.sub(last, first), size))

    def _run(self, x: Value, out: Value, cols: Bounds) -> None:
        f, width = self.f, self.isa.bits // 8
        begin, end = f.mul(cols[0], self.form.size), f.mul(cols[1], self.form.size)
        type = vector_of("i8", width)
        # a run is at least a vector: the last one overlaps the one before it
        whole = f.sub(end, width)
        with f.loop(begin, whole, width, name="byte") as b:
            f.store(f.load(type, f.gep(x, b.index)), f.gep(out, b.index))
        last = f.intrinsic("llvm.smax", "i64", whole, f.const("i64", 0))
        f.store(f.load(type, f.gep(x, last)), f.gep(out, last))

    def _splat(self, x: Value, out: Value, cols: Bounds) -> None:
        f, element = self.f, self.form.element
        value = f.splat(f.load(element, x), self.lanes)
        with f.loop(*cols, self.lanes, name="col") as c:
            store_up_to(f, self.isa, value, f.gep(out, c.index, element), f.sub(cols[1], c.index))

    def _strided(self, x: Value, out: Value, cols: Bounds) -> None:
        f, element = self.f, self.form.element
        with f.loop(*cols, name="col") as c:
            value = f.load(element, f.gep(x, f.mul(c.index, self.col_x)))
            f.store(value, f.gep(out, f.mul(c.index, self.col_out)))

    def _transpose(self, rows: Bounds, cols: Bounds) -> None:
        f, block, element = self.f, self.form.extra, self.form.element
        type = vector_of(element, block)
        last_row, last_col = f.sub(f.p["rows"], block), f.sub(f.p["cols"], block)
        with f.loop(*rows, block, name="row") as r, f.loop(*cols, block, name="col") as c:
            # the last block of a row or a column overlaps the one before it
            row, col = f.smin(r.index, last_row), f.smin(c.index, last_col)
            x = f.gep(f.gep(self.x, f.mul(col, self.col_x)), row, element)
            out = f.gep(f.gep(self.out, f.mul(row, self.row_out)), col, element)
            lines = [f.load(type, f.gep(x, f.mul(self.col_x, i))) for i in range(block)]
            for i, line in enumerate(transposed(f, lines, 128 // 8 // self.form.size)):
                f.store(line, f.gep(out, f.mul(self.row_out, i)))

    def _planes(self, along: Bounds, body: Callable[[Value], None], step_x: Value, step_out: Value) -> None:
        f = self.f
        limit = f.sub(f.p["rows" if self.form.kind == "interleave" else "cols"], self.lanes)
        with f.loop(*along, self.lanes, name="pixel") as i:
            body(f.smin(i.index, limit))

    def _interleave(self, row: Value) -> None:
        f, planes, element, lanes = self.f, self.form.extra, self.form.element, self.lanes
        parts = [
            f.load(vector_of(element, lanes), f.gep(f.gep(self.x, f.mul(self.col_x, p)), row, element))
            for p in range(planes)
        ]
        out = f.gep(self.out, f.mul(row, planes), element)
        for v in range(planes):
            where = [divmod(i, planes) for i in range(v * lanes, (v + 1) * lanes)]
            mixed = f.shuffle(parts[0], parts[1], [i + p * lanes if p < 2 else -1 for i, p in where])
            for plane in range(2, planes):
                own = [lanes + i if p == plane else lane for lane, (i, p) in enumerate(where)]
                mixed = f.shuffle(mixed, parts[plane], own)
            f.store(mixed, f.gep(out, v * lanes, element))

    def _deinterleave(self, col: Value) -> None:
        f, planes, element, lanes = self.f, self.form.extra, self.form.element, self.lanes
        x = f.gep(self.x, f.mul(col, planes), element)
        wide = f.load(vector_of(element, planes * lanes), x)
        for p in range(planes):
            plane = f.shuffle(wide, None, range(p, planes * lanes, planes))
            f.store(plane, f.gep(f.gep(self.out, f.mul(self.row_out, p)), col, element))


def transposed(f: Function, lines: list[Value], per_128: int) -> list[Value]:
    """A square of `n` vectors of `n` lanes, transposed: line i holds lane i of every vector.

    Squares of 128-bit parts are exchanged first, then elements within those parts, where shuffles are cheap.
    """
    n = len(lines)
    part = min(n, per_128)
    half = n // 2
    while half >= part:
        new = list(lines)
        for i in range(n):
            if not i & half:
                a, b = lines[i], lines[i + half]
                new[i] = f.shuffle(a, b, [j if not j & half else n + j - half for j in range(n)])
                new[i + half] = f.shuffle(a, b, [j + half if not j & half else n + j for j in range(n)])
        lines, half = new, half // 2
    step = part
    while step > 1:
        lines = [line for g in range(0, n, part) for line in _interleaved(f, lines[g : g + part], part)]
        step //= 2
    return lines


def _interleaved(f: Function, lines: list[Value], part: int) -> list[Value]:
    """One of log2(part) rounds: the low, then the high halves of each 128-bit part of lines i and i + part / 2."""
    out = []
    for i in range(part // 2):
        a, b = lines[i], lines[i + part // 2]
        for first in (0, part // 2):
            order = [
                (lane + first + j // 2) + (j % 2) * a.lanes for lane in range(0, a.lanes, part) for j in range(part)
            ]
            out.append(f.shuffle(a, b, order))
    return out
