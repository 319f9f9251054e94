"""INT8 product of few rows and many weights in AMX's tile registers: weights pass once, as fast as they arrive.

What `amx_gemm` computes, to the same bits, for up to 4 tiles of rows. Weights come from the third cache, so nothing may
hold them up: they lie in the order of their use, and are asked for a little ahead, while blocks are finished too. Rows
stay in the first cache: where all of their channels do not, a part of them does (`channel_parts.py`). All blocks of 16
channels add up the products of one part before those of the next, and their sums wait in memory.

    gemm = amx_stream.build(isa, offsets, steps, parts=4, n=512, epilogue=finish)
    weights, sums = gemm.pack(w)                 # w [taps, C, N] i8
"""

from __future__ import annotations

import functools

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref, Word
from lpir.devices.cpu.codegen.emitter import FIRST_CACHE, Function, Value, vector_of
from lpir.devices.cpu.codegen.vector import concat, split
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.amx_blocks import DEPTH, LANES, LINE, Array
from lpir.devices.cpu.kernels.amx_gemm import CONFIG_BYTES, Call
from lpir.devices.cpu.kernels.amx_print import TilePrinter
from lpir.devices.cpu.kernels.amx_rows import MOST, TileRows, tile_rows
from lpir.devices.cpu.kernels.epilogue import Epilogue, Pointer, element_bytes
from lpir.devices.cpu.kernels.interleave import pack_in_order
from lpir.devices.cpu.kernels.pack import with_slack
from lpir.record import record

DOWN, GROUP = 4, 4  # tiles of rows; blocks of channels that are finished together, because they share cache lines
TOGETHER = 2  # rows that are finished side by side: their operations hide each other's latency
TILE_BYTES = DEPTH * LANES
SUMS_BYTES = DOWN * MOST * LANES * 4
# how far ahead of their use weights are asked for, and how many bytes with each round of finished rows
AHEAD, BESIDE = 4 * TILE_BYTES, 4 * LINE
# weights that an inference surely has displaced from a core's own caches before it comes back to them
LEAST_WEIGHTS = 512 * 1024


