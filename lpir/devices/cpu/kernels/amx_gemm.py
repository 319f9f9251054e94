"""INT8 matrix product in AMX's tile registers, with an epilogue: what `igemm` computes, to the same bits.

A block is up to 2 tiles of rows by 2 tiles of 16 channels: 4 tiles of int32 sums, that start from `init`. `tdpbusd`
multiplies 16 rows of 64 bytes with a tile of weights, exactly. A block's sums go through a buffer of the thread, where
the epilogue reads them in vectors and stores rows of bytes.

    gemm = amx_gemm.build(rows, n=144, runs=(0,), length=24, epilogue=finish)
    packed = gemm.pack(w)                        # w [G, runs, length, N] i8
    words = gemm.params(Call(...), threads=2)    # words for gemm.kernel (symbol, text)

Tiles read up to 63 bytes behind a run of channels: whole vectors of every buffer's slack, multiplied by zero weights.
The last blocks overlap their neighbors, so some outputs are computed and stored twice. Source of the instructions:
Intel Architecture Instruction Set Extensions Programming Reference, chapter 3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref, Word
from lpir.devices.cpu.codegen.emitter import SECOND_CACHE, Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import tiling
from lpir.devices.cpu.kernels.amx_rows import MOST, TileRows
from lpir.devices.cpu.kernels.epilogue import Bound, Epilogue, Pointer, element_bytes
from lpir.devices.cpu.kernels.interleave import pack_each
from lpir.devices.cpu.kernels.pack import with_slack

Array = np.ndarray[Any, np.dtype[Any]]

LANES = 16  # channels of a tile, and int32 lanes of a vector
DEPTH = 64  # bytes of a row that a tile holds
# of a unit of work: bytes of rows that stay in the first cache, and in the second where weights do not
L1, L2 = 32 * 1024, 1024 * 1024
# weights of this size are read again for every chunk of rows
SMALL_WEIGHTS = 512 * 1024
CONFIG_BYTES = 64
# cache lines of weights that a step of a block uses, for 2 tiles
LINES = 32


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Form:
    """What is compiled into a kernel beside its epilogue.

    `across`, `down`: tiles of channels and of rows in a block; `affine`: one run of channels; `linear`: see TileRows;
    `joint`: the channels of a block follow each other; `single`: one row a tile; `ahead`: cache lines of the next
    block's weights that each step asks for.
    """

    down: int
    across: int
    affine: bool
    linear: bool
    joint: bool
    single: bool
    ahead: int


@dataclass(frozen=True)
class TileGemm:
    """A kernel for one shape class, and the shape that `params` fills in."""

    rows: TileRows
    m: int
    n: int
    runs: tuple[int, ...]
    length: int
    groups: int
    form: Form
    kernel: Kernel
    epilogue: Epilogue

    @property
    def depth(self) -> int:
        """Bytes of a row that one step multiplies: equal parts of a run, a multiple of 4."""
        return step_depth(self.length)

    @property
    def offsets(self) -> Array:
        """int32 byte offset of every step from its row's start."""
        return step_offsets(self.runs, self.length, self.depth)

    @property
    def first_channels(self) -> Array:
        """First channel of each block and tile: [blocks, across]; the last ones overlap their neighbors."""
        return first_channels(self.n, self.form.across, self.form.joint)

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
        groups, runs, length, n = w.shape
        whole = -(-length // self.depth) * self.depth
        padded = np.zeros((groups, runs, whole, n), np.int8)
        padded[:, :, :length] = w
        quads = padded.reshape(groups, -1, self.depth // 4, 4, n)
        index = self.first_channels[:, :, None] + np.arange(LANES)
        packed = np.ascontiguousarray(quads[..., index].transpose(0, 4, 1, 5, 2, 6, 3))
        return with_slack(packed), w.sum(axis=(1, 2), dtype=np.int32)[:, index]

    def params(self, call: Call, threads: int) -> list[Word]:
        """The kernel's parameter words, for work shared by `threads`."""
        form = self.form
        pairs, blocks = -(-self.rows.tiles // form.down), len(self.first_channels)
        steps = len(self.offsets)
        weights = steps * self.depth * self.n
        pair_bytes = form.down * self.rows.rows * (steps * self.depth + self.n * element_bytes(self.epilogue.type))
        cache = L1 if weights <= SMALL_WEIGHTS else L2
        mc, nc = tiling.choose_chunks(self.groups, pairs, blocks, pair_bytes, threads, cache)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": call.x, "x_stride": self.rows.stride, "w": call.weights, "init": call.init, "config": call.config},
            **{"out": call.out, "out_stride": call.out_stride, "x_group": call.x_group},
            **{"m": self.m, "n": self.n, "steps": steps, "depth": self.depth, "rows": self.rows.rows},
            **{"groups": self.groups, "tiles": self.rows.tiles, "pairs": pairs, "blocks": blocks},
            **{"m_chunks": mc, "n_chunks": nc},
            **self.epilogue.values(call.operands),
        }
        if not form.affine:
            values["offsets"] = call.offsets
        if not form.linear:
            values |= {"starts": call.starts, "pixels": call.pixels}
        return self.kernel.words(values)


def step_depth(length: int) -> int:
    """Bytes of a run of `length` channels that each of its steps multiplies."""
    parts = -(-length // DEPTH)
    return -(-length // (4 * parts)) * 4


def step_offsets(runs: tuple[int, ...], length: int, depth: int) -> Array:
    """Byte offset of every step of `runs`."""
    return (np.asarray(runs, np.int64)[:, None] + np.arange(0, length, depth)).reshape(-1).astype(np.int32)


def first_channels(n: int, across: int, joint: bool) -> Array:
    """First channel of each block's tiles."""
    tiles = -(-n // LANES)
    blocks = -(-tiles // across)
    if joint:
        starts = np.minimum(np.arange(blocks) * across * LANES, n - across * LANES)
        return np.asarray(starts[:, None] + np.arange(across) * LANES)
    return np.minimum(np.arange(across) * LANES, n - LANES)[None]


def build(
    isa: Isa, rows: TileRows, m: int, n: int, runs: tuple[int, ...], length: int, epilogue: Epilogue, groups: int = 1
) -> TileGemm:
    """The kernel for `m` pixels in tiles of `rows`, `n >= 16` channels a group, `runs` byte offsets with `length`
    contiguous channels each."""
    across = 1 if n == LANES else 2
    down = 1 if rows.tiles == 1 else 2
    pairs = -(-rows.tiles // down)
    weights = len(runs) * length * n
    # weights that do not stay in the second cache come from the third, asked for one block ahead
    ahead = 0 if weights <= SMALL_WEIGHTS else -(-LINES // pairs)
    form = Form(
        down=down,
        across=across,
        affine=len(runs) == 1,
        linear=rows.linear,
        joint=n >= across * LANES,
        single=rows.rows == 1,
        ahead=1 << (ahead - 1).bit_length() if ahead else 0,
    )
    return TileGemm(rows, m, n, runs, length, groups, form, _print(isa, form, epilogue), epilogue)


@functools.lru_cache(maxsize=1024)
def _print(isa: Isa, form: Form, epilogue: Epilogue) -> Kernel:
    return _Printer(isa, form, epilogue).kernel()


class _Printer:
    """Prints one kernel. Tiles 0 to 3 hold sums (row tile by row tile), 4 and 5 rows, 6 and 7 weights."""

    def __init__(self, isa: Isa, form: Form, epilogue: Epilogue) -> None:
        self.isa, self.form, self.epilogue = isa, form, epilogue
        pointers = ["x", "w", "init", "config", "out"]
        pointers += [] if form.affine else ["offsets"]
        pointers += [] if form.linear else ["starts", "pixels"]
        numbers = ("x_stride", "out_stride", "x_group", "m", "n", "steps", "depth", "rows", "groups", "tiles", "pairs")
        params = dict.fromkeys(pointers, "ptr") | dict.fromkeys((*numbers, "blocks", "m_chunks", "n_chunks"), "i64")
        self.f = Function(f"amx_{form.down}x{form.across}", params | epilogue.params(), optimize=False)
        self.sums = self.f.alloca("i32", 2 * MOST * 2 * LANES)
        self.line = self.f.const("i64", 4 * LANES)

    def kernel(self) -> Kernel:
        f, form = self.f, self.form
        self.tile("ldtilecfg", f.p["config"])
        self.epilogue.start(f, LANES)
        per_group = f.mul(f.p["m_chunks"], f.p["n_chunks"])
        tile_bytes = f.mul(f.p["depth"], LANES)
        panel = f.mul(f.mul(f.p["steps"], tile_bytes), form.across)
        first, last = f.my_range(f.mul(per_group, f.p["groups"]))
        with f.loop(first, last, name="unit") as unit:
            group, rest = f.udiv(unit.index, per_group), f.urem(unit.index, per_group)
            mc, nc = f.udiv(rest, f.p["n_chunks"]), f.urem(rest, f.p["n_chunks"])
            x = f.gep(f.p["x"], f.mul(group, f.p["x_group"]))
            with f.loop(*self.chunk(nc, "blocks", "n_chunks"), name="block") as block:
                which = f.add(f.mul(group, f.p["blocks"]), block.index)
                w = f.gep(f.p["w"], f.mul(which, panel))
                init = f.gep(f.p["init"], f.mul(which, form.across * 4 * LANES))
                channels = [f.add(f.mul(group, f.p["n"]), c) for c in self.channels(block.index)]
                leaves = [self.epilogue.vectors(f, n, LANES) for n in channels]
                pairs = self.chunk(mc, "pairs", "m_chunks")
                with f.loop(*pairs, name="pair") as pair:
                    tiles = [self.place(x, pair.index, a) for a in range(form.down)]
                    following = self.following(w, panel, f.sub(pair.index, pairs[0]))
                    self.multiply([at for at, _ in tiles], w, init, tile_bytes, following)
                    for a, (_, first_pixel) in enumerate(tiles):
                        self.store(a, first_pixel, channels, leaves)
        self.tile("tilerelease")
        return f.kernel()

    def tile(self, instruction: str, *operands: Value | int) -> None:
        """A tile instruction; an int is the number of a tile."""
        values = [Value("i8", str(x)) if isinstance(x, int) else x for x in operands]
        self.f.call(f"llvm.x86.{instruction}", "void", *values)

    def chunk(self, index: Value, count: str, chunks: str) -> tuple[Value, Value]:
        f = self.f
        n, parts = f.p[count], f.p[chunks]
        return f.udiv(f.mul(n, index), parts), f.udiv(f.mul(n, f.add(index, 1)), parts)

    def channels(self, block: Value) -> list[Value]:
        """First channel of each tile of a block."""
        f, n, across = self.f, self.f.p["n"], self.form.across
        if self.form.joint:
            first = f.smin(f.mul(block, across * LANES), f.sub(n, across * LANES))
            return [f.add(first, b * LANES) for b in range(across)]
        return [f.const("i64", 0), f.sub(n, LANES)][:across]

    def place(self, x: Value, pair: Value, a: int) -> tuple[Value, Value]:
        """Where row tile `a` of a pair reads, and its first pixel, or where its pixels are listed."""
        f = self.f
        index = f.smin(f.add(f.mul(pair, self.form.down), a), f.sub(f.p["tiles"], 1))
        if self.form.linear:
            pixel = f.smin(f.mul(index, f.p["rows"]), f.sub(f.p["m"], f.p["rows"]))
            return f.gep(x, f.mul(pixel, f.p["x_stride"])), pixel
        start = f.convert("sext", f.load("i32", f.gep(f.p["starts"], index, "i32"), 4), "i64")
        return f.gep(x, start), f.gep(f.p["pixels"], f.mul(index, MOST), "i32")

    def following(self, w: Value, panel: Value, done: Value) -> Value | None:
        """Where the part of the next block's weights begins that the pair asks for."""
        if not self.form.ahead:
            return None
        f = self.f
        return f.gep(f.gep(w, panel), f.mul(f.mul(done, f.p["steps"]), 64 * self.form.ahead))

    def multiply(self, rows: list[Value], w: Value, init: Value, tile_bytes: Value, following: Value | None) -> None:
        """Leaves the sums of a block in the buffer."""
        f, across = self.f, self.form.across
        same = f.const("i64", 0)
        for c in range(len(rows) * across):
            # a stride of zero puts one line into every row
            self.tile("tileloadd64", c, f.gep(init, c % across * 4 * LANES), same)
        with f.loop(0, f.p["steps"], nonempty=True, name="step") as k:
            at = f.gep(w, f.mul(f.mul(k.index, tile_bytes), across))
            if following is not None:
                mine = f.gep(following, f.mul(k.index, 64 * self.form.ahead))
                for line in range(self.form.ahead):
                    f.prefetch(f.gep(mine, 64 * line), SECOND_CACHE)
            offset = self.offset(k.index)
            for b in range(across):
                self.tile("tileloadd64", 6 + b, f.gep(at, f.mul(tile_bytes, b)), self.line)
            for a, row in enumerate(rows):
                self.tile("tileloadd64", 4 + a, f.gep(row, offset), f.p["x_stride"])
                for b in range(across):
                    self.tile("tdpbusd", a * across + b, 4 + a, 6 + b)
        pitch = f.const("i64", 4 * LANES * across)
        for c in range(len(rows) * across):
            at = f.gep(self.sums, (c // across * MOST * across + c % across) * 4 * LANES)
            self.tile("tilestored64", c, at, pitch)

    def offset(self, step: Value) -> Value:
        f = self.f
        if self.form.affine:
            return f.mul(step, f.p["depth"])
        return f.convert("sext", f.load("i32", f.gep(f.p["offsets"], step, "i32"), 4), "i64")

    def store(self, a: int, first: Value, channels: list[Value], leaves: list[dict[int, Value]]) -> None:
        """Finishes the rows of tile `a`, two at a time."""
        f, across = self.f, self.form.across
        count = 1 if self.form.single else 2
        sums = f.gep(self.sums, a * MOST * across * 4 * LANES)
        with f.loop(0, f.p["rows"], count, nonempty=True, name="row") as r:
            row = r.index if self.form.single else f.smin(r.index, f.sub(f.p["rows"], 2))
            results: list[Value] = []
            outs = []
            for i in range(count):
                pixel = self.pixel(first, f.add(row, i))
                outs.append(f.gep(f.p["out"], f.mul(pixel, f.p["out_stride"])))
                pointers = self.epilogue.row(f, pixel)
                for b, n in enumerate(channels):
                    at = f.gep(sums, f.mul(f.add(f.mul(f.add(row, i), across), b), 4 * LANES))
                    tensors = self.epilogue.tensors(f, pointers, n, LANES)
                    acc = f.load(vector_of("i32", LANES), at, 64)
                    wide = self.epilogue.saturate
                    results.append(self.epilogue.finish(f, self.isa, acc, {**leaves[b], **tensors}, wide))
            self.write(results, outs, channels)

    def pixel(self, first: Value, row: Value) -> Value:
        """The pixel of a row of a tile."""
        f = self.f
        if self.form.linear:
            return f.add(first, row)
        return f.convert("sext", f.load("i32", f.gep(first, row, "i32"), 4), "i64")

    def write(self, results: list[Value], outs: list[Value], channels: list[Value]) -> None:
        """Stores vectors of results, those of the first row first."""
        f, across = self.f, len(channels)
        size = element_bytes(self.epilogue.type)
        if self.epilogue.saturate:
            results = pack_each(f, results, True)
        if self.epilogue.saturate and self.form.joint and across > 1:
            for i, out in enumerate(outs):
                pair = f.shuffle(results[across * i], results[across * i + 1], range(2 * LANES))
                f.store(pair, f.gep(out, channels[0]))
            return
        for i, out in enumerate(outs):
            for b, n in enumerate(channels):
                f.store(results[across * i + b], f.gep(out, f.mul(n, size)))
