"""Prints the attention kernel: for each head, blocks of rows of scores that stay in the first-level cache.

A unit of work is a run of row blocks of one head. For a unit the thread packs what it reads again for every block into
its own memory: k as `[steps, columns]` elements of 4 bytes (floats, or 4 codes) so that a step of the inner loop is one
run of vectors, and v as `[blocks, N, vectors * lanes]` floats. Then, for each block of rows:

1. sums of products of q and k, into the block: a register tile at a time, or in AMX's tile registers;
2. for every row: the `scores` expression and the largest score, then `exp(score - largest)` in place, and the
   reciprocal of their sum (`attention_softmax`);
3. the product with v, times that reciprocal, through the epilogue, to the output; in vectors, or in tile registers
   (`attention_parts`).

Codes of k are stored 128 less, as signed bytes. Zero points enter through sums of columns of k and of rows of q:

    sum (q - zq)(k - zk) = sum q k' - zq sum k' - right sum q + D zq right        k' = k - 128, right = zk - 128

Where the dot product of bytes is not exact for all bytes, k is stored as pairs of int16 vectors (`word_dot`).
"""

from __future__ import annotations

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.isa.dots import as_words, word_dot
from lpir.devices.cpu.kernels import attention_parts, attention_tiles
from lpir.devices.cpu.kernels.attention_softmax import Softmax
from lpir.devices.cpu.kernels.copy import transposed
from lpir.devices.cpu.kernels.epilogue import Epilogue, element_bytes, store_lanes
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.record import record


@record
class Form:
    """What is compiled in. `arithmetic` of the scores: "float", "bytes", "words" or AMX's "tiles"; `tail`: N is no
    multiple of the lanes; `narrow`: E is less than the lanes; `block`: side of the blocks in which k is transposed, 0:
    one by one; `rows`, `columns`: whether sums of q's rows and of k's columns are added; `unroll`, `unroll_v`: steps a
    round; `single`: one step of tiles; `parts`: powers and v are sums of bfloat16."""

    arithmetic: str
    tail: bool
    narrow: bool
    block: int
    rows: bool
    columns: bool
    unroll: int
    unroll_v: int
    single: bool = False
    parts: bool = False


_SIZES = (
    *("heads", "units", "chunks", "blocks", "block_rows", "m", "n", "steps", "columns", "e"),
    *("q_batch", "q_head", "q_row", "k_batch", "k_head", "k_row", "v_batch", "v_head", "v_row"),
    *("out_batch", "out_head", "out_row", "out_bytes", "scratch_step", "at_v", "at_scores", "at_sums"),
)
_TILE_SIZES, _PART_SIZES = ("tile_rows", "depth"), ("at_powers", "slots")


