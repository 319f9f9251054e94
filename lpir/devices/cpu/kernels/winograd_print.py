"""The two kernels of an integer Winograd convolution; `winograd.py` has the algebra.

`patches` writes the transformed patches of all tiles, int16 `[36, tiles, C]`, each of the 36 positions `between` bytes
behind the one before. `products` multiplies them: for a vector of channels and a few tiles, 36 products of a matrix
leave their int32 sums in a buffer in the first cache, from which outputs are made and finished by the epilogue.
"""

from __future__ import annotations

import functools

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import SECOND_CACHE, Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.isa.dots import pmaddwd
from lpir.devices.cpu.kernels.epilogue import Epilogue, element_bytes, row_pointer
from lpir.devices.cpu.kernels.interleave import pack_each
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.devices.cpu.kernels.winograd import (
    PATCH,
    POSITIONS,
    TAPS,
    TILE,
    finish_sum,
    transform_patch,
    transform_sums,
    transform_weights,
)

# rows whose sums are in the buffer at once: so many use a weight while it is near
ROWS = 16
LINE = 64  # bytes of a cache line


@functools.cache
def patches(isa: Isa) -> Kernel:
    """Transforms patches of u8 codes: `starts` int32 is where each begins in `x`, which has rows of `line` bytes."""
    lanes = isa.lanes(16)
    codes, words = vector_of("i8", lanes), vector_of("i16", lanes)
    params = {
        **dict.fromkeys(("x", "starts", "out"), "ptr"),
        **dict.fromkeys(("tiles", "channels", "line", "between"), "i64"),
    }
    f = Function(f"winograd_patches_{isa.name}", params, optimize=False)
    channels, between = f.p["channels"], f.p["between"]
    half = f.alloca(words, POSITIONS)
    with f.loop(*f.my_range(f.p["tiles"]), name="tile") as tile:
        start = f.load("i32", f.gep(f.p["starts"], tile.index, "i32"), 4)
        x = f.gep(f.p["x"], f.convert("sext", start, "i64"))
        out = f.gep(f.p["out"], f.mul(tile.index, channels), "i16")
        with f.loop(0, f.udiv(f.add(channels, lanes - 1), lanes), name="part") as part:
            # the last vector of channels overlaps the one before it
            channel = f.smin(f.mul(part.index, lanes), f.sub(channels, lanes))
            with f.loop(0, PATCH, name="row") as row:
                at = f.gep(f.gep(x, channel), f.mul(row.index, f.p["line"]))
                pixels = [f.load(codes, f.gep(at, f.mul(channels, j))) for j in range(PATCH)]
                to = f.gep(half, f.mul(row.index, PATCH), words)
                for j, value in enumerate(transform_patch(f, [f.convert("zext", p, words) for p in pixels])):
                    f.store(value, f.gep(to, j, words))
            with f.loop(0, PATCH, name="column") as column:
                at = f.gep(half, column.index, words)
                to = f.gep(f.gep(out, channel, "i16"), f.mul(column.index, between))
                given = [f.load(words, f.gep(at, i * PATCH, words)) for i in range(PATCH)]
                for i, value in enumerate(transform_patch(f, given)):
                    f.store(value, f.gep(to, f.mul(between, i * PATCH)))
    return f.kernel()


@functools.lru_cache(maxsize=256)
def products(isa: Isa, tile: Tile, unroll: int, epilogue: Epilogue) -> Kernel:
    """Multiplies patches by packed weights, and finishes their outputs; a row of `tile` is a tile of outputs."""
    return _Products(isa, tile, unroll, epilogue).kernel()