@record
class StreamGemm:
    """A kernel, and the shape that `params` fills in. `steps` int32: byte offset of each step from its row's start, of
    all steps of a part, then of the next one."""

    rows: TileRows
    steps: Array
    parts: int
    n: int
    zero: bool
    kernel: Kernel
    epilogue: Epilogue

    @property
    def waiting_bytes(self) -> int:
        """Bytes of memory for sums that wait for the next part."""
        return self.n // LANES * SUMS_BYTES if self.parts > 1 else 0

    def config(self) -> Array:
        """What `ldtilecfg` reads: palette 1, then bytes a row and rows of each tile."""
        data = np.zeros(CONFIG_BYTES, np.uint8)
        data[0] = 1
        for tile in range(7):
            data[16 + 2 * tile], data[48 + tile] = DEPTH, LANES if tile == 6 else self.rows.rows
        return data

    def pack(self, w: Array) -> tuple[Array, Array]:
        """`w` [taps, C, N] i8 as bytes [parts, blocks, steps, 16, 16, 4], and each lane's sum of weights."""
        taps, channels, _ = w.shape
        rows = np.ascontiguousarray(w.transpose(2, 0, 1))
        quads = rows.view(np.int32).reshape(-1, LANES, taps, self.parts, channels // (self.parts * DEPTH), DEPTH // 4)
        # [blocks, lanes, taps, parts, steps of a tap, quads]
        packed = quads.transpose(3, 0, 2, 4, 5, 1)
        return with_slack(packed), rows.sum(axis=(1, 2), dtype=np.int32)

    def params(self, call: Call, waiting: Pointer) -> list[Word]:
        """The kernel's parameter words; `waiting`: `waiting_bytes` of memory."""
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": call.x, "x_stride": self.rows.stride, "w": call.weights, "init": call.init, "config": call.config},
            **{"out": call.out, "out_stride": call.out_stride, "offsets": call.offsets, "waiting": waiting},
            **{"starts": call.starts, "pixels": call.pixels, "rows": self.rows.rows},
            **{"steps": len(self.steps) // self.parts, "parts": self.parts, "groups": self.n // (GROUP * LANES)},
            **{"zero": int(self.zero)},
            **self.epilogue.values(call.operands),
        }
        return self.kernel.words(values)


def build(
    isa: Isa, offsets: Array, steps: Array, parts: int, n: int, epilogue: Epilogue, zero: bool = False
) -> StreamGemm | None:
    """The kernel for pixels at byte `offsets`; None where they are not 3 or 4 tiles, or channels not whole groups."""
    # fewer rows are one block of `amx_gemm`, which needs its weights just once too
    rows = tile_rows(offsets, DOWN).listed(len(offsets)) if len(offsets) > 2 * MOST else None
    if rows is None or rows.tiles != DOWN or n % (GROUP * LANES):
        return None
    return StreamGemm(rows, steps, parts, n, zero, _print(isa, epilogue), epilogue)


@functools.lru_cache(maxsize=64)
def _print(isa: Isa, epilogue: Epilogue) -> Kernel:
    return _Printer(isa, epilogue).kernel()


class _Printer(TilePrinter):
    """Prints one kernel. Tiles 0 to 3 hold sums, 4 and 5 rows, 6 weights."""

    def __init__(self, isa: Isa, epilogue: Epilogue) -> None:
        self.isa, self.epilogue = isa, epilogue
        pointers = ("x", "w", "init", "config", "out", "offsets", "starts", "pixels", "waiting")
        numbers = ("x_stride", "out_stride", "rows", "steps", "parts", "groups", "zero")
        params = dict.fromkeys(pointers, "ptr") | dict.fromkeys(numbers, "i64")
        super().__init__(Function("amx_stream", params | epilogue.params(), optimize=False))
        self.sums = self.f.alloca("i8", GROUP * SUMS_BYTES)

    def kernel(self) -> Kernel:
        f = self.f
        self.tile("ldtilecfg", f.p["config"])
        self.epilogue.start(f, TOGETHER * GROUP * LANES)
        first, last = f.my_range(f.p["groups"])
        is_whole = f.icmp("eq", f.p["parts"], 1)
        height = f.mul(f.p["rows"], DOWN)
        panel = f.mul(f.p["steps"], TILE_BYTES)
        starts = [f.load("i32", f.gep(f.p["starts"], i, "i32"), 4) for i in range(DOWN)]
        rows = [f.gep(f.p["x"], f.convert("sext", start, "i64")) for start in starts]
        with f.loop(0, f.p["parts"], nonempty=True, name="part") as part, f.loop(first, last, name="group") as group:
            sums = f.select(is_whole, self.sums, f.gep(f.p["waiting"], f.mul(group.index, GROUP * SUMS_BYTES)))
            which = f.mul(f.add(f.mul(part.index, f.p["groups"]), group.index), GROUP)
            weights = f.gep(f.p["w"], f.mul(which, panel))
            offsets = f.gep(f.p["offsets"], f.mul(part.index, f.p["steps"]), "i32")
            with f.loop(0, GROUP, nonempty=True, name="block") as block:
                init = f.gep(f.p["init"], f.mul(f.add(f.mul(group.index, GROUP), block.index), LINE))
                w = f.gep(weights, f.mul(block.index, panel))
                self.block(part.index, init, w, f.gep(sums, f.mul(block.index, SUMS_BYTES)), rows, offsets)
            # no rows before the last part
            some = f.select(f.icmp("eq", f.add(part.index, 1), f.p["parts"]), height, 0)
            soon = f.gep(weights, f.add(f.mul(panel, GROUP), AHEAD))
            with f.loop(0, some, TOGETHER, name="row") as row:
                self.ask_near(f.gep(soon, f.mul(row.index, BESIDE // TOGETHER)), BESIDE)
                self.finish(row.index, sums, f.mul(group.index, GROUP * LANES))
        self.tile("tilerelease")
        return f.kernel()

    def block(self, part: Value, init: Value, w: Value, sums: Value, rows: list[Value], offsets: Value) -> None:
        """Adds the products of a part to the sums of a block."""
        f = self.f
        height = f.mul(f.p["rows"], LINE)
        places = [f.gep(sums, f.mul(height, i)) for i in range(DOWN)]
        with f.if_(f.icmp("eq", part, 0)):
            with f.if_(f.icmp("ne", f.p["zero"], 0)):
                for i in range(DOWN):
                    self.tile("tilezero", i)
            with f.if_(f.icmp("eq", f.p["zero"], 0)):
                for i in range(DOWN):
                    self.fill(i, init)
        with f.if_(f.icmp("ne", part, 0)):
            for i, at in enumerate(places):
                self.tile("tileloadd64", i, at, self.line)
        with f.loop(0, f.p["steps"], nonempty=True, name="step") as k:
            tile = f.gep(w, f.mul(k.index, TILE_BYTES))
            self.ask_near(f.gep(tile, AHEAD), TILE_BYTES)
            offset = f.convert("sext", f.load("i32", f.gep(offsets, k.index, "i32"), 4), "i64")
            self.tile("tileloadd64", 6, tile, self.line)
            for i, row in enumerate(rows):
                self.tile("tileloadd64", 4 + i % 2, f.gep(row, offset), f.p["x_stride"])
                self.tile("tdpbusd", i, 4 + i % 2, 6)
        for i, at in enumerate(places):
            self.tile("tilestored64", i, at, self.line)

    def finish(self, row: Value, sums: Value, channel: Value) -> None:
        """Finishes rows `row ..` of a group of blocks that starts at `channel`."""
        f = self.f
        channels = [f.add(channel, i * LANES) for i in range(GROUP)]
        vectors = [self.epilogue.vectors(f, n, LANES) for n in channels]
        outs: list[Value] = []
        leaves: list[dict[int, Value]] = []
        acc: list[Value] = []
        for i in range(TOGETHER):
            at = f.add(row, i)
            pixel = f.convert("sext", f.load("i32", f.gep(f.p["pixels"], at, "i32"), 4), "i64")
            outs.append(f.gep(f.p["out"], f.mul(pixel, f.p["out_stride"])))
            pointers = self.epilogue.row(f, pixel)
            for block, n in enumerate(channels):
                leaves.append(vectors[block] | self.epilogue.tensors(f, pointers, n, LANES))
                place = f.gep(f.gep(sums, f.mul(at, LINE)), block * SUMS_BYTES)
                acc.append(f.load(vector_of("i32", LANES), place, 64))
        wide = {i: concat(f, [leaf[i] for leaf in leaves]) for i in leaves[0]}
        result = self.epilogue.finish(f, self.isa, concat(f, acc), wide, self.epilogue.saturate)
        size = element_bytes(self.epilogue.type)
        for i, out in enumerate(outs):
            parts = split(f, result, LANES)[i * GROUP : (i + 1) * GROUP]
            if self.epilogue.saturate:
                f.store(pack_in_order(f, parts, True), f.gep(out, channel))
                continue
            for part, n in zip(parts, channels, strict=True):
                f.store(part, f.gep(out, f.mul(n, size)))

    def ask_near(self, at: Value, size: int) -> None:
        """Asks for `size` bytes at `at`, into the first cache."""
        for i in range(0, size, LINE):
            self.f.prefetch(self.f.gep(at, i), FIRST_CACHE)
