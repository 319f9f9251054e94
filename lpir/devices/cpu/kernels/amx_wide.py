"""INT8 product of few steps in AMX's tile registers: blocks of 64 channels, whose rows leave as whole cache lines.

What `amx_gemm` computes, to the same bits, for one run of channels a row, with results of 8 bits and no tensor among
the epilogue's operands. Rows are at one distance, or at least those of a tile are, and tiles follow each other in the
output. Where K is small, most of the time goes to finishing sums, and to waiting between the instructions of tiles:

* A *quad* is four vectors of sums that are finished and packed together: a row of 64 channels, or, for the channels
  that are left, two rows of 32 or four of 16. Weights, scales and biases are stored in the order that packing restores,
  so a row of 64 results is one store without a shuffle before it.
* Where one step is all, its weights stay in tile registers, and a tile is stored two products after its own: a store of
  the tile multiplied last waits for it, and so does the product behind.

    gemm = amx_wide.build(isa, offsets, n=144, length=24, epilogue=finish)
    weights, sums = gemm.pack_wide(w)            # w [length, N] i8
    words = gemm.params(Call(...), threads=2)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref, Word
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.vector import concat, from_memory, memory_type, split
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import amx_gemm
from lpir.devices.cpu.kernels.amx_blocks import DEPTH, LANES, LINE, Ahead, Array, beside
from lpir.devices.cpu.kernels.amx_gemm import Call, TileGemm
from lpir.devices.cpu.kernels.amx_print import TilePrinter
from lpir.devices.cpu.kernels.amx_rows import MOST, TileRows, tile_rows
from lpir.devices.cpu.kernels.epilogue import Epilogue
from lpir.devices.cpu.kernels.interleave import pack_bytes
from lpir.devices.cpu.kernels.pack import with_slack
from lpir.record import record

TILES = 4  # of a quad
WIDE = TILES * LANES  # channels of a block
QUAD_BYTES = WIDE * 4
TOGETHER = 2  # quads that are finished side by side: their operations hide each other's latency
MOST_STEPS = 3
# of rows and results that stay in the first cache from block to block
CHUNK_BYTES = 24 * 1024
# weights that an inference has displaced from a core's own caches before it comes back to them
FAR_WEIGHTS = 48 * 1024
# how many times four tiles are multiplied before their sums are finished, where blocks are whole: 2 or 4 times
MOST_STAGES = 4
LAG = 2  # products between that of a tile and its store
# operations a vector that pack it: 3 for each 4, and a store without a shuffle
PACKING = 1


@record
class WideForm:
    """What is compiled in: `single` step; whether there are blocks of 64 channels, and tiles of the rest (0, 1, 2).

    `stages`: how many times four tiles of the rest are multiplied before their sums are finished.
    `linear`: all rows are at one distance.
    """

    single: bool
    whole: bool
    rest: int
    stages: int
    linear: bool


@record
class WideGemm(TileGemm):
    """A kernel for one shape class, and the shape that `params` fills in."""

    wide: WideForm

    @property
    def whole(self) -> int:
        """Number of blocks of 64 channels; the last one overlaps where there are no tiles of the rest."""
        return (self.n - LANES * self.wide.rest + WIDE - 1) // WIDE if self.wide.whole else 0

    @property
    def order(self) -> Array:
        """The channel of each lane of all tiles, the rest's behind those of whole blocks."""
        starts = np.minimum(np.arange(self.whole) * WIDE, self.n - WIDE)
        rest = self.n - LANES * self.wide.rest + _lanes(self.wide.rest)
        return np.concatenate([*(start + _lanes(TILES) for start in starts), rest])

    @property
    def starts(self) -> Array:
        """Where listed tiles start; the kernel reads, and does not use, tiles behind the last ones of two a block."""
        assert self.rows.starts is not None
        return np.pad(self.rows.starts, (0, MOST_STAGES - 2), mode="edge")

    def pack_wide(self, w: Array) -> tuple[Array, Array]:
        """`w` [length, N] i8 as bytes [blocks, steps, tiles, depth / 4, 16, 4], and each lane's sum of weights."""
        padded = np.zeros((len(self.offsets) * self.depth, self.n), np.int8)
        padded[: self.length] = w
        # [steps, depth / 4, 4, tiles, 16]
        lanes = padded[:, self.order].reshape(len(self.offsets), self.depth // 4, 4, -1, LANES)
        cuts = range(0, self.whole * TILES + 1, TILES)
        parts = [lanes[:, :, :, a:b] for a, b in itertools.pairwise([*cuts, lanes.shape[3]])]
        packed = [np.ascontiguousarray(part.transpose(0, 3, 1, 4, 2)).reshape(-1) for part in parts]
        return with_slack(np.concatenate(packed)), w.sum(axis=0, dtype=np.int32)[self.order]

    def chunk(self, pairs: int, blocks: int) -> int:
        if self.ahead.lines:
            # each block's weights pass once
            return pairs
        return min(pairs, max(1, CHUNK_BYTES // (self.rows.height * (self.length + self.n))))

    def params(self, call: Call, threads: int) -> list[Word]:
        rows = self.rows
        units = -(-self.m // rows.height)
        mc, nc = self.chunks(units, max(1, self.whole), threads)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": call.x, "x_stride": rows.stride, "w": call.weights, "init": call.init, "config": call.config},
            **{"out": call.out, "out_stride": call.out_stride, "m": self.m, "n": self.n},
            **{"steps": len(self.offsets), "depth": self.depth, "rows": rows.rows, "down": rows.down},
            **{"units": units, "blocks": self.whole, "m_chunks": mc, "n_chunks": nc},
            **{"beside": LINE * self.ahead.lines, "every": self.ahead.every},
            **self.epilogue.values(call.operands),
        }
        if not self.wide.linear:
            values["starts"] = call.starts
        return self.kernel.words(values)

    def config(self) -> Array:
        shapes = _Tiles(self.wide)
        data = np.zeros(amx_gemm.CONFIG_BYTES, np.uint8)
        data[0] = 1
        for tile in range(8):
            is_row, is_weights = tile in shapes.rows, tile in shapes.weights
            data[16 + 2 * tile] = self.depth if is_row else 4 * LANES
            data[48 + tile] = self.depth // 4 if is_weights else self.rows.rows
        return data


class _Tiles:
    """Which tile registers hold sums, rows and weights; those of a single step stay in theirs."""

    def __init__(self, form: WideForm) -> None:
        weights = (TILES if form.whole else form.rest) if form.single else 2
        self.sums = range(3 if form.single else 4)
        self.weights = range(8 - weights, 8)
        self.rows = range(self.sums.stop, self.weights.start)


def _lanes(tiles: int) -> Array:
    """Channel of each lane of `tiles` tiles side by side, so that packing quads leaves them in order."""
    lane = np.arange(LANES)
    return np.asarray(4 * tiles * (lane // 4) + 4 * np.arange(tiles)[:, None] + lane % 4).reshape(-1)


def refuse(offsets: Array, n: int, length: int, epilogue: Epilogue) -> str | None:
    """Why the kernel is not for pixels at byte `offsets`, `n` channels and sums over `length`, or None."""
    m = len(offsets)
    if not epilogue.ends_in_bytes:
        return "results are not 8 bits"
    if any(o.kind == "tensor" for o in epilogue.operands):
        return "a tensor is added"
    if -(-length // DEPTH) > MOST_STEPS:
        return f"{length} products a sum are more than few"
    rest = rest_tiles(n)
    if n < LANES * rest:
        return f"{n} channels are fewer than {rest} tiles hold"
    if m < 2 * MOST or (rest == 1 and m < TILES * MOST):
        return f"{m} rows are too few"
    return None if _tile_rows(offsets, n, length) else "rows do not come in whole tiles"


def rest_tiles(n: int) -> int:
    """Tiles for the channels behind the last whole block: 0 to 2, or 4 where another block is as good."""
    tiles = -(-(n % WIDE) // LANES)
    return tiles if tiles < 3 else TILES


def _tile_rows(offsets: Array, n: int, length: int) -> TileRows | None:
    """The tiles of rows that need the fewest, or None."""
    # rows of the rest's tiles are multiplied together
    least = TILES // rest_tiles(n) if n % WIDE else 1
    # of one step, sums of several stages are finished together also where channels are fewer than a block's
    stage = TILES // rest_tiles(n) if n < WIDE and length <= DEPTH else 1
    found = [tile_rows(offsets, down) for down in sorted({4 * stage, 2 * stage, 4, 2}, reverse=True)]
    usable = [r for r in found if r.linear or (r.down >= least and _follow(r))]
    return min(usable, key=lambda r: r.tiles * r.rows, default=None)


def _follow(rows: TileRows) -> bool:
    """Whether the pixels of listed tiles are all pixels in order."""
    return rows.pixels is not None and np.array_equal(rows.pixels.reshape(-1), np.arange(rows.pixels.size))


def build(isa: Isa, offsets: Array, n: int, length: int, epilogue: Epilogue) -> WideGemm:
    """The kernel for what `refuse` does not refuse."""
    rows = _tile_rows(offsets, n, length)
    assert rows is not None
    panel = -(-length // 4) * QUAD_BYTES
    ahead = Ahead(0, 0, rows.height)
    if panel * n // WIDE > FAR_WEIGHTS:
        ahead = beside(-(-panel // LINE), -(-len(offsets) // rows.height), rows.height, TOGETHER, panel)
    rest = rest_tiles(n) % TILES
    wide = WideForm(length <= DEPTH, n >= WIDE, rest, max(1, rows.down * rest // TILES), rows.linear)
    kernel = _print(isa, wide, epilogue)
    size = int(offsets[-1]) + length
    return WideGemm(rows, len(offsets), n, (0,), length, 1, size, TILES, False, ahead, kernel, epilogue, wide)


@functools.lru_cache(maxsize=256)
def _print(isa: Isa, form: WideForm, epilogue: Epilogue) -> Kernel:
    return _Printer(isa, form, epilogue).kernel()


class _Printer(TilePrinter):
    """Prints one kernel. A unit is two quads of each row of a tile where channels are whole blocks, else one."""

    def __init__(self, isa: Isa, form: WideForm, epilogue: Epilogue) -> None:
        self.isa, self.form, self.epilogue = isa, form, epilogue
        numbers = ["x_stride", "out_stride", "m", "n", "steps", "depth", "rows", "down"]
        numbers += ["units", "blocks", "m_chunks", "n_chunks", "beside", "every"]
        pointers = ["x", "w", "init", "config", "out", *([] if form.linear else ["starts"])]
        params = dict.fromkeys(pointers, "ptr") | dict.fromkeys(numbers, "i64")
        self.tiles = _Tiles(form)
        name = f"amx_wide_{'one' if form.single else 'few'}_{TILES * form.whole}_{form.rest}"
        super().__init__(Function(name, params | epilogue.params(), optimize=False))
        self.sums = self.f.alloca("i8", MOST_STAGES * MOST * QUAD_BYTES)
        self.pitch = self.f.const("i64", QUAD_BYTES)

    def kernel(self) -> Kernel:
        f, p = self.f, self.f.p
        self.tile("ldtilecfg", p["config"])
        self.epilogue.start(f, TOGETHER * WIDE)
        self.weight_bytes = f.mul(p["depth"], LANES)
        self.row_bytes = f.mul(p["rows"], p["x_stride"])
        first, last = f.my_range(f.mul(p["m_chunks"], p["n_chunks"]))
        with f.loop(first, last, name="unit") as unit:
            mc, nc = f.udiv(unit.index, p["n_chunks"]), f.urem(unit.index, p["n_chunks"])
            begin, end = (
                f.smin(f.mul(u, f.mul(p["rows"], p["down"])), p["m"]) for u in self.chunk(mc, "units", "m_chunks")
            )
            if self.form.whole:
                with f.loop(*self.chunk(nc, "blocks", "n_chunks"), name="block") as block:
                    channel = f.smin(f.mul(block.index, WIDE), f.sub(p["n"], WIDE))
                    self.rows(begin, end, block.index, channel, TILES)
            if self.form.rest:
                with f.if_(f.icmp("eq", f.add(nc, 1), p["n_chunks"])):
                    self.rows(begin, end, p["blocks"], f.sub(p["n"], LANES * self.form.rest), self.form.rest)
        self.tile("tilerelease")
        return f.kernel()

    def rows(self, begin: Value, end: Value, block: Value, channel: Value, across: int) -> None:
        """Rows `begin .. end` of a block of `across` tiles of channels, the first of which is `channel`."""
        f, p = self.f, self.f.p
        lanes = f.mul(block, WIDE)
        w = f.gep(p["w"], f.mul(f.mul(p["steps"], self.weight_bytes), f.mul(block, TILES)))
        init = f.gep(p["init"], lanes, "i32")
        leaves = self.leaves(lanes, across)
        out = f.gep(p["out"], channel)
        if self.form.single:
            for b in range(across):
                self.tile("tileloadd64", self.tiles.weights[b], f.gep(w, f.mul(self.weight_bytes, b)), self.line)
        # a round's quads of sums, and rows
        stages = self.stages(across)
        quads = f.mul(p["rows"], stages)
        height = f.mul(quads, TILES // across)
        following = f.gep(w, f.mul(f.mul(p["steps"], self.weight_bytes), across))
        behind = f.gep(following, f.mul(f.mul(p["steps"], self.weight_bytes), TILES))
        with f.loop(begin, end, height, [following], name="rows") as at:
            # the last rows overlap those before
            first = f.smin(at.index, f.sub(p["m"], height))
            self.multiply(first, w, init, across)
            with f.loop(0, quads, p["every"], at.values, nonempty=True, name="some") as some:
                some.next = [self.ask_for(p["beside"], some.values[0], behind)]
                last = f.smin(f.add(some.index, p["every"]), quads)
                with f.loop(some.index, last, TOGETHER, nonempty=True, name="quad") as q:
                    even = across == TILES or self.form.stages % TOGETHER == 0
                    index = q.index if even else f.smin(q.index, f.sub(quads, TOGETHER))
                    self.finish(index, f.add(first, index), out, leaves, across)
            at.next = some.results

    def stages(self, across: int) -> Value:
        """How many times four tiles are multiplied before they are finished, in blocks of `across` tiles."""
        return self.f.p["down"] if across == TILES else self.f.const("i64", self.form.stages)

    def row_tiles(self, first: Value, count: int) -> list[Value]:
        """Where the tiles of rows from row `first` on start."""
        f, p = self.f, self.f.p
        if self.form.linear:
            x = f.gep(p["x"], f.mul(first, p["x_stride"]))
            return [f.gep(x, f.mul(self.row_bytes, a)) for a in range(count)]
        table = f.gep(p["starts"], f.udiv(first, p["rows"]), "i32")
        starts = [f.load("i32", f.gep(table, a, "i32"), 4) for a in range(count)]
        return [f.gep(p["x"], f.convert("sext", start, "i64")) for start in starts]

    def leaves(self, lanes: Value, across: int) -> dict[int, Value]:
        """The per-channel leaves of the quads that are finished together."""
        f, e = self.f, self.epilogue
        found = {}
        for i, operand in enumerate(e.operands, 1):
            if operand.kind == "vector":
                type = memory_type(operand.type)
                base = f.gep(f.p[f"{e.prefix}e{i}"], lanes, type)
                row = [f.load(vector_of(type, LANES), f.gep(base, b * LANES, type)) for b in range(across)]
                whole = concat(f, row * (TOGETHER * TILES // across))
                found[i] = from_memory(f, whole, operand.type)
        return found

    def multiply(self, first: Value, w: Value, init: Value, across: int) -> None:
        """Leaves the sums of the rows from row `first` on in the buffer, quad by quad."""
        f = self.f
        if across < TILES:
            rows = self.row_tiles(first, self.form.stages * TILES // across)
            self.multiply_stages(rows, w, init, across, [], range(self.form.stages))
            return
        rows = self.row_tiles(first, MOST_STAGES)
        waiting = self.multiply_stages(rows, w, init, across, [], range(2), is_last=False)
        with f.if_(f.icmp("ne", f.p["down"], 2)):
            self.multiply_stages(rows, w, init, across, list(waiting), range(2, MOST_STAGES))
        with f.if_(f.icmp("eq", f.p["down"], 2)):
            while waiting:
                self.store(waiting)

    def multiply_stages(
        self,
        rows: list[Value],
        w: Value,
        init: Value,
        across: int,
        waiting: list[tuple[int, Value]],
        numbers: range,
        is_last: bool = True,
    ) -> list[tuple[int, Value]]:
        """Four tiles for each of `numbers`, behind those that wait to be stored; returns which wait afterwards."""
        f = self.f
        stage_bytes = f.mul(f.p["rows"], QUAD_BYTES)
        for stage in numbers:
            sums = f.gep(self.sums, f.mul(stage_bytes, stage))
            places = [f.gep(sums, t * 4 * LANES) for t in range(TILES)]
            # rows of a quad are as many tiles apart as there are stages
            mine = rows[stage :: len(rows) * across // TILES]
            if self.form.single:
                self.one_step(mine, init, across, stage * TILES, places, waiting)
            else:
                self.few_steps(mine, w, init, across, waiting)
                waiting += enumerate(places)
        while is_last and waiting:
            self.store(waiting)
        return waiting

    def store(self, waiting: list[tuple[int, Value]]) -> None:
        """Stores the tile that has waited longest."""
        tile, at = waiting.pop(0)
        self.tile("tilestored64", tile, at, self.pitch)

    def start(self, sums: int, init: Value, b: int) -> None:
        """The initial sums of tile `b` of a block."""
        self.fill(sums, self.f.gep(init, b * 4 * LANES))

    def one_step(
        self,
        rows: list[Value],
        init: Value,
        across: int,
        before: int,
        places: list[Value],
        waiting: list[tuple[int, Value]],
    ) -> None:
        """The four tiles of a stage behind `before` others, with weights that are in tile registers."""
        t = self.tiles
        for number, at in enumerate(places):
            a, b = divmod(number, across)
            row = t.rows[a % len(t.rows)]
            if b == 0:
                self.tile("tileloadd64", row, rows[a], self.f.p["x_stride"])
            sums = t.sums[(before + number) % len(t.sums)]
            self.start(sums, init, b)
            self.tile("tdpbusd", sums, row, t.weights[b])
            waiting.append((sums, at))
            if len(waiting) > LAG:
                self.store(waiting)

    def few_steps(
        self, rows: list[Value], w: Value, init: Value, across: int, waiting: list[tuple[int, Value]]
    ) -> None:
        """The four tiles of a stage, step by step; what waits to be stored goes first."""
        f, t = self.f, self.tiles
        for number in range(TILES):
            if waiting:
                self.store(waiting)
            self.start(t.sums[number], init, number % across)
        with f.loop(0, f.p["steps"], nonempty=True, name="step") as k:
            offset = f.mul(k.index, f.p["depth"])
            panel = f.gep(w, f.mul(f.mul(k.index, self.weight_bytes), across))
            for number in range(TILES):
                a, b = divmod(number, across)
                if b == 0:
                    self.tile("tileloadd64", t.rows[a % 2], f.gep(rows[a], offset), f.p["x_stride"])
                if a == 0:
                    at = f.gep(panel, f.mul(self.weight_bytes, b))
                    self.tile("tileloadd64", t.weights[b % 2], at, self.line)
                self.tile("tdpbusd", t.sums[number], t.rows[a % 2], t.weights[b % 2])

    def finish(self, index: Value, pixel: Value, out: Value, leaves: dict[int, Value], across: int) -> None:
        """Finishes quads `index ..`, whose first rows are those from `pixel` on."""
        f, e = self.f, self.epilogue
        acc = f.load(vector_of("i32", TOGETHER * WIDE), f.gep(self.sums, f.mul(index, QUAD_BYTES)), 64)
        result = e.finish(f, self.isa, acc, leaves, True)
        vectors = split(f, result, LANES)
        down = TILES // across
        for q in range(TOGETHER):
            packed = pack_bytes(f, vectors[TILES * q : TILES * q + TILES], True, e.saturate)
            first = f.add(pixel, q)
            rows = [f.add(first, f.mul(f.mul(f.p["rows"], a), self.stages(across))) for a in range(down)]
            for row, part in zip(rows, self.by_rows(packed, across), strict=True):
                f.store(part, f.gep(out, f.mul(row, f.p["out_stride"])))

    def by_rows(self, packed: Value, across: int) -> Sequence[Value]:
        """The bytes of each row of a quad: packing leaves `4 * across` of them of every row in turn."""
        f, down = self.f, TILES // across
        if down == 1:
            return [packed]
        pieces = f.convert("bitcast", packed, vector_of(f"i{32 * across}", 4 * down))
        ordered = f.shuffle(pieces, None, [down * i + a for a in range(down) for i in range(4)])
        return split(f, f.convert("bitcast", ordered, packed.type), across * LANES)