class Printer:
    """Prints one kernel. Parameters: pointers, `_SIZES` (strides of q, k, v in bytes; of the output in rows), int32
    `q_zero`, `right` and `base`, those of the two epilogues; for tiles their `config`, rows, and bytes a step."""

    def __init__(self, isa: Isa, tile: Tile, tile_v: Tile, scores: Epilogue, epilogue: Epilogue, form: Form) -> None:
        self.isa, self.tile, self.tile_v, self.form = isa, tile, tile_v, form
        self.scores, self.epilogue = scores, epilogue
        self.lanes = isa.lanes()
        self.floats, self.ints = vector_of("float", self.lanes), vector_of("i32", self.lanes)
        self.bytes = vector_of("i8", 4 * self.lanes)
        self.words = vector_of("i16", 2 * self.lanes)
        # bytes of packed k for a vector of columns and a step
        self.width = self.lanes * 4 * (2 if form.arithmetic == "words" else 1)
        params = {
            **dict.fromkeys(("q", "k", "v", "out", "scratch"), "ptr"),
            **dict.fromkeys(_SIZES, "i64"),
            **dict.fromkeys(("q_zero", "right", "base"), "i32"),
            **({"config": "ptr"} | dict.fromkeys(_TILE_SIZES, "i64") if form.arithmetic == "tiles" else {}),
            **(dict.fromkeys(_PART_SIZES, "i64") if form.parts else {}),
            **scores.params(),
            **epilogue.params(),
        }
        name = f"attention_{form.arithmetic}_{isa.name}_{tile.rows}x{tile.vectors}_{tile_v.rows}x{tile_v.vectors}"
        self.f = Function(name, params, optimize=False)

    def kernel(self) -> Kernel:
        f, p = self.f, self.f.p
        self.scores.start(f, self.lanes)
        self.epilogue.start(f, self.lanes)
        scratch = f.gep(p["scratch"], f.mul(f.tid, p["scratch_step"]))
        self.k, self.v = scratch, f.gep(scratch, p["at_v"])
        self.block, self.sums = f.gep(scratch, p["at_scores"]), f.gep(scratch, p["at_sums"])
        # behind the sums of a block's rows: what the sums of products start from
        self.init = f.gep(self.sums, p["block_rows"], "float")
        self.pitch = f.mul(p["columns"], 4)
        parts, tiles = self.form.parts, self.form.arithmetic == "tiles"
        most = attention_parts.ROWS if parts else 0
        softmax = Softmax(f, self.isa, self.scores, self.block, self.sums, self.form.tail, most)
        if tiles:
            attention_tiles.configure(f)
        if parts:
            powers = f.gep(scratch, p["at_powers"])
            values = attention_parts.Values(f, softmax, powers, self.v)
            # codes of q are multiplied 64 at a time, those of the next head by zeros
            f.memset(self.k, f.const("i8", 0), p["at_v"])
        with f.loop(*f.my_range(f.mul(p["units"], p["chunks"])), name="unit") as unit:
            which, chunk = f.udiv(unit.index, p["chunks"]), f.urem(unit.index, p["chunks"])
            batch, head = f.udiv(which, p["heads"]), f.urem(which, p["heads"])
            q, k, v = (self._of_head(x, batch, head) for x in ("q", "k", "v"))
            self._pack_k(k)
            if parts:
                attention_parts.pack_values(f, v, self.v, self.form.tail)
            else:
                self._pack_v(v)
            # number of the head's first row among the rows of scores, and of the output
            score_row = f.mul(which, p["m"])
            out_row = f.add(f.mul(batch, p["out_batch"]), f.mul(head, p["out_head"]))
            first = f.udiv(f.mul(p["blocks"], chunk), p["chunks"])
            last = f.udiv(f.mul(p["blocks"], f.add(chunk, 1)), p["chunks"])
            with f.loop(first, last, name="block") as block:
                row = f.smin(f.mul(block.index, p["block_rows"]), f.sub(p["m"], p["block_rows"]))
                first_row = f.gep(q, f.mul(row, p["q_row"]))
                if tiles:
                    start = self.init if self.form.columns else None
                    attention_tiles.multiply(f, first_row, self.k, self.block, start, self.form.single)
                else:
                    self._products_of_block(first_row)
                own_row = f.add(out_row, f.mul(row, p["out_row"]))
                if parts:
                    softmax.score_rows(f.add(score_row, row))
                    self._values_of_parts(values, own_row)
                else:
                    softmax.block(f.add(score_row, row))
                    self._values(own_row)
        if tiles:
            attention_tiles.release(f)
        return f.kernel()

    def _of_head(self, name: str, batch: Value, head: Value) -> Value:
        f, p = self.f, self.f.p
        return f.gep(p[name], f.add(f.mul(batch, p[f"{name}_batch"]), f.mul(head, p[f"{name}_head"])))

    # -- packing ------------------------------------------------------------------------------------------------------

    def _pack_k(self, k: Value) -> None:
        f, p, side = self.f, self.f.p, self.form.block
        if side:
            type = vector_of("i32", side)
            # the last block of a row or a column overlaps the one before it
            with f.loop(0, p["n"], side, name="kn") as n, f.loop(0, p["steps"], side, name="ks") as s:
                column, step = f.smin(n.index, f.sub(p["n"], side)), f.smin(s.index, f.sub(p["steps"], side))
                source = f.gep(f.gep(k, f.mul(column, p["k_row"])), step, "i32")
                lines = [f.load(type, f.gep(source, f.mul(p["k_row"], i))) for i in range(side)]
                to = f.gep(f.gep(self.k, f.mul(step, self.pitch)), column, "i32")
                for i, line in enumerate(transposed(f, lines, 4)):
                    f.store(line, f.gep(to, f.mul(self.pitch, i)))
        else:
            with f.loop(0, p["n"], name="kn") as n, f.loop(0, p["steps"], name="ks") as s:
                x = f.load("i32", f.gep(f.gep(k, f.mul(n.index, p["k_row"])), s.index, "i32"))
                f.store(x, f.gep(f.gep(self.k, f.mul(s.index, self.pitch)), n.index, "i32"))
        if self.form.arithmetic != "float":
            self._sign_codes()

    def _sign_codes(self) -> None:
        """Codes 128 less, as int16 where words are multiplied; and the sums of the columns."""
        f, p, form = self.f, self.f.p, self.form
        ones = f.const(self.bytes, 1)
        with f.loop(0, p["columns"], self.lanes, name="kc") as c:
            at = f.gep(self.k, c.index, "i32")
            with f.loop(0, p["steps"], carried=[f.zeros(self.ints)], name="ks") as s:
                here = f.gep(at, f.mul(s.index, self.pitch))
                signed = f.binary("xor", f.load(self.bytes, here, 1), f.const(self.bytes, 0x80))
                f.store(signed, here, 1)
                s.next = [self.isa.dot(f, s.values[0], ones, signed) if form.columns else s.values[0]]
            if form.columns:
                zero, base = f.splat(p["q_zero"], self.lanes), f.splat(p["base"], self.lanes)
                f.store(f.sub(base, f.mul(s.results[0], zero)), f.gep(self.init, c.index, "i32"), 4)
        if form.arithmetic == "words":
            self._widen()

    def _widen(self) -> None:
        """Bytes 0 and 2 of every 4 as one vector of int16, bytes 1 and 3 as the next; from the end, in place."""
        f, p = self.f, self.f.p
        count = f.udiv(f.mul(p["steps"], p["columns"]), self.lanes)
        with f.loop(0, count, name="wide") as i:
            place = f.sub(f.sub(count, 1), i.index)
            pairs = f.load(self.words, f.gep(self.k, f.mul(place, self.lanes * 4)), 1)
            eight = f.const(self.words, 8)
            high = f.binary("ashr", pairs, eight)
            low = f.binary("ashr", f.binary("shl", pairs, eight), eight)
            to = f.gep(self.k, f.mul(place, self.lanes * 8))
            f.store(low, to, 1)
            f.store(high, f.gep(to, self.lanes * 4), 1)

    def _pack_v(self, v: Value) -> None:
        f, p = self.f, self.f.p
        vectors = self.tile_v.vectors
        with f.loop(0, self._value_blocks(), name="vb") as b:
            channels = self._channels(b.index, p["e"], vectors, self.form.narrow)
            to = f.gep(self.v, f.mul(f.mul(b.index, p["n"]), vectors * self.lanes * 4))
            with f.loop(0, p["n"], name="vn") as n:
                row = f.gep(v, f.mul(n.index, p["v_row"]))
                line = f.gep(to, f.mul(n.index, vectors * self.lanes * 4))
                for j, channel in enumerate(channels):
                    f.store(f.load(self.floats, f.gep(row, channel, "float"), 4), f.gep(line, j * self.lanes * 4), 4)

    def _value_blocks(self) -> Value:
        f, width = self.f, self.tile_v.vectors * self.lanes
        return f.udiv(f.add(f.p["e"], width - 1), width)

    def _channels(self, block: Value, n: Value, vectors: int, narrow: bool) -> list[Value]:
        """First channel of each vector of a block: the last ones overlap rather than pass the end."""
        f, lanes = self.f, self.lanes
        columns = f.udiv(f.add(n, lanes - 1), lanes)
        first = f.mul(f.smin(f.mul(block, vectors), f.sub(columns, vectors)), lanes)
        channels = [f.add(first, j * lanes) for j in range(vectors)]
        if not narrow:
            channels[-1] = f.smin(channels[-1], f.sub(n, lanes))
        return channels

    # -- products of q and k ------------------------------------------------------------------------------------------

    def _products_of_block(self, q: Value) -> None:
        """Sums of products of a block whose first row is at `q`."""
        f, p, tile = self.f, self.f.p, self.tile
        width = tile.vectors * self.lanes
        blocks = f.udiv(f.add(p["columns"], width - 1), width)
        with f.loop(0, blocks, name="sb") as b:
            channels = self._channels(b.index, p["columns"], tile.vectors, False)
            with f.loop(0, p["block_rows"], tile.rows, name="sr") as r:
                first = f.smin(r.index, f.sub(p["block_rows"], tile.rows))
                rows = [f.add(first, i) for i in range(tile.rows)]
                pointers = [f.gep(q, f.mul(i, p["q_row"])) for i in rows]
                sums = self._products(pointers, channels)
                for i, own in enumerate(rows):
                    for j, n in enumerate(channels):
                        f.store(sums[i * len(channels) + j], f.gep(self._line(own), n, "float"), 4)

    def _line(self, row: Value) -> Value:
        return self.f.gep(self.block, self.f.mul(row, self.pitch))

    def _products(self, pointers: list[Value], channels: list[Value]) -> list[Value]:
        """Sums of products of rows of q with columns of k, row by row."""
        f, p, form = self.f, self.f.p, self.form
        type = self.floats if form.arithmetic == "float" else self.ints
        start = [f.zeros(type)] * len(channels)
        if form.columns:
            start = [f.load(type, f.gep(self.init, n, "i32"), 4) for n in channels]
        places = [f.gep(self.k, f.mul(n, self.width // self.lanes)) for n in channels]
        extra = [f.zeros(type)] * len(pointers) if form.rows else []
        step_bytes = f.mul(p["columns"], self.width // self.lanes)
        with f.loop(0, p["steps"], form.unroll, carried=[*start * len(pointers), *extra], nonempty=True, name="s") as s:
            values = s.values
            for u in range(form.unroll):
                index = f.add(s.index, u)
                shift = f.mul(index, step_bytes)
                weights = [self._weights(f.gep(at, shift)) for at in places]
                heads = [
                    f.load("float" if form.arithmetic == "float" else "i32", f.gep(x, index, "i32"), 1)
                    for x in pointers
                ]
                values = self._step([f.splat(x, self.lanes) for x in heads], weights, values)
            s.next = values
        count = len(pointers) * len(channels)
        sums = s.results[:count]
        if not form.rows:
            return sums
        right = f.splat(p["right"], self.lanes)
        less = [f.mul(x, right) for x in s.results[count:]]
        return [f.sub(x, less[i // len(channels)]) for i, x in enumerate(sums)]

    def _weights(self, at: Value) -> list[Value]:
        if self.form.arithmetic == "words":
            return [self.f.load(self.words, self.f.gep(at, i * self.lanes * 4), 1) for i in range(2)]
        return [self.f.load(self.floats if self.form.arithmetic == "float" else self.bytes, at, 1)]

    def _step(self, rows: list[Value], weights: list[list[Value]], sums: list[Value]) -> list[Value]:
        """`sums` and one step of products; behind them the sums of the rows' codes, where there are any."""
        f, arithmetic = self.f, self.form.arithmetic
        out: list[Value] = []
        count = len(rows) * len(weights)
        for i, a in enumerate(rows):
            for j, w in enumerate(weights):
                total = sums[i * len(weights) + j]
                if arithmetic == "float":
                    out.append(f.intrinsic("llvm.fmuladd", self.floats, a, w[0], total))
                else:
                    out.append(self._dot(total, a, w))
        ones = [f.const(self.words, 1)] * 2 if arithmetic == "words" else [f.const(self.bytes, 1)]
        return [*out, *(self._dot(total, a, ones) for total, a in zip(sums[count:], rows, strict=False))]

    def _dot(self, total: Value, a: Value, w: list[Value]) -> Value:
        """`total` and the products of 4 codes of a row, spread as int32, with those of each column."""
        f = self.f
        codes = f.convert("bitcast", a, self.bytes)
        if len(w) == 1:
            return self.isa.dot(f, total, codes, w[0])
        return word_dot(f, total, as_words(f, codes), (w[0], w[1]))

    # -- values -------------------------------------------------------------------------------------------------------

    def _values(self, row: Value) -> None:
        """The product of a block with v; its first row is number `row` of the output."""
        f, p, tile, unroll = self.f, self.f.p, self.tile_v, self.form.unroll_v
        width = tile.vectors * self.lanes * 4
        with f.loop(0, self._value_blocks(), name="vb") as b:
            channels = self._channels(b.index, p["e"], tile.vectors, self.form.narrow)
            v = f.gep(self.v, f.mul(f.mul(b.index, p["n"]), width))
            with f.loop(0, p["block_rows"], tile.rows, name="vr") as r:
                first = f.smin(r.index, f.sub(p["block_rows"], tile.rows))
                rows = [f.add(first, i) for i in range(tile.rows)]
                lines = [self._line(i) for i in rows]
                zeros = [f.zeros(self.floats)] * (tile.rows * tile.vectors)
                with f.loop(0, p["n"], unroll, carried=zeros, nonempty=True, name="n") as n:
                    sums = n.values
                    for u in range(unroll):
                        index = f.add(n.index, u)
                        at = f.gep(v, f.mul(index, width))
                        loaded = [f.load(self.floats, f.gep(at, j * self.lanes * 4), 4) for j in range(tile.vectors)]
                        heads = [f.splat(f.load("float", f.gep(x, index, "float"), 4), self.lanes) for x in lines]
                        pairs = [(a, w) for a in heads for w in loaded]
                        sums = [
                            f.intrinsic("llvm.fmuladd", self.floats, *x, t) for t, x in zip(sums, pairs, strict=True)
                        ]
                    n.next = sums
                self._store(n.results, rows, row, channels)

    def _values_of_parts(self, values: attention_parts.Values, row: Value) -> None:
        """The same in tile registers: powers are computed on the way."""
        f, p, lanes = self.f, self.f.p, self.lanes
        # of 16 columns both tiles are the same
        first = [f.const("i64", 0), f.smin(f.sub(p["e"], lanes), lanes)]
        values.powers_and_products(first)
        values.softmax.shares()
        self._store_block(values, row, first)
        with f.loop(2 * lanes, p["e"], 2 * lanes, name="vb") as b:
            channels = [f.smin(f.add(b.index, i * lanes), f.sub(p["e"], lanes)) for i in range(2)]
            values.products(channels)
            self._store_block(values, row, channels)

    def _store_block(self, values: attention_parts.Values, row: Value, channels: list[Value]) -> None:
        f = self.f
        with f.loop(0, f.p["block_rows"], self.tile_v.rows, nonempty=True, name="vr") as r:
            rows = [f.add(r.index, i) for i in range(self.tile_v.rows)]
            self._store(values.rows(rows), rows, row, channels)

    def _store(self, sums: list[Value], rows: list[Value], row: Value, channels: list[Value]) -> None:
        f, p, e = self.f, self.f.p, self.epilogue
        for i, own in enumerate(rows):
            share = f.splat(f.load("float", f.gep(self.sums, own, "float"), 4), self.lanes)
            number = f.add(row, f.mul(own, p["out_row"]))
            line, out = e.row(f, number), f.gep(p["out"], f.mul(number, p["out_bytes"]))
            for j, n in enumerate(channels):
                leaves = {**e.vectors(f, n, self.lanes), **e.tensors(f, line, n, self.lanes)}
                x = e.finish(f, self.isa, f.fmul(sums[i * len(channels) + j], share), leaves)
                at = f.gep(out, f.mul(n, element_bytes(e.type)))
                if self.form.narrow:
                    store_lanes(f, x, at, p["e"], self.isa.masks)
                else:
                    f.store(x, at)