class _Products:
    """Prints `products`."""

    def __init__(self, isa: Isa, tile: Tile, unroll: int, epilogue: Epilogue) -> None:
        self.isa, self.unroll, self.epilogue = isa, unroll, epilogue
        self.rows, self.vectors = tile.rows, tile.vectors
        # register tiles of a strip
        self.strip = ROWS // self.rows
        self.lanes = isa.lanes()
        self.sum_type = vector_of("i32", self.lanes)
        self.word_type = vector_of("i16", 2 * self.lanes)
        pointers = ("v", "w", "u", "init", "out", "pixels")
        numbers = ("tiles", "channels", "between", "column", "n", "out_rows", "columns", "m_tiles", "n_blocks")
        params = {
            **dict.fromkeys(pointers, "ptr"),
            **dict.fromkeys((*numbers, "m_chunks", "n_chunks"), "i64"),
            **epilogue.params(),
        }
        self.f = Function(f"winograd_{isa.name}_{tile.rows}x{tile.vectors}", params, optimize=False)
        self.sums = self.f.alloca(self.sum_type, self.strip * self.rows * POSITIONS * self.vectors)
        self.half = self.f.alloca(self.sum_type, PATCH * TILE)
        self.taps = self.f.alloca(self.word_type, PATCH * PATCH // 2)

    def kernel(self) -> Kernel:
        f, p = self.f, self.f.p
        self.epilogue.start(f, self.lanes)
        # each thread's transformed weights of a block
        self.u = f.gep(p["u"], f.mul(f.mul(p["column"], POSITIONS), f.tid))
        with f.loop(*f.my_range(f.mul(p["m_chunks"], p["n_chunks"])), name="unit") as unit:
            mc, nc = f.udiv(unit.index, p["n_chunks"]), f.urem(unit.index, p["n_chunks"])
            tiles = self._chunk(mc, p["m_tiles"], p["m_chunks"])
            with f.loop(*self._chunk(nc, p["n_blocks"], p["n_chunks"]), name="block") as block:
                self._prepare(block.index)
                with f.loop(*tiles, self.strip, name="strip") as strip:
                    last = f.smin(f.add(strip.index, self.strip), tiles[1])
                    self._multiply(strip.index, last)
                    self._finish(block.index, strip.index, last)
        return f.kernel()

    def _chunk(self, index: Value, count: Value, chunks: Value) -> tuple[Value, Value]:
        f = self.f
        return f.udiv(f.mul(count, index), chunks), f.udiv(f.mul(count, f.add(index, 1)), chunks)

    def _first(self, index: Value) -> Value:
        """The first tile of a register tile: the last one overlaps its neighbor."""
        f = self.f
        return f.smin(f.mul(index, self.rows), f.sub(f.p["tiles"], self.rows))

    def _buffer(self, index: Value, strip: Value) -> Value:
        """Where the sums of a register tile of a strip are: 36 times `vectors` for each of its rows."""
        f = self.f
        return f.gep(self.sums, f.mul(f.sub(index, strip), self.rows * POSITIONS * self.vectors), self.sum_type)

    def _prepare(self, block: Value) -> None:
        """Transforms the weights of a block: 36 positions of `column` bytes each."""
        f, channels = self.f, self.f.p["channels"]
        raw, size = vector_of("i8", 2 * self.lanes), 2 * self.lanes
        panel = f.mul(channels, TAPS * self.vectors * self.lanes)
        w = f.gep(f.p["w"], f.mul(block, panel))
        with f.loop(0, channels, 2, nonempty=True, name="pair") as pair:
            at = f.gep(w, f.mul(pair.index, TAPS * self.vectors * self.lanes))
            to = f.gep(self.u, f.mul(pair.index, 2 * self.lanes * self.vectors))
            # the next block's weights come from far away
            for line in range(0, TAPS * self.vectors * size, LINE):
                f.prefetch(f.gep(f.gep(at, panel), line), SECOND_CACHE)
            for j in range(self.vectors):
                self._transform(f.gep(at, j * size), f.gep(to, 2 * j * size), raw)

    def _transform(self, at: Value, to: Value, raw: str) -> None:
        """The weights of a vector of pairs of channels: `raw` bytes of nine taps from `at` on, words to `to`."""
        f, column, size = self.f, self.f.p["column"], self.vectors * 2 * self.lanes
        side = PATCH // 2
        with f.loop(0, side, name="tap") as tap:
            taps = [f.load(raw, f.gep(f.gep(at, f.mul(tap.index, size)), i * side * size)) for i in range(side)]
            place = f.gep(self.taps, tap.index, self.word_type)
            for i, value in enumerate(transform_weights(f, [f.convert("sext", t, self.word_type) for t in taps])):
                f.store(value, f.gep(place, i * side, self.word_type))
        with f.loop(0, PATCH, name="line") as line:
            place = f.gep(self.taps, f.mul(line.index, side), self.word_type)
            given = [f.load(self.word_type, f.gep(place, j, self.word_type)) for j in range(side)]
            out = f.gep(to, f.mul(f.mul(line.index, PATCH), column))
            for j, value in enumerate(transform_weights(f, given)):
                f.store(value, f.gep(out, f.mul(column, j)))

    def _multiply(self, strip: Value, last: Value) -> None:
        """All products of a strip of register tiles with a block's weights."""
        f, p = self.f, self.f.p
        with f.loop(0, POSITIONS, name="position") as position:
            weights = f.gep(self.u, f.mul(position.index, p["column"]))
            v = f.gep(p["v"], f.mul(position.index, p["between"]))
            with f.loop(strip, last, name="tile") as tile:
                first = f.gep(v, f.mul(self._first(tile.index), p["channels"]), "i16")
                sums = self._sums(first, weights)
                to = f.gep(self._buffer(tile.index, strip), f.mul(position.index, self.vectors), self.sum_type)
                for i, total in enumerate(sums):
                    row, vector = divmod(i, self.vectors)
                    f.store(total, f.gep(to, row * POSITIONS * self.vectors + vector, self.sum_type))

    def _sums(self, first: Value, weights: Value) -> list[Value]:
        """Sums over channels of `rows` transformed patches from `first` on, `vectors` each."""
        f, channels, size = self.f, self.f.p["channels"], 4 * self.lanes
        pointers = [first]
        while len(pointers) < self.rows:
            pointers.append(f.gep(pointers[-1], channels, "i16"))
        start = [f.zeros(self.sum_type)] * (self.rows * self.vectors)
        with f.loop(0, channels, 2 * self.unroll, carried=start, nonempty=True, name="pair") as k:
            at = f.gep(weights, f.mul(k.index, 2 * self.lanes * self.vectors))
            k.next = k.values
            for u in range(self.unroll):
                places = [f.gep(at, (u * self.vectors + j) * size) for j in range(self.vectors)]
                ws = [f.load(self.word_type, place) for place in places]
                sums, k.next = k.next, []
                for r, pointer in enumerate(pointers):
                    two = f.load("i32", f.gep(f.gep(pointer, k.index, "i16"), 4 * u))
                    a = f.convert("bitcast", f.splat(two, self.lanes), self.word_type)
                    own = sums[r * self.vectors : (r + 1) * self.vectors]
                    k.next += [f.add(total, pmaddwd(f, a, w)) for total, w in zip(own, ws, strict=True)]
        return k.results

    def _finish(self, block: Value, strip: Value, last: Value) -> None:
        """Outputs of a strip from the sums in the buffer."""
        f, p = self.f, self.f.p
        columns = f.udiv(f.add(p["n"], self.lanes - 1), self.lanes)
        # the last block and the last vector overlap their neighbors
        column = f.smin(f.mul(block, self.vectors), f.sub(columns, self.vectors))
        with f.loop(0, self.vectors, name="vector") as vector:
            n = f.smin(f.mul(f.add(column, vector.index), self.lanes), f.sub(p["n"], self.lanes))
            lane = f.mul(f.add(f.mul(block, self.vectors), vector.index), self.lanes)
            init = f.load(self.sum_type, f.gep(p["init"], lane, "i32"), 4)
            with f.loop(strip, last, name="tile") as tile:
                first = self._first(tile.index)
                sums = f.gep(self._buffer(tile.index, strip), vector.index, self.sum_type)
                with f.loop(0, self.rows, name="row") as row:
                    at = f.gep(sums, f.mul(row.index, POSITIONS * self.vectors), self.sum_type)
                    pixel = f.load("i32", f.gep(p["pixels"], f.add(first, row.index), "i32"), 4)
                    self._outputs(at, f.convert("sext", pixel, "i64"), n, init)

    def _outputs(self, sums: Value, pixel: Value, n: Value, init: Value) -> None:
        """The 4 x 4 outputs of one tile; `pixel` is the first one's place."""
        f, e = self.f, self.epilogue
        with f.loop(0, PATCH, name="line") as line:
            at = f.gep(sums, f.mul(line.index, PATCH * self.vectors), self.sum_type)
            to = f.gep(self.half, f.mul(line.index, TILE), self.sum_type)
            given = [f.load(self.sum_type, f.gep(at, j * self.vectors, self.sum_type)) for j in range(PATCH)]
            for j, value in enumerate(transform_sums(f, given)):
                f.store(value, f.gep(to, j, self.sum_type))
        with f.loop(0, TILE, name="column") as column:
            at = f.gep(self.half, column.index, self.sum_type)
            given = [f.load(self.sum_type, f.gep(at, i * TILE, self.sum_type)) for i in range(PATCH)]
            leaves = e.vectors(f, n, self.lanes)
            results, places = [], []
            for i, value in enumerate(transform_sums(f, given)):
                total = f.add(finish_sum(f, value), init)
                m = f.add(f.add(pixel, column.index), f.mul(f.p["columns"], i))
                tensors = e.tensors(f, e.row(f, m), n, self.lanes)
                results.append(e.finish(f, self.isa, total, {**leaves, **tensors}, e.saturate))
                places.append(f.gep(row_pointer(f, f.p["out"], f.p["out_rows"], m), f.mul(n, element_bytes(e.type))))
            if e.saturate:
                results = pack_each(f, results, self.isa.is_x86)
            for result, place in zip(results, places, strict=True):
                f.store(result, place)
