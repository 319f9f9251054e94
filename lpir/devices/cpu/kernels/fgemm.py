"""Matrix product with an epilogue: float32 convolutions of any rank, and MatMul of any two operands, float32 or u8.

For group `g`, row (output pixel) `m` and channel `n`:

    acc = sum_t sum_c x[x_groups[g] + rows(m) + taps[t] + 4 c] * w[g, t, c, n]      (fused multiply-add, k in order)
    out[row, channel] = epilogue(acc, operands)

A group is a group of a convolution (channel `g * N + n` of row `m`) or one matrix of a batch (row `g * M + m`). Rows of
`x`, of the output and of tensor operands are a byte stride or an int32 table of byte offsets (`Rows`).

`w` is packed when it is constant: `[G, blocks, K, vectors * lanes]`, so that a step of the inner loop reads one run.
Else it is read where it is, as rows of `[K, N]`.

The inner loop takes 4 bytes of a row of `x` at a time: a float; or 4 u8 codes ("bytes"); or 2 codes as int16 ("words",
where the dot product of bytes is not exact). Codes of `w` lie as `[K / 4, N, 4]` u8, 128 more than what is multiplied,
or as `[K / 2, N, 2]` int16. Zero points enter through sums of rows of `x` and of columns of `w`:

    sum (a - za)(b - zb) = sum a b - zb sum a - za sum b + K za zb

Reads are whole vectors: every buffer needs 64 readable bytes behind its end. The last row tile and the last vector
overlap their neighbors, so some outputs are computed and stored twice: the output must not share memory with an input.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.isa.dots import pmaddwd
from lpir.devices.cpu.kernels import tiling
from lpir.devices.cpu.kernels.base import Step
from lpir.devices.cpu.kernels.epilogue import (
    Bound,
    Epilogue,
    Operand,
    Rows,
    element_bytes,
    row_pointer,
    store_lanes,
)
from lpir.devices.cpu.kernels.pack import Array, channel_index
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.ops.lowered import expanded
from lpir.scalar.expr import Expr

# bytes of input rows that one unit of work may touch: they are read again for every block of columns
CACHE = 256 * 1024
# epilogues with more operations than this are printed once a vector, in a loop over stored sums
INLINE_EPILOGUE = 300


@dataclass(frozen=True, slots=True)
class Form:
    """What is compiled into a kernel besides its tile and epilogue.

    `packed`: how `w` lies in memory; `taps`: whether there is more than one run of channels; `narrow`: fewer channels
    than lanes; `x_table`: rows of `x` are found by a table; `unroll`: steps a round of the inner loop; `arithmetic`:
    "float", "bytes" or "words"; `row_sums`, `column_sums`: whether sums of codes are added.
    """

    packed: bool
    taps: bool
    narrow: bool
    x_table: bool
    unroll: int
    arithmetic: str = "float"
    row_sums: bool = False
    column_sums: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a product: groups, rows, channels a group, runs of input channels and their length in 4 bytes."""

    groups: int
    m: int
    n: int
    taps: int
    channels: int


@dataclass(frozen=True, slots=True)
class Call:
    """Buffers of one layer. `taps`: int64 byte offset of every run; `x_groups`, `w_groups`: int64 byte offset of every
    group; `batched`: whether groups follow each other as rows instead of as channels; `sums`: parameters of the sums of
    codes: int32 vectors `row_sums`, `column_sums`, int64 first elements of a group's `row_groups`, `column_groups`,
    factors `row_factor`, `column_factor`, and `base`, which is added where there are column sums."""

    x: Ref
    x_rows: Rows
    x_groups: Ref
    w: Ref
    w_groups: Ref
    taps: Ref
    out: Ref
    operands: Sequence[Bound]
    batched: bool
    sums: Mapping[str, int | Ref] = field(default_factory=dict)


