"""INT8 matrix product in AMX's tile registers, with an epilogue: what `igemm` computes, to the same bits.

A block is up to 2 tiles of rows by 2 tiles of 16 channels, or 4 by 1: 4 tiles of int32 sums, that start from `init`.
`tdpbusd` multiplies 16 rows of 64 bytes with a tile of weights, exactly. A block's sums go through a buffer of the
thread, where the epilogue reads them in vectors and stores rows of bytes. Where a block's weights do not stay in the
first cache from one pair of row tiles to the next, a part of its steps does: sums wait in the buffer for the next part.

    gemm = amx_gemm.build(isa, offsets, n=144, runs=(0,), length=24, epilogue=finish)
    weights, sums = gemm.pack(w)                 # w [G, runs, length, N] i8
    words = gemm.params(Call(...), threads=2)    # words for gemm.kernel (symbol, text)

Tiles read up to 63 bytes behind a run of channels: whole vectors of every buffer's slack, multiplied by zero weights.
The last blocks overlap their neighbors, so some outputs are computed and stored twice. Source of the instructions:
Intel Architecture Instruction Set Extensions Programming Reference, chapter 3.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref, Word
from lpir.devices.cpu.codegen.emitter import Function, Value, lanes_of, vector_of
from lpir.devices.cpu.codegen.vector import concat, split
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.amx_blocks import (
    DEPTH,
    LANES,
    SUMS_BYTES,
    Array,
    Form,
    Start,
    block_shape,
    first_channels,
    near_bytes,
    splits,
    step_depth,
    step_offsets,
)
from lpir.devices.cpu.kernels.amx_print import TilePrinter
from lpir.devices.cpu.kernels.amx_rows import TileRows
from lpir.devices.cpu.kernels.epilogue import Bound, Epilogue, Pointer, element_bytes
from lpir.devices.cpu.kernels.interleave import pack_in_order
from lpir.devices.cpu.kernels.pack import with_slack
from lpir.record import record

# bytes that stay in the first and in the second cache, and weights that do without being asked for
L1, L2, SMALL_WEIGHTS = 40 * 1024, 1024 * 1024, 96 * 1024
# what a byte from outside of a core's own caches costs, in bytes of the second one
FAR = 5
# measured: and one that another core wrote, in bytes from outside
OTHER_CORE = 8
# measured: cycles of a step of a block, of finishing a block, and bytes from outside of a core's own caches
STEP_CYCLES, FINISH_CYCLES, BYTES_A_CYCLE = 90, 300, 8
CONFIG_BYTES = 64
# cache lines of weights that a step of a block uses, for 2 tiles
LINES = 32
# blocks of so few steps ask for the next weights while they are finished, so many lines at a time: tile loads leave
# too few line buffers for it. Fewer rounds of rows than LEAST_ROUNDS would leave most of them unasked
FEW_STEPS, BESIDE, LEAST_ROUNDS = 8, 8, 24
# cache lines that are asked for in one go
AT_ONCE = 4
# of row tiles, whose sums wait for the next part of their steps
MOST_PAIRS = 8


@record
class Call:
    """Buffers of one layer. `x`, `out`: the first row; `out_stride`: bytes between output rows; `x_group`: bytes
    between the inputs of two groups; `offsets`, `starts`, `pixels`: of TileGemm and TileRows, where there are any."""

    x: Pointer
    weights: Pointer
    init: Pointer
    config: Pointer
    out: Pointer
    out_stride: int
    operands: Sequence[Bound] = ()
    x_group: int = 0
    offsets: Pointer = 0
    starts: Pointer = 0
    pixels: Pointer = 0


@record
class Operands:
    """Where blocks read: the input, their weights, their initial sums, and the next weights up to their end."""

    x: Value
    weights: Value
    init: Value
    tile_bytes: Value
    following: Value
    end: Value


@record
class TileGemm:
    """A kernel for one shape class, and the shape that `params` fills in."""

    rows: TileRows
    m: int
    n: int
    runs: tuple[int, ...]
    length: int
    groups: int
    input_bytes: int
    form: Form
    start: Start
    kernel: Kernel
    epilogue: Epilogue

    @property
    def depth(self) -> int:
        """Bytes of a row that one step multiplies: equal parts of a run, a multiple of 4."""
        return step_depth(self.length)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of one group."""
        return len(self.offsets) * self.depth * self.n

    @property
    def offsets(self) -> Array:
        """int32 byte offset of every step from its row's start."""
        return step_offsets(self.runs, self.length, self.depth)

    @property
    def first_channels(self) -> Array:
        """First channel of each block and tile: [blocks, across]; the last ones overlap their neighbors."""
        return first_channels(self.n, self.form.across)

    def config(self) -> Array:
        """What `ldtilecfg` reads: palette 1, then bytes a row and rows of each tile."""
        shape = dict.fromkeys(range(4), (self.rows.rows, 4 * LANES))  # sums
        shape |= dict.fromkeys((4, 5), (self.rows.rows, self.depth))  # rows
        shape |= dict.fromkeys((6, 7), (self.depth // 4, 4 * LANES))  # weights
        data = np.zeros(CONFIG_BYTES, np.uint8)
        data[0] = 1
        for tile, (rows, width) in shape.items():
            data[16 + 2 * tile], data[48 + tile] = width, rows
        return data

    def pack(self, w: Array) -> tuple[Array, Array]:
        """`w` [G, runs, length, N] i8 as bytes [G, blocks, steps, across, depth / 4, 16, 4], and the sum of the weights
        of each of their channels, int32 [G, blocks, across, 16]."""
        groups, _, length, n = w.shape
        rest = -length % self.depth
        # files have the channels of an output side by side: four of them are moved as one word
        rows = np.ascontiguousarray(w.transpose(0, 3, 1, 2))
        rows = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, rest))) if rest else rows
        quads = rows.view(np.int32).reshape(groups, n, -1, self.depth // 4)
        index = self.first_channels[:, :, None] + np.arange(LANES)
        packed = quads[:, index].transpose(0, 1, 4, 2, 5, 3)
        return with_slack(packed), rows.sum(axis=(2, 3), dtype=np.int32)[:, index]

    def params(self, call: Call, threads: int) -> list[Word]:
        """The kernel's parameter words, for work shared by `threads`."""
        form = self.form
        pairs, blocks = -(-self.rows.tiles // form.down), len(self.first_channels)
        steps = len(self.offsets)
        mc, nc = self.chunks(pairs, blocks, threads)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": call.x, "x_stride": self.rows.stride, "w": call.weights, "init": call.init, "config": call.config},
            **{"out": call.out, "out_stride": call.out_stride, "x_group": call.x_group},
            **{"m": self.m, "n": self.n, "steps": steps, "depth": self.depth, "rows": self.rows.rows},
            **{"groups": self.groups, "pairs": pairs, "blocks": blocks},
            **{"m_chunks": mc, "n_chunks": nc},
            **{"zero": int(self.start.zero), "ahead": self.start.ahead},
            **self.epilogue.values(call.operands),
        }
        if not form.affine:
            values["offsets"] = call.offsets
        if form.split:
            near = near_bytes(self.rows, form.across, self.runs, self.length, self.input_bytes // self.m)
            values["parts"] = -(-near // L1)
        if not form.linear:
            values |= {"starts": call.starts, "pixels": call.pixels}
        return self.kernel.words(values)

    def chunks(self, pairs: int, blocks: int, threads: int) -> tuple[int, int]:
        """Into how many chunks to cut the pairs of row tiles, and the blocks of channels.

        Threads that share the rows all read all weights; threads that share the channels all read the whole input.
        """
        work = len(self.offsets) * STEP_CYCLES + FINISH_CYCLES
        by_rows = -(-pairs // threads) * blocks * work + self.weight_bytes / BYTES_A_CYCLE
        # half of the input comes from another core's caches
        read = self.weight_bytes / threads + OTHER_CORE * self.input_bytes
        by_channels = -(-blocks // threads) * pairs * work + read / BYTES_A_CYCLE
        if self.groups == 1 and threads > 1 and by_channels < by_rows:
            return -(-pairs // self.chunk(pairs, blocks // threads)), min(blocks, threads)
        share = -(-pairs // threads)
        return min(pairs, threads * -(-share // self.chunk(share, blocks))), 1

    def chunk(self, pairs: int, blocks: int) -> int:
        """How many of `pairs` to multiply with one block of weights before the next: what moves the fewest bytes.

        Small chunks keep input and output in the first cache from block to block, large ones the weights.
        """
        if self.form.split:
            return -(-pairs // -(-pairs // MOST_PAIRS))
        pixels = self.form.down * self.rows.rows
        read = pixels * min(self.input_bytes // self.m, len(self.offsets) * self.depth)
        written = pixels * self.n * (element_bytes(self.epilogue.type) + self.epilogue.tensor_bytes)
        panel = self.weight_bytes // max(1, blocks)

        def moved(chunk: int) -> float:
            """Bytes a pair."""
            near = chunk * (read + written) <= L1 // 2
            rows = read + written if near else blocks * read + 2 * written
            kept = self.weight_bytes + (chunk * (read + written) if near else 0) <= L1
            weights = 0 if kept else (self.weight_bytes if panel > L1 // 2 else self.weight_bytes / chunk)
            far = FAR * (self.weight_bytes > L2) / chunk * self.weight_bytes
            return rows + weights + far + FAR * (chunk * (read + written) > L2) * rows

        return min((c for c in range(1, pairs + 1) if -(-pairs // c) != -(-pairs // (c + 1)) or c == pairs), key=moved)


def build(
    isa: Isa,
    offsets: Array,
    n: int,
    runs: tuple[int, ...],
    length: int,
    epilogue: Epilogue,
    groups: int = 1,
    zero: bool = False,
) -> TileGemm:
    """The kernel for pixels at byte `offsets`, `n >= 16` channels a group, and `runs` byte offsets with `length`
    contiguous channels each. `zero`: all initial sums are 0."""
    rows, across, together = block_shape(offsets, n, epilogue.tensor_bytes > 0)
    size = int(offsets[-1]) + max(runs) + length
    weights = len(runs) * length * n
    # weights that do not stay in the second cache come from the third, asked for one block ahead
    ahead = 0 if weights <= SMALL_WEIGHTS else -(-LINES // (rows.tiles // rows.down))
    beside, steps = 0, len(runs) * -(-length // DEPTH)
    rounds = -(-rows.rows * rows.down // together) * (rows.tiles // rows.down)
    if ahead and steps <= FEW_STEPS and rounds >= LEAST_ROUNDS:
        ahead, beside = 0, min(1 << (-(-LINES * steps // rounds) - 1).bit_length(), BESIDE)
    form = Form(
        down=rows.down,
        across=across,
        affine=len(runs) == 1,
        linear=rows.linear,
        together=together,
        beside=beside,
        split=splits(rows, across, runs, length, size // len(offsets)),
    )
    start = Start(zero, 1 << (ahead - 1).bit_length() if ahead else 0)
    code = _print(isa, form, epilogue)
    return TileGemm(rows, len(offsets), n, runs, length, groups, size, form, start, code, epilogue)


@functools.lru_cache(maxsize=1024)
def _print(isa: Isa, form: Form, epilogue: Epilogue) -> Kernel:
    return _Printer(isa, form, epilogue).kernel()


class _Printer(TilePrinter):
    """Prints one kernel. Tiles 0 to 3 hold sums (row tile by row tile), 4 and 5 rows, 6 and 7 weights."""

    def __init__(self, isa: Isa, form: Form, epilogue: Epilogue) -> None:
        self.isa, self.form, self.epilogue = isa, form, epilogue
        pointers = ["x", "w", "init", "config", "out"]
        pointers += [] if form.affine else ["offsets"]
        pointers += [] if form.linear else ["starts", "pixels"]
        numbers = ["x_stride", "out_stride", "x_group", "m", "n", "steps", "depth", "rows", "groups"]
        numbers += ["pairs", "blocks", "m_chunks", "n_chunks", "zero", "ahead"]
        numbers += ["parts"] if form.split else []
        params = dict.fromkeys(pointers, "ptr") | dict.fromkeys(numbers, "i64")
        super().__init__(Function(f"amx_{form.down}x{form.across}", params | epilogue.params(), optimize=False))
        self.sums = self.f.alloca("i8", SUMS_BYTES * (MOST_PAIRS if form.split else 1))
        self.values = vector_of("i32", form.together * form.across * LANES)
        self.pitch = self.f.const("i64", 4 * LANES * form.across)

    def kernel(self) -> Kernel:
        f = self.f
        self.tile("ldtilecfg", f.p["config"])
        self.epilogue.start(f, lanes_of(self.values))
        per_group = f.mul(f.p["m_chunks"], f.p["n_chunks"])
        first, last = f.my_range(f.mul(per_group, f.p["groups"]))
        with f.loop(first, last, name="unit") as unit:
            group, rest = f.udiv(unit.index, per_group), f.urem(unit.index, per_group)
            mc, nc = f.udiv(rest, f.p["n_chunks"]), f.urem(rest, f.p["n_chunks"])
            self.unit(group, self.chunk(mc, "pairs", "m_chunks"), self.chunk(nc, "blocks", "n_chunks"))
        self.tile("tilerelease")
        return f.kernel()

    def unit(self, group: Value, pairs: tuple[Value, Value], blocks: tuple[Value, Value]) -> None:
        """All blocks of `pairs` by `blocks`."""
        f, form = self.f, self.form
        x = f.gep(f.p["x"], f.mul(group, f.p["x_group"]))
        tile_bytes = f.mul(f.p["depth"], LANES)
        panel = f.mul(f.mul(f.p["steps"], tile_bytes), form.across)
        with f.loop(*blocks, name="block") as block:
            which = f.add(f.mul(group, f.p["blocks"]), block.index)
            w = f.gep(f.p["w"], f.mul(which, panel))
            init = f.gep(f.p["init"], f.mul(which, form.across * 4 * LANES))
            channels = self.channels(f.add(f.mul(group, f.p["n"]), self.channel(block.index)))
            following = f.gep(w, panel)
            operands = Operands(x, w, init, tile_bytes, following, f.gep(following, panel))
            if form.split:
                with f.loop(0, f.p["parts"], nonempty=True, name="part") as part:
                    self.pairs(pairs, operands, self.chunk(part.index, "steps", "parts"), channels)
            else:
                self.pairs(pairs, operands, (f.const("i64", 0), f.p["steps"]), channels)

    def pairs(
        self, pairs: tuple[Value, Value], operands: Operands, steps: tuple[Value, Value], channels: list[Value]
    ) -> None:
        """Some steps of each of `pairs`, which are finished behind the last step."""
        f, form = self.f, self.form
        with f.loop(*pairs, name="pair") as pair:
            number = f.sub(pair.index, pairs[0])
            tiles, pixels = self.place(operands.x, pair.index)
            before = f.mul(number, f.p["steps"])
            sums = f.gep(self.sums, f.mul(number, SUMS_BYTES)) if form.split else self.sums
            self.start(operands.init, sums, steps[0])
            with f.loop(*steps, nonempty=True, name="step") as k:
                self.ask_ahead(operands, f.add(before, k.index))
                self.step(tiles, operands, k.index)
            for c, at in enumerate(self.places(sums)):
                self.tile("tilestored64", c, at, self.pitch)
            # no rows before the last step
            height = f.mul(f.p["rows"], form.down)
            height = f.select(f.icmp("eq", steps[1], f.p["steps"]), height, 0) if form.split else height
            with f.loop(0, height, form.together, nonempty=not form.split, name="row") as r:
                if form.beside:
                    self.ask_beside(operands.following, number, r.index)
                self.finish(r.index, sums, pixels, channels)

    def ask_ahead(self, operands: Operands, step: Value) -> None:
        """Asks for the part of the next block's weights that comes with step `step` of all steps of a chunk."""
        f = self.f
        size = f.mul(f.p["ahead"], 64)
        at = f.gep(operands.following, f.mul(step, size))
        # nobody need ask for what comes behind
        size = f.select(f.icmp("ult", at, operands.end), size, 0)
        with f.loop(0, size, 64 * AT_ONCE, name="line") as line:
            self.ask(f.gep(at, line.index), AT_ONCE)

    def ask_beside(self, panel: Value, pair: Value, row: Value) -> None:
        """Asks for the part of the next block's weights that comes with rows `row ..` of the chunk's pair `pair`."""
        f, form = self.f, self.form
        rows = f.add(f.mul(pair, f.mul(f.p["rows"], form.down)), row)
        self.ask(f.gep(panel, f.mul(rows, 64 * form.beside // form.together)), form.beside)

    def channel(self, block: Value) -> Value:
        """First channel of a block: the last ones overlap their neighbors."""
        f, width = self.f, self.form.across * LANES
        return f.smin(f.mul(block, width), f.smax(f.sub(f.p["n"], width), 0))

    def channels(self, first: Value) -> list[Value]:
        """First channel of each tile of a block that starts at channel `first`: fewer channels than fill it overlap."""
        f = self.f
        last = f.sub(f.p["n"], LANES)
        return [first, *[f.add(first, f.smin(last, b * LANES)) for b in range(1, self.form.across)]]

    def place(self, x: Value, pair: Value) -> tuple[list[Value], Value]:
        """Where the row tiles of a pair read, and its first pixel, or the list of its pixels."""
        f, down, rows = self.f, self.form.down, self.f.p["rows"]
        if self.form.linear:
            height = f.mul(rows, down)
            first = f.smin(f.mul(pair, height), f.sub(f.p["m"], height))
            pixels = [f.add(first, f.mul(rows, a)) for a in range(down)]
            return [f.gep(x, f.mul(pixel, f.p["x_stride"])) for pixel in pixels], first
        tiles = [f.add(f.mul(pair, down), a) for a in range(down)]
        starts = [f.convert("sext", f.load("i32", f.gep(f.p["starts"], t, "i32"), 4), "i64") for t in tiles]
        return [f.gep(x, start) for start in starts], f.gep(f.p["pixels"], f.mul(tiles[0], rows), "i32")

    def places(self, sums: Value) -> list[Value]:
        """Where the sums of each tile are: the rows of the first row tile, then those of the next ones."""
        f, across = self.f, self.form.across
        height = f.mul(f.p["rows"], 4 * LANES * across)
        tiles = [divmod(c, across) for c in range(self.form.down * across)]
        return [f.gep(f.gep(sums, f.mul(height, a)), b * 4 * LANES) for a, b in tiles]

    def start(self, init: Value, sums: Value, step: Value) -> None:
        """What the tiles hold before step `step`."""
        f, across = self.f, self.form.across
        with f.if_(f.icmp("ne", f.p["zero"], 0)):
            for c in range(self.form.down * across):
                self.tile("tilezero", c)
        with f.if_(f.icmp("eq", f.p["zero"], 0)):
            for c in range(self.form.down * across):
                self.fill(c, f.gep(init, c % across * 4 * LANES))
        if self.form.split:
            with f.if_(f.icmp("ne", step, 0)):
                for c, at in enumerate(self.places(sums)):
                    self.tile("tileloadd64", c, at, self.pitch)

    def step(self, rows: list[Value], operands: Operands, k: Value) -> None:
        """Adds the products of step `k`."""
        f, across = self.f, self.form.across
        tile_bytes = operands.tile_bytes
        at = f.gep(operands.weights, f.mul(f.mul(k, tile_bytes), across))
        offset = self.offset(k)
        for b in range(across):
            self.tile("tileloadd64", 6 + b, f.gep(at, f.mul(tile_bytes, b)), self.line)
        for a, row in enumerate(rows):
            self.tile("tileloadd64", 4 + a % 2, f.gep(row, offset), f.p["x_stride"])
            for b in range(across):
                self.tile("tdpbusd", a * across + b, 4 + a % 2, 6 + b)

    def offset(self, step: Value) -> Value:
        f = self.f
        if self.form.affine:
            return f.mul(step, f.p["depth"])
        return f.convert("sext", f.load("i32", f.gep(f.p["offsets"], step, "i32"), 4), "i64")

    def finish(self, index: Value, sums: Value, first: Value, channels: list[Value]) -> None:
        """Finishes rows `index ..` of the block whose pixels start at `first`, as many as are stored together."""
        f, form, across = self.f, self.form, self.form.across
        row = index
        if form.down % form.together:
            # the number of rows need not be a multiple
            row = f.smin(index, f.sub(f.mul(f.p["rows"], form.down), form.together))
        outs: list[Value] = []
        tensors: list[dict[int, Value]] = []
        for i in range(form.together):
            pixel = self.pixel(first, f.add(row, i))
            outs.append(f.gep(f.p["out"], f.mul(pixel, f.p["out_stride"])))
            pointers = self.epilogue.row(f, pixel)
            tensors.append(self.wide([self.epilogue.tensors(f, pointers, n, LANES) for n in channels]))
        vectors = self.wide([self.epilogue.vectors(f, n, LANES) for n in channels])
        leaves = self.wide([vectors | row for row in tensors])
        acc = f.load(self.values, f.gep(sums, f.mul(row, 4 * LANES * across)), 64)
        result = self.epilogue.finish(f, self.isa, acc, leaves, self.epilogue.saturate)
        self.write(split(f, result, LANES), outs, channels)

    def wide(self, parts: list[dict[int, Value]]) -> dict[int, Value]:
        """Leaves of neighboring vectors as leaves of one: each operation is printed once and runs side by side."""
        return {i: concat(self.f, [part[i] for part in parts]) for i in parts[0]}

    def pixel(self, first: Value, row: Value) -> Value:
        """The pixel of a row of a block, whose pixels start at, or are listed at, `first`."""
        f = self.f
        if self.form.linear:
            return f.add(first, row)
        return f.convert("sext", f.load("i32", f.gep(first, row, "i32"), 4), "i64")

    def write(self, results: list[Value], outs: list[Value], channels: list[Value]) -> None:
        """Stores vectors of results, those of the first row first."""
        f, across = self.f, len(channels)
        size = element_bytes(self.epilogue.type)
        if self.epilogue.saturate:
            parts = [pack_in_order(f, results[i : i + 4], True) for i in range(0, len(results), 4)]
            packed = concat(f, parts)
            for test, places in (("sge", channels[:1]), ("slt", channels))[:across]:
                with f.if_(f.icmp(test, f.p["n"], across * LANES)):
                    self.store(packed, outs, places)
            return
        for i, out in enumerate(outs):
            for b, n in enumerate(channels):
                f.store(results[across * i + b], f.gep(out, f.mul(n, size)))

    def store(self, packed: Value, outs: list[Value], channels: list[Value]) -> None:
        """Stores bytes, those of the first row first; those of a row go to `channels` in equal parts."""
        f, lanes = self.f, self.form.across * LANES // len(channels)
        for i, (out, n) in enumerate(itertools.product(outs, channels)):
            f.store(f.shuffle(packed, None, range(i * lanes, (i + 1) * lanes)), f.gep(out, n))
