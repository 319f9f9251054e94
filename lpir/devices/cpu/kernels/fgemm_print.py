"""Prints the matrix product of `fgemm`: its loops over chunks, blocks, parts and tiles, and the register tile."""

from __future__ import annotations

import functools
from contextlib import nullcontext

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import SECOND_CACHE, Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.isa.dots import pmaddwd
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand, element_bytes, row_pointer, store_lanes
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.ops.lowered import expanded
from lpir.record import record
from lpir.scalar.expr import Expr

# bytes of a cache line
LINE = 64
# epilogues with more operations than this are printed once a vector, in a loop over stored sums
INLINE_EPILOGUE = 300


@record
class Form:
    """What is compiled into a kernel besides its tile and epilogue.

    `packed`: how `w` lies in memory; `taps`: whether there is more than one run of channels; `narrow`: fewer channels
    than lanes; `x_table`: rows of `x` are found by a table; `unroll`: steps a round of the inner loop; `arithmetic`:
    "float", "bytes" or "words"; `row_sums`, `column_sums`: whether sums of codes are added; `parts`: whether K is cut
    in parts; `prefetch`: cache lines of the next part of `w` that a round of the inner loop asks for.
    """

    packed: bool
    taps: bool
    narrow: bool
    x_table: bool
    unroll: int
    arithmetic: str = "float"
    row_sums: bool = False
    column_sums: bool = False
    parts: bool = False
    prefetch: int = 0


@record
class _Part:
    """The runs `first` to `end` of a block; `begins`, `ends`: whether they are its first and its last."""

    first: Value
    end: Value
    begins: Value | None = None
    ends: Value | None = None


def is_long(operations: int, cells: int) -> bool:
    """Whether an epilogue of so many operations is printed once a vector, and not for every cell of a tile."""
    return operations * cells > INLINE_EPILOGUE


@functools.lru_cache(maxsize=512)
def kernel(isa: Isa, tile: Tile, form: Form, epilogue: Expr, operands: tuple[Operand, ...]) -> tuple[Kernel, Epilogue]:
    """The kernel of a shape class and the printer of its epilogue."""
    printer = _Printer(isa, tile, Epilogue(expanded(epilogue), operands), form)
    return printer.kernel(), printer.epilogue


_SIZES = ("m", "n", "channels", "k", "groups", "row_group", "channel_group", "out_row", "w_step")
_CUTS = ("m_tiles", "n_blocks", "m_chunks", "n_chunks")