def choose_tile(isa: Isa, shape: Shape, packed: bool, operations: int) -> Tile:
    """The register tile. Where `w` is not packed, all vectors of a block lie side by side."""
    widest = shape.n if packed else max(shape.n // isa.lanes(), 1) * isa.lanes()
    return tiling.choose_tile(isa, shape.m, widest, shape.taps * shape.channels, 1.0, operations + 2.0, 1)


def pack(w: Array, isa: Isa, tile: Tile) -> Array:
    """`w` [G, K, N] float32 as `[G, blocks, K, vectors * lanes]`."""
    groups, k, n = w.shape
    index = channel_index(n, isa.lanes(), tile.vectors).reshape(-1, tile.vectors * isa.lanes())
    padded = np.zeros((groups, k, n + 1), np.float32)
    padded[:, :, :n] = w
    # lane -1 takes the zero column
    return np.ascontiguousarray(padded[:, :, index].transpose(0, 2, 1, 3))


def unroll_of(tile: Tile, channels: int) -> int:
    """Steps a round of the inner loop: small tiles need more, to hide its overhead."""
    cells = tile.rows * tile.vectors
    wanted = 1 if cells > 12 else 2 if cells > 6 else 4
    return max(u for u in (1, 2, 4) if u <= wanted and channels % u == 0)


def step(
    isa: Isa,
    shape: Shape,
    tile: Tile,
    form: Form,
    epilogue: Expr,
    operands: Sequence[Operand],
    call: Call,
    threads: int,
) -> Step:
    """The step that computes a product."""
    made, printer = kernel(isa, tile, form, epilogue, tuple(operands))
    lanes = isa.lanes()
    columns = -(-shape.n // lanes)
    tiles, blocks = -(-shape.m // tile.rows), -(-columns // tile.vectors)
    k = shape.taps * shape.channels
    mc, nc = tiling.choose_chunks(shape.groups, tiles, blocks, tile.rows * k * 4, threads, CACHE)
    values: dict[str, int | float | F32 | Ref] = {
        **{"x": call.x, "x_rows": call.x_rows.table or call.x_rows.stride, "x_groups": call.x_groups},
        **{"w": call.w, "w_groups": call.w_groups, "w_step": tile.vectors * lanes * 4 if form.packed else shape.n * 4},
        **{"out": call.out, "m": shape.m, "n": shape.n, "channels": shape.channels, "k": k, "groups": shape.groups},
        **{"row_group": shape.m if call.batched else 0, "channel_group": 0 if call.batched else shape.n},
        **{"out_row": shape.n * (1 if call.batched else shape.groups) * element_bytes(printer.type)},
        **{"m_tiles": tiles, "n_blocks": blocks, "m_chunks": mc, "n_chunks": nc},
        **printer.values(call.operands),
    }
    if form.taps:
        values |= {"taps": call.taps, "tap_count": shape.taps}
    values |= call.sums
    return Step.of(made, values)


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
                with f.loop(*tiles, name="tile") as tile:
                    self._tile(x, panel, row, [f.add(channel, c) for c in channels], tile.index)
        return f.kernel()

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

    def _tile(self, x: Value, panel: Value, row: Value, channels: list[Value], index: Value) -> None:
        f, rows = self.f, self.tile.rows
        first = f.smin(f.mul(index, rows), f.sub(f.p["m"], rows))
        pointers = [row_pointer(f, x, f.p["x_rows"], f.add(first, r)) for r in range(rows)]
        sums = self._start(channels) * rows
        if self.form.taps:
            with f.loop(0, f.p["tap_count"], carried=[panel, *sums], nonempty=True, name="tap") as tap:
                offset = f.load("i64", f.gep(f.p["taps"], tap.index, "i64"), 8)
                tap.next = self._run(pointers, offset, tap.values)
            sums = tap.results[1:]
        else:
            sums = self._run(pointers, f.const("i64", 0), [panel, *sums])[1:]
        self._store(sums, row, first, channels)

    def _run(self, pointers: list[Value], offset: Value, carried: list[Value]) -> list[Value]:
        """Adds the products of one run of channels, `offset` bytes behind the rows. Carries `w` and the sums."""
        f, unroll = self.f, self.form.unroll
        end = f.add(offset, f.mul(f.p["channels"], 4))
        with f.loop(offset, end, 4 * unroll, carried=carried, nonempty=True, name="c") as c:
            w, sums = c.values[0], c.values[1:]
            for u in range(unroll):
                sums = self._products(pointers, c.index, 4 * u, w, sums)
                w = f.gep(w, f.p["w_step"] if not self.form.packed else self.tile.vectors * self.lanes * 4)
            c.next = [w, *sums]
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
            return f.intrinsic("llvm.fma", self.type, a, weight, total)
        if self.form.arithmetic == "bytes":
            return self.isa.dot(f, total, a, weight)
        return f.add(total, pmaddwd(f, a, weight))

    def _store(self, sums: list[Value], row: Value, first: Value, channels: list[Value]) -> None:
        """Finishes a tile: rows `first ...` of a group whose rows start at output row `row`."""
        f, rows, vectors = self.f, self.tile.rows, self.tile.vectors
        operations = sum(1 for e in self.epilogue.expr.walk() if e.args)
        if operations * rows * vectors <= INLINE_EPILOGUE:
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
