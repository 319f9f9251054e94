"""INT8 matrix product in AMX's tile registers, with an epilogue: what `igemm` computes, to the same bits.

A block is up to 2 tiles of rows by 2 tiles of 16 channels, or 4 by 1: 4 tiles of int32 sums, that start from `init`.
Which rows tiles hold, and where their steps are in a row, is read from tables, so that layers of all shapes with one
epilogue share a kernel.
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
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref, Word
from lpir.devices.cpu.codegen.emitter import Function, Value, lanes_of, vector_of
from lpir.devices.cpu.codegen.vector import concat, memory_type, split
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.amx_blocks import (
    DEPTH,
    L1,
    LANES,
    LINE,
    SUMS_BYTES,
    TILES,
    TOGETHER,
    Ahead,
    Array,
    beside,
    block_shape,
    first_channels,
    part_steps,
    step_depth,
    step_offsets,
)
from lpir.devices.cpu.kernels.amx_print import TilePrinter
from lpir.devices.cpu.kernels.amx_rows import TileRows
from lpir.devices.cpu.kernels.epilogue import Bound, Epilogue, Pointer, element_bytes
from lpir.devices.cpu.kernels.interleave import pack_in_order
from lpir.devices.cpu.kernels.pack import with_slack
from lpir.ir.types import ElementType
from lpir.record import record

# bytes that stay in the second cache, and weights that do without being asked for
L2, SMALL_WEIGHTS = 1024 * 1024, 96 * 1024
# what a byte from outside of a core's own caches costs, in bytes of the second one
FAR = 5
# measured: and one that another core wrote, in bytes from outside
OTHER_CORE = 8
# measured: cycles of a step of a block, of finishing a block, and bytes from outside of a core's own caches
STEP_CYCLES, FINISH_CYCLES, BYTES_A_CYCLE = 90, 300, 8
CONFIG_BYTES = 64
# blocks of so few steps ask for the next weights while they are finished, so many lines at a time: tile loads leave
# too few line buffers for it. Fewer rounds of rows than LEAST_ROUNDS would leave most of them unasked
FEW_STEPS, BESIDE, LEAST_ROUNDS = 8, 8, 24
# of row tiles, whose sums wait for the next part of their steps
MOST_PAIRS = 8


@record
class Call:
    """Buffers of one layer. `x`, `out`: the first row; `out_stride`: bytes between output rows; `x_group`: bytes
    between the inputs of two groups; `offsets`, `starts`: tables of TileGemm and TileRows; `outs`: int32 byte offset of
    the output of each of TileRows' block pixels, or `pixels`: those. A tensor's rows have a table like it, and a
    stride too."""

    x: Pointer
    weights: Pointer
    init: Pointer
    config: Pointer
    out: Pointer
    out_stride: int
    operands: Sequence[Bound] = ()
    starts: Pointer = 0
    outs: Pointer = 0
    pixels: Pointer = 0
    offsets: Pointer = 0
    x_group: int = 0


@record
class Block:
    """Where a block reads: the input, its weights, its initial sums, and up to where the next weights are.

    `channels`: the first of each of its tiles; `vectors`: the leaves that are one element a channel.
    """

    x: Value
    weights: Value
    init: Value
    end: Value
    channels: list[Value]
    vectors: dict[int, Value]


@record
class BlockRows:
    """Where a block's rows of a tensor are: int32 byte offsets from `bases`, one for each tile of channels."""

    offsets: Value
    bases: list[Value]


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
    across: int
    zero: bool
    ahead: Ahead
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
        return first_channels(self.n, self.across)

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

    @property
    def part_steps(self) -> int:
        """Steps that are taken before those of the next rows."""
        return part_steps(self.rows, self.across, self.runs, self.length, self.input_bytes // self.m)

    def params(self, call: Call, threads: int) -> list[Word]:
        """The kernel's parameter words, for work shared by `threads`."""
        rows, steps, part, ahead = self.rows, len(self.offsets), self.part_steps, self.ahead
        pairs, blocks = rows.tiles // rows.down, len(self.first_channels)
        mc, nc = self.chunks(pairs, blocks, threads)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": call.x, "x_stride": rows.stride, "w": call.weights, "init": call.init, "config": call.config},
            **{"out": call.out, "out_stride": call.out_stride, "x_group": call.x_group},
            **{"offsets": call.offsets, "starts": call.starts, "outs": call.outs, "listed": int(not rows.linear)},
            **{"m": self.m, "n": self.n, "steps": steps, "part": part, "depth": self.depth},
            **{"rows": rows.rows, "down": rows.down, "groups": self.groups, "pairs": pairs, "blocks": blocks},
            **{"m_chunks": mc, "n_chunks": nc, "zero": int(self.zero), "waiting": SUMS_BYTES * (part < steps)},
            **{"ahead": LINE * ahead.step, "beside": LINE * ahead.lines, "every": ahead.every},
            **{f"e{i}_stride": call.operands[i - 1].rows.stride for i in self.epilogue.tensor_leaves},
            **self.epilogue.values(call.operands),
        }
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
        if self.part_steps < len(self.offsets):
            return -(-pairs // -(-pairs // MOST_PAIRS))
        pixels = self.rows.height
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
    rows, across = block_shape(offsets, n, epilogue.tensor_bytes > 0)
    if any(o.table for o in epilogue.operands):
        rows = rows.listed(len(offsets))
    epilogue = epilogue.with_tables()
    size = int(offsets[-1]) + max(runs) + length
    kernel = _print(isa, across, epilogue)
    ahead = _ahead(rows, across, runs, length, n)
    return TileGemm(rows, len(offsets), n, runs, length, groups, size, across, zero, ahead, kernel, epilogue)


def _ahead(rows: TileRows, across: int, runs: tuple[int, ...], length: int, n: int) -> Ahead:
    """When blocks ask for weights that do not stay in the second cache: they come from the third one."""
    height, together, pairs = rows.height, TOGETHER // across, rows.tiles // rows.down
    if len(runs) * length * n <= SMALL_WEIGHTS:
        return Ahead(0, 0, height)
    steps = len(runs) * -(-length // DEPTH)
    lines = -(-step_depth(length) * across // 4)
    if steps <= FEW_STEPS and -(-height // together) * pairs >= LEAST_ROUNDS:
        return beside(lines * steps, pairs, height, together, BESIDE)
    return Ahead(-(-lines // pairs), 0, height)


@functools.lru_cache(maxsize=1024)
def _print(isa: Isa, across: int, epilogue: Epilogue) -> Kernel:
    return _Printer(isa, across, epilogue).kernel()


class _Printer(TilePrinter):
    """Prints one kernel. Tiles 0 to 3 hold sums (row tile by row tile), 4 and 5 rows, 6 and 7 weights.

    A block has `down` row tiles at most, the parameter `down` says how many; `together` rows are finished at once.
    """

    def __init__(self, isa: Isa, across: int, epilogue: Epilogue) -> None:
        self.isa, self.across, self.epilogue = isa, across, epilogue
        self.down, self.together = TILES // across, TOGETHER // across
        pointers = ["x", "w", "init", "config", "out", "outs", "offsets", "starts"]
        numbers = ["x_stride", "out_stride", "x_group", "m", "n", "steps", "part", "depth", "rows", "down", "listed"]
        numbers += ["groups", "pairs", "blocks", "m_chunks", "n_chunks", "zero", "waiting"]
        numbers += ["ahead", "beside", "every", *[f"e{i}_stride" for i in epilogue.tensor_leaves]]
        params = dict.fromkeys(pointers, "ptr") | dict.fromkeys(numbers, "i64")
        super().__init__(Function(f"amx_{self.down}x{across}", params | epilogue.params(), optimize=False))
        self.sums = self.f.alloca("i8", SUMS_BYTES * MOST_PAIRS)
        self.values = vector_of("i32", TOGETHER * LANES)
        self.pitch = self.f.const("i64", 4 * LANES * across)

    def kernel(self) -> Kernel:
        f = self.f
        self.tile("ldtilecfg", f.p["config"])
        self.epilogue.start(f, lanes_of(self.values))
        self.height = f.mul(f.p["rows"], f.p["down"])
        self.tile_bytes = f.mul(f.p["depth"], LANES)
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
        f = self.f
        x = f.gep(f.p["x"], f.mul(group, f.p["x_group"]))
        panel = f.mul(f.mul(f.p["steps"], self.tile_bytes), self.across)
        with f.loop(*blocks, name="block") as block:
            which = f.add(f.mul(group, f.p["blocks"]), block.index)
            w = f.gep(f.p["w"], f.mul(which, panel))
            init = f.gep(f.p["init"], f.mul(which, self.across * 4 * LANES))
            channels = self.channels(f.add(f.mul(group, f.p["n"]), self.channel(block.index)))
            following = f.gep(w, panel)
            vectors = self.wide([self.epilogue.vectors(f, n, LANES) for n in channels])
            mine = Block(x, w, init, f.gep(following, panel), channels, vectors)
            with f.loop(0, f.p["steps"], f.p["part"], [following], nonempty=True, name="part") as part:
                end = f.smin(f.add(part.index, f.p["part"]), f.p["steps"])
                part.next = [self.pairs(pairs, mine, (part.index, end), part.values[0])]

    def pairs(self, pairs: tuple[Value, Value], block: Block, steps: tuple[Value, Value], soon: Value) -> Value:
        """Some steps of each of `pairs`, which are finished behind the last step; `soon`: the weights to ask for."""
        f, e = self.f, self.epilogue
        # no rows before the last step
        height = f.select(f.icmp("eq", steps[1], f.p["steps"]), self.height, 0)
        with f.loop(*pairs, carried=[soon], name="pair") as pair:
            tiles, first, row = self.place(block.x, pair.index)
            sums = f.gep(self.sums, f.mul(f.sub(pair.index, pairs[0]), f.p["waiting"]))
            self.start(block.init, sums, steps[0])
            with f.loop(*steps, carried=pair.values, nonempty=True, name="step") as k:
                k.next = [self.ask_for(f.p["ahead"], k.values[0], block.end)]
                self.step(tiles, block.weights, k.index)
            for c, at in enumerate(self.places(sums)):
                with self.row_tile(c // self.across):
                    self.tile("tilestored64", c, at, self.pitch)
            out = self.block_rows("out", "outs", first, row, block.channels, e.type)
            tensors = {
                i: self.block_rows(f"e{i}", f"e{i}_rows", first, row, block.channels, e.operands[i - 1].type)
                for i in e.tensor_leaves
            }
            with f.loop(0, height, f.p["every"], k.results, name="some") as some:
                some.next = [self.ask_for(f.p["beside"], some.values[0], block.end)]
                end = f.smin(f.add(some.index, f.p["every"]), height)
                with f.loop(some.index, end, self.together, nonempty=True, name="row") as r:
                    self.finish(r.index, sums, out, tensors, block.vectors)
            pair.next = some.results
        return pair.results[0]

    def row_tile(self, number: int) -> AbstractContextManager[None]:
        """What is done for row tile `number` of a block, where blocks have so many."""
        return self.f.if_(self.f.icmp("sgt", self.f.p["down"], number)) if number else nullcontext()

    def channel(self, block: Value) -> Value:
        """First channel of a block: the last ones overlap their neighbors."""
        f, width = self.f, self.across * LANES
        return f.smin(f.mul(block, width), f.smax(f.sub(f.p["n"], width), 0))

    def channels(self, first: Value) -> list[Value]:
        """First channel of each tile of a block that starts at channel `first`: fewer channels than fill it overlap."""
        f = self.f
        last = f.sub(f.p["n"], LANES)
        return [first, *[f.add(first, f.smin(last, b * LANES)) for b in range(1, self.across)]]

    def place(self, x: Value, pair: Value) -> tuple[list[Value], Value, Value]:
        """Where the row tiles of a pair read, the first pixel of its linear rows, and its first row in lists."""
        f = self.f
        row = f.mul(pair, self.height)
        listed = f.icmp("ne", f.p["listed"], 0)
        first = f.select(listed, 0, f.smin(row, f.sub(f.p["m"], self.height)))
        starts = f.gep(f.p["starts"], f.mul(pair, f.p["down"]), "i64")
        tiles = [f.gep(x, f.load("i64", f.gep(starts, a, "i64"), 8)) for a in range(self.down)]
        return tiles, first, f.select(listed, row, 0)

    def block_rows(
        self, tensor: str, table: str, first: Value, row: Value, channels: list[Value], type: ElementType
    ) -> BlockRows:
        """The rows of a tensor in the pair at `first` or `row`; see `place`."""
        f = self.f
        base = f.gep(f.p[tensor], f.mul(first, f.p[f"{tensor}_stride"]))
        return BlockRows(f.gep(f.p[table], row, "i32"), [f.gep(base, n, memory_type(type)) for n in channels])

    def places(self, sums: Value) -> list[Value]:
        """Where the sums of each tile are: the rows of the first row tile, then those of the next ones."""
        f, across = self.f, self.across
        height = f.mul(f.p["rows"], 4 * LANES * across)
        tiles = [divmod(c, across) for c in range(TILES)]
        return [f.gep(f.gep(sums, f.mul(height, a)), b * 4 * LANES) for a, b in tiles]

    def start(self, init: Value, sums: Value, step: Value) -> None:
        """What the tiles hold before step `step`."""
        f, across = self.f, self.across
        with f.if_(f.icmp("ne", f.p["zero"], 0)):
            for c in range(TILES):
                self.tile("tilezero", c)
        with f.if_(f.icmp("eq", f.p["zero"], 0)):
            for c in range(TILES):
                self.fill(c, f.gep(init, c % across * 4 * LANES))
        with f.if_(f.icmp("ne", step, 0)):
            for c, at in enumerate(self.places(sums)):
                self.tile("tileloadd64", c, at, self.pitch)

    def step(self, rows: list[Value], weights: Value, k: Value) -> None:
        """Adds the products of step `k`."""
        f, across = self.f, self.across
        at = f.gep(weights, f.mul(f.mul(k, self.tile_bytes), across))
        offset = f.convert("sext", f.load("i32", f.gep(f.p["offsets"], k, "i32"), 4), "i64")
        for b in range(across):
            self.tile("tileloadd64", 6 + b, f.gep(at, f.mul(self.tile_bytes, b)), self.line)
        for a, row in enumerate(rows):
            with self.row_tile(a):
                self.tile("tileloadd64", 4 + a % 2, f.gep(row, offset), f.p["x_stride"])
                for b in range(across):
                    self.tile("tdpbusd", a * across + b, 4 + a % 2, 6 + b)

    def finish(
        self, index: Value, sums: Value, out: BlockRows, tensors: dict[int, BlockRows], vectors: dict[int, Value]
    ) -> None:
        """Finishes rows `index ..` of a block."""
        f, e = self.f, self.epilogue
        # the number of rows need not be a multiple
        row = f.smin(index, f.sub(self.height, self.together))
        rows: list[dict[int, Value]] = [dict(vectors) for _ in range(self.together)]
        for i, tensor in tensors.items():
            for leaves, offset in zip(rows, self.offsets(tensor, row), strict=True):
                pointers = [f.gep(base, offset) for base in tensor.bases]
                leaves |= self.wide([e.tensors(f, {i: at}, f.const("i64", 0), LANES) for at in pointers])
        acc = f.load(self.values, f.gep(sums, f.mul(row, 4 * LANES * self.across)), 64)
        result = e.finish(f, self.isa, acc, self.wide(rows), e.saturate)
        self.write(split(f, result, LANES), self.offsets(out, row), out.bases)

    def offsets(self, tensor: BlockRows, row: Value) -> list[Value]:
        """Byte offsets of the rows that are finished together from row `row` on."""
        f = self.f
        at = f.gep(tensor.offsets, row, "i32")
        return [f.convert("sext", f.load("i32", f.gep(at, i, "i32"), 4), "i64") for i in range(self.together)]

    def wide(self, parts: list[dict[int, Value]]) -> dict[int, Value]:
        """Leaves of neighboring vectors as leaves of one: each operation is printed once and runs side by side."""
        return {i: concat(self.f, [part[i] for part in parts]) for i in parts[0]}

    def write(self, results: list[Value], offsets: list[Value], bases: list[Value]) -> None:
        """Stores vectors of results, those of the first row first."""
        f = self.f
        if self.epilogue.saturate:
            parts = [pack_in_order(f, results[i : i + 4], True) for i in range(0, len(results), 4)]
            packed = concat(f, parts)
            for test, places in (("sge", bases[:1]), ("slt", bases))[: self.across]:
                with f.if_(f.icmp(test, f.p["n"], self.across * LANES)):
                    self.store(packed, offsets, places)
            return
        for result, (offset, base) in zip(results, itertools.product(offsets, bases), strict=True):
            f.store(result, f.gep(base, offset))

    def store(self, packed: Value, offsets: list[Value], bases: list[Value]) -> None:
        """Stores bytes, those of the first row first; those of a row go to `bases` in equal parts."""
        f, lanes = self.f, self.across * LANES // len(bases)
        for i, (offset, base) in enumerate(itertools.product(offsets, bases)):
            f.store(f.shuffle(packed, None, range(i * lanes, (i + 1) * lanes)), f.gep(base, offset))