class _Printer:
    """Prints one kernel."""

    def __init__(self, isa: Isa, tile: Tile, epilogue: Epilogue, form: Form) -> None:
        self.isa, self.tile, self.epilogue, self.form = isa, tile, epilogue, form
        self.lanes = isa.lanes()
        self.type = vector_of("float" if form.arithmetic == "float" else "i32", self.lanes)
        size, element = {"float": (1, "float"), "bytes": (4, "i8"), "words": (2, "i16")}[form.arithmetic]
        self.weight_type = vector_of(element, size * self.lanes)
        self.sums: dict[str, Value] = {}
        params = {
            **{"x": "ptr", "x_rows": "ptr" if form.x_table else "i64", "x_groups": "ptr"},
            **{"w": "ptr", "w_groups": "ptr", "out": "ptr"},
            **dict.fromkeys((*_SIZES, *_CUTS), "i64"),
            **epilogue.params(),
        }
        if form.taps:
            params |= {"taps": "ptr", "tap_count": "i64"}
        if form.prefetch:
            params["ahead"] = "i64"
        if form.parts:
            params |= {"parts": "i64", "part_runs": "i64", "zeros": "ptr", "kept": "ptr", "kept_thread": "i64"}
        if form.row_sums:
            params |= {"row_sums": "ptr", "row_groups": "ptr", "row_factor": "i32"}
        if form.column_sums:
            params |= {"column_sums": "ptr", "column_groups": "ptr", "column_factor": "i32", "base": "i32"}
        kind = "fgemm" if form.arithmetic == "float" else f"gemm_{form.arithmetic}"
        self.f = Function(f"{kind}_{isa.name}_{tile.rows}x{tile.vectors}", params, optimize=False)

    def kernel(self) -> Kernel:
        f = self.f
        self.epilogue.start(f, self.lanes)
        per_group = f.mul(f.p["m_chunks"], f.p["n_chunks"])
        first, last = f.my_range(f.mul(per_group, f.p["groups"]))
        with f.loop(first, last, name="unit") as unit:
            group, rest = f.udiv(unit.index, per_group), f.urem(unit.index, per_group)
            mc, nc = f.udiv(rest, f.p["n_chunks"]), f.urem(rest, f.p["n_chunks"])
            x = f.gep(f.p["x"], f.load("i64", f.gep(f.p["x_groups"], group, "i64"), 8))
            w = f.gep(f.p["w"], f.load("i64", f.gep(f.p["w_groups"], group, "i64"), 8))
            self._find_sums(group)
            row, channel = f.mul(group, f.p["row_group"]), f.mul(group, f.p["channel_group"])
            tiles = self._chunk(mc, f.p["m_tiles"], f.p["m_chunks"])
            with f.loop(*self._chunk(nc, f.p["n_blocks"], f.p["n_chunks"]), name="block") as block:
                channels, panel = self._channels(block.index, w)
                self._block(x, panel, row, [f.add(channel, c) for c in channels], tiles)
        return f.kernel()

    def _block(self, x: Value, panel: Value, row: Value, channels: list[Value], tiles: tuple[Value, Value]) -> None:
        """A block of columns of all row tiles of a chunk."""
        f = self.f
        if not self.form.parts:
            end = f.p["tap_count"] if self.form.taps else f.const("i64", 1)
            self._tiles(x, panel, row, channels, tiles, _Part(f.const("i64", 0), end))
            return
        with f.loop(0, f.p["parts"], nonempty=True, name="part") as index:
            part = self._part(index.index)
            self._tiles(x, f.gep(panel, self._weight_bytes(part.first)), row, channels, tiles, part)

    def _part(self, index: Value) -> _Part:
        """Part `index` of K."""
        f = self.f
        first = f.mul(index, f.p["part_runs"])
        end = f.smin(f.add(first, f.p["part_runs"]), f.p["tap_count"])
        return _Part(first, end, f.icmp("eq", index, 0), f.icmp("eq", end, f.p["tap_count"]))

    def _weight_bytes(self, runs: Value) -> Value:
        """Bytes of the weights of so many runs in a block."""
        f = self.f
        return f.mul(f.mul(runs, f.p["channels"]), f.p["w_step"])

    def _tiles(
        self, x: Value, panel: Value, row: Value, channels: list[Value], tiles: tuple[Value, Value], part: _Part
    ) -> None:
        """A part of K of all row tiles of a chunk."""
        f = self.f
        with f.loop(*tiles, name="tile") as tile:
            local = f.sub(tile.index, tiles[0])
            ahead = self._ahead(panel, part, local) if self.form.prefetch else None
            self._tile(x, panel, row, channels, tile.index, local, part, ahead)

    def _ahead(self, panel: Value, part: _Part, local: Value) -> Value:
        """Where tile `local` of a chunk begins to ask for weights: those behind the part, shared among tiles."""
        f = self.f
        runs = f.sub(part.end, part.first)
        rounds = f.udiv(f.mul(runs, f.p["channels"]), self.form.unroll)
        return f.gep(f.gep(panel, self._weight_bytes(runs)), f.mul(f.mul(local, rounds), f.p["ahead"]))

    def _find_sums(self, group: Value) -> None:
        """Pointers to the sums of codes of one group."""
        f = self.f
        for which in ("row", "column"):
            if f"{which}_sums" in f.p:
                first = f.load("i64", f.gep(f.p[f"{which}_groups"], group, "i64"), 8)
                self.sums[which] = f.gep(f.p[f"{which}_sums"], first, "i32")

    def _start(self, channels: list[Value]) -> list[Value]:
        """What the sums of one row start from."""
        f = self.f
        if "column" not in self.sums:
            return [f.zeros(self.type)] * len(channels)
        factor, base = f.splat(f.p["column_factor"], self.lanes), f.splat(f.p["base"], self.lanes)
        loaded = [f.load(self.type, f.gep(self.sums["column"], n, "i32"), 4) for n in channels]
        return [f.add(f.mul(x, factor), base) for x in loaded]

    def _with_row(self, x: Value, row: Value) -> Value:
        """A sum with what its row of codes adds."""
        f = self.f
        if "row" not in self.sums:
            return x
        total = f.load("i32", f.gep(self.sums["row"], row, "i32"), 4)
        return f.add(x, f.splat(f.mul(total, f.p["row_factor"]), self.lanes))

    def _chunk(self, index: Value, count: Value, chunks: Value) -> tuple[Value, Value]:
        f = self.f
        return f.udiv(f.mul(count, index), chunks), f.udiv(f.mul(count, f.add(index, 1)), chunks)

    def _channels(self, block: Value, w: Value) -> tuple[list[Value], Value]:
        """First channel of each vector of a block (the last ones overlap rather than pass the end), and its weights."""
        f, lanes, vectors = self.f, self.lanes, self.tile.vectors
        n = f.p["n"]
        if not self.form.packed:
            # all vectors lie side by side: the whole last block overlaps the one before it
            first = f.mul(block, vectors * lanes)
            if not self.form.narrow:
                first = f.smin(first, f.sub(n, vectors * lanes))
            return [f.add(first, j * lanes) for j in range(vectors)], f.gep(w, first, "float")
        columns = f.udiv(f.add(n, lanes - 1), lanes)
        first = f.mul(f.smin(f.mul(block, vectors), f.sub(columns, vectors)), lanes)
        channels = [f.add(first, j * lanes) for j in range(vectors)]
        if not self.form.narrow:
            channels[-1] = f.smin(channels[-1], f.sub(n, lanes))
        return channels, f.gep(w, f.mul(f.mul(block, f.p["k"]), f.p["w_step"]))

    def _tile(
        self,
        x: Value,
        panel: Value,
        row: Value,
        channels: list[Value],
        index: Value,
        local: Value,
        part: _Part,
        ahead: Value | None,
    ) -> None:
        """Part `part` of row tile `index`, the chunk's `local`-th."""
        f, rows = self.f, self.tile.rows
        first = f.smin(f.mul(index, rows), f.sub(f.p["m"], rows))
        pointers = [row_pointer(f, x, f.p["x_rows"], f.add(first, r)) for r in range(rows)]
        with f.if_(part.ends) if part.ends else nullcontext():
            self._ask(f.add(row, first), channels[0])
        kept = self._kept(local) if self.form.parts else None
        sums = self._start(channels) * rows if kept is None else self._resume(kept, part)
        carried = [*sums, panel, ahead] if ahead else [*sums, panel]
        if self.form.taps:
            with f.loop(part.first, part.end, carried=carried, nonempty=True, name="tap") as tap:
                offset = f.load("i64", f.gep(f.p["taps"], tap.index, "i64"), 8)
                tap.next = self._run(pointers, offset, tap.values)
            carried = tap.results
        else:
            carried = self._run(pointers, f.const("i64", 0), carried)
        sums = carried[: len(sums)]
        if kept is None or part.ends is None:
            self._store(sums, row, first, channels)
            return
        with f.if_(part.ends):
            self._store(sums, row, first, channels)
        with f.if_(f.binary("xor", part.ends, f.const("i1", True))):
            for i, x in enumerate(sums):
                f.store(x, f.gep(kept, i, self.type), self.isa.bits // 8)

    def _ask(self, row: Value, channel: Value) -> None:
        """Asks for what the epilogue of the tile at output row `row` reads: it comes while sums are made."""
        f = self.f
        for r in range(self.tile.rows):
            for i, pointer in self.epilogue.row(f, f.add(row, r)).items():
                size = element_bytes(self.epilogue.operands[i - 1].type)
                at = f.gep(pointer, f.mul(channel, size))
                for line in range(0, self.tile.vectors * self.lanes * size, LINE):
                    f.prefetch(f.gep(at, line))

    def _kept(self, local: Value) -> Value:
        """Where this thread keeps the sums of a tile between parts."""
        f = self.f
        own = f.gep(f.p["kept"], f.mul(f.tid, f.p["kept_thread"]))
        return f.gep(own, f.mul(local, self.tile.rows * self.tile.vectors), self.type)

    def _resume(self, kept: Value, part: _Part) -> list[Value]:
        """The sums of a tile so far; zeros before the first part."""
        f, cells = self.f, self.tile.rows * self.tile.vectors
        at = f.select(part.begins, f.p["zeros"], kept) if part.begins else kept
        return [f.load(self.type, f.gep(at, i, self.type), self.isa.bits // 8) for i in range(cells)]

    def _run(self, pointers: list[Value], offset: Value, carried: list[Value]) -> list[Value]:
        """Adds the products of one run of channels, `offset` bytes behind the rows.

        Carries the sums, where `w` is read, and where it is prefetched.
        """
        f, unroll, cells = self.f, self.form.unroll, self.tile.rows * self.tile.vectors
        end = f.add(offset, f.mul(f.p["channels"], 4))
        with f.loop(offset, end, 4 * unroll, carried=carried, nonempty=True, name="c") as c:
            sums, w = c.values[:cells], c.values[cells]
            for line in range(self.form.prefetch):
                f.prefetch(f.gep(c.values[-1], line * LINE), SECOND_CACHE)
            for u in range(unroll):
                sums = self._products(pointers, c.index, 4 * u, w, sums)
                w = f.gep(w, f.p["w_step"] if not self.form.packed else self.tile.vectors * self.lanes * 4)
            c.next = [*sums, w, f.gep(c.values[-1], f.p["ahead"])] if self.form.prefetch else [*sums, w]
        return c.results

    def _products(self, pointers: list[Value], offset: Value, ahead: int, w: Value, sums: list[Value]) -> list[Value]:
        f, out = self.f, []
        weights = [f.load(self.weight_type, f.gep(w, j * self.lanes * 4), 4) for j in range(self.tile.vectors)]
        if self.form.arithmetic == "bytes":
            # 128 less, as signed bytes
            weights = [f.binary("xor", x, f.const(x.type, 0x80)) for x in weights]
        four = "float" if self.form.arithmetic == "float" else "i32"
        for r, pointer in enumerate(pointers):
            a = f.splat(f.load(four, f.gep(f.gep(pointer, offset), ahead), 1), self.lanes)
            a = f.convert("bitcast", a, self.weight_type)
            for j, weight in enumerate(weights):
                out.append(self._multiply(a, weight, sums[r * len(weights) + j]))
        return out

    def _multiply(self, a: Value, weight: Value, total: Value) -> Value:
        """`total` and the products of one cell of the tile."""
        f = self.f
        if self.form.arithmetic == "float":
            return f.intrinsic("llvm.fmuladd", self.type, a, weight, total)
        if self.form.arithmetic == "bytes":
            return self.isa.dot(f, total, a, weight)
        return f.add(total, pmaddwd(f, a, weight))

    def _store(self, sums: list[Value], row: Value, first: Value, channels: list[Value]) -> None:
        """Finishes a tile: rows `first ...` of a group whose rows start at output row `row`."""
        f, rows, vectors = self.f, self.tile.rows, self.tile.vectors
        operations = sum(1 for e in self.epilogue.expr.walk() if e.args)
        if not is_long(operations, rows * vectors):
            for j, n in enumerate(channels):
                leaves = self.epilogue.vectors(f, n, self.lanes)
                for r in range(rows):
                    own = f.add(first, r)
                    self._finish(self._with_row(sums[r * vectors + j], own), leaves, f.add(row, own), n)
            return
        stored = f.alloca(self.type, rows * vectors)
        for i, x in enumerate(sums):
            f.store(x, f.gep(stored, i, self.type), 64)
        with f.loop(0, rows, name="out") as line:
            own = f.add(first, line.index)
            for j, n in enumerate(channels):
                x = f.load(self.type, f.gep(stored, f.add(f.mul(line.index, vectors), j), self.type), 4)
                self._finish(self._with_row(x, own), self.epilogue.vectors(f, n, self.lanes), f.add(row, own), n)

    def _finish(self, x: Value, leaves: dict[int, Value], row: Value, n: Value) -> None:
        f = self.f
        tensors = self.epilogue.tensors(f, self.epilogue.row(f, row), n, self.lanes)
        result = self.epilogue.finish(f, self.isa, x, {**leaves, **tensors})
        at = f.gep(f.gep(f.p["out"], f.mul(row, f.p["out_row"])), f.mul(n, element_bytes(self.epilogue.type)))
        if self.form.narrow:
            store_lanes(f, result, at, f.p["n"], self.isa.masks)
        else:
            f.store(result, at)
