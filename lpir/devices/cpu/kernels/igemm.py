"""INT8 matrix product with an epilogue: convolutions of any rank, grouped too, and MatMul with constant weights.

For group `g`, row (output pixel) `m` and channel `n`:

    acc  = init[g, n] + sum_s dot4(x[g * group + rows(m) + offsets[s] .. + 4], w[g, s, :, n])      exact in int32
    out[g * N + n, row m] = epilogue(acc, operands)

`x` is u8, `w` i8. `init` holds `-zero_point * sum(w)`. A KxK convolution reads an input that is already padded with its
zero point; `offsets` has a step for every tap and 4 channels. Rows of `x`, of the output and of tensor operands are a
byte stride or an int32 table of byte offsets (`Rows`).

    finish = Epilogue(expr, [Operand("vector", f32)])
    gemm = igemm.build(isa, m=3136, n=144, channels=24, taps=(0,), epilogue=finish)
    packed = gemm.pack(w)                        # w [G, taps, C, N] i8 -> PackedWeights
    words = gemm.params(Call(...), threads=2)    # words for gemm.kernel (symbol, text)

Reads are whole vectors and 4 bytes: every buffer needs 64 readable bytes behind its end. The last row tile and the last
vector overlap their neighbors, so some outputs are computed and stored twice: the output must not share memory with
the input or a tensor operand.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref, Word
from lpir.devices.cpu.codegen.emitter import SECOND_CACHE, Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import tiling
from lpir.devices.cpu.kernels.epilogue import (
    Bound,
    Epilogue,
    Pointer,
    Rows,
    element_bytes,
    row_pointer,
    store_lanes,
)
from lpir.devices.cpu.kernels.interleave import pack_each
from lpir.devices.cpu.kernels.pack import Array, PackedWeights, pack_weights, step_offsets
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.ir.types import i32
from lpir.record import record
from lpir.scalar.expr import Expr

# bytes of rows that one unit of work may touch, and of weights that may be read again for every unit
L1, L2 = 24 * 1024, 256 * 1024
MAX_K = (1 << 31) // (255 * 128)


def applies(channels: int, taps: int, epilogue: Expr) -> str | None:
    """Why the kernel cannot be used, or None."""
    if channels * taps > MAX_K:
        return f"{channels * taps} products can overflow an int32 sum"
    if epilogue.inputs().get(0, i32) != i32:
        return f"the epilogue wants a {epilogue.inputs()[0]} sum, not int32"
    return None


@record
class Call:
    """Buffers of one layer. `x`, `out`: pointer to the first row; `init`: `init_vector`; `x_group`: bytes between the
    inputs of two groups; `offsets`, `ranges`: of `PackedWeights`, where the kernel needs them."""

    x: Pointer
    x_rows: Rows
    weights: Pointer
    init: Pointer
    out: Pointer
    out_rows: Rows
    operands: Sequence[Bound] = ()
    offsets: Pointer = 0
    x_group: int = 0
    ranges: Pointer = 0


@record
class IntGemm:
    """A kernel for one shape class, and the shape that `params` fills in."""

    isa: Isa
    m: int
    n: int
    channels: int
    taps: tuple[int, ...]
    groups: int
    tile: Tile
    kernel: Kernel
    epilogue: Epilogue
    # codes of a row that a step multiplies
    codes: ClassVar[int] = 4

    @property
    def steps(self) -> int:
        """Steps of a sum."""
        return len(self.taps) * -(-self.channels // self.codes)

    @property
    def offsets(self) -> Array:
        """int32 byte offset of every step: the table behind `Call.offsets` where `needs_offsets`."""
        return step_offsets(self.taps, self.channels, self.codes)

    @property
    def needs_offsets(self) -> bool:
        """Whether the kernel reads the table of offsets (a single contiguous run of channels needs none)."""
        return "offsets" in dict(self.kernel.params)

    @property
    def needs_ranges(self) -> bool:
        """Whether the kernel asks which steps each block of channels has."""
        return "ranges" in dict(self.kernel.params)

    def pack(self, w: Array, top: int = 255) -> PackedWeights:
        """Packs `w` [G, taps, C, N] i8; activations are at most `top`, which an exact instruction need not know."""
        return pack_weights(w, self.isa.lanes(), self.tile.vectors, self.offsets, self.codes)

    @property
    def row_bytes(self) -> int:
        """What a row touches in input and output: output lines must stay in L1 for the next block."""
        return self.steps * self.codes + self.n * self.epilogue.row_bytes

    def params(self, call: Call, threads: int) -> list[Word]:
        """The kernel's parameter words, for work shared by `threads`."""
        lanes, tile = self.isa.lanes(), self.tile
        columns = -(-self.n // lanes)
        tiles, blocks = -(-self.m // tile.rows), -(-columns // tile.vectors)
        weights = self.n * self.steps * self.codes
        cache = L1 if weights <= L2 else L2
        mc, nc = tiling.choose_chunks(self.groups, tiles, blocks, tile.rows * self.row_bytes, threads, cache)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": call.x, "x_rows": _rows(call.x_rows), "w": call.weights, "init": call.init},
            **{"out": call.out, "out_rows": _rows(call.out_rows), "m": self.m, "n": self.n, "steps": self.steps},
            **{
                "groups": self.groups,
                "x_group": call.x_group,
                "m_tiles": tiles,
                "n_blocks": blocks,
                "m_chunks": mc,
                "n_chunks": nc,
            },
            **self.epilogue.values(call.operands),
        }
        if self.needs_offsets:
            values["offsets"] = call.offsets
        if self.needs_ranges:
            values["ranges"] = call.ranges
        return self.kernel.words(values)


def init_vector(isa: Isa, packed: PackedWeights, zero_point: int) -> Array:
    """int32, a lane each: what a sum starts from, so that it counts `x - zero_point`."""
    return ((isa.shift - zero_point) * packed.sums.astype(np.int64)).astype(np.int32)


def build(
    isa: Isa,
    m: int,
    n: int,
    channels: int,
    taps: tuple[int, ...],
    epilogue: Epilogue,
    groups: int = 1,
    x_table: bool = False,
    out_table: bool = False,
    tile: Tile | None = None,
) -> IntGemm:
    """The kernel for `m` rows, `n` channels a group, `taps` byte offsets with `channels` contiguous channels each.

    `x_table`, `out_table`: rows of the input, of the output are found by a table instead of a stride.
    """
    steps = len(taps) * -(-channels // 4)
    tile = tile or tiles(isa, m, n, steps, epilogue)[0]
    form = Form(
        affine=len(taps) == 1,
        unroll=_unroll(tile, steps),
        narrow=n < isa.lanes(),
        x_table=x_table,
        out_table=out_table,
    )
    return IntGemm(isa, m, n, channels, taps, groups, tile, _print(isa, tile, epilogue, form), epilogue)


def tiles(isa: Isa, m: int, n: int, steps: int, epilogue: Epilogue) -> list[Tile]:
    """Tiles for `m` rows, `n` channels a group and sums of `steps` dot products, the best first."""
    ops = sum(1 for e in epilogue.expr.walk() if e.args)
    return tiling.rank_tiles(isa, m, n, steps, isa.dot_cost, ops + 2.0, isa.spare)


@functools.lru_cache(maxsize=1024)
def _print(isa: Isa, tile: Tile, epilogue: Epilogue, form: Form) -> Kernel:
    return Printer(isa, tile, epilogue, form).kernel()


def _rows(rows: Rows) -> int | Ref:
    return rows.stride if rows.table is None else rows.table


def _unroll(tile: Tile, steps: int) -> int:
    """K-steps a round of the inner loop: small tiles need more, to hide its overhead."""
    wanted = 1 if tile.rows * tile.vectors > 12 else 2 if tile.rows * tile.vectors > 6 else 4
    return max(u for u in (1, 2, 4) if u <= wanted and steps % u == 0)


@record
class Form:
    """What is compiled into a kernel besides its tile and epilogue."""

    affine: bool
    unroll: int
    narrow: bool
    x_table: bool
    out_table: bool


class Printer:
    """Prints one kernel."""

    codes: ClassVar[int] = IntGemm.codes

    def __init__(self, isa: Isa, tile: Tile, epilogue: Epilogue, form: Form) -> None:
        self.isa, self.tile, self.epilogue, self.form = isa, tile, epilogue, form
        self.lanes = isa.lanes()
        self.acc_type = vector_of("i32", self.lanes)
        self.byte_type = vector_of("i8", 4 * self.lanes)
        rows = {False: "i64", True: "ptr"}
        params = {
            **{"x": "ptr", "x_rows": rows[form.x_table], "w": "ptr", "init": "ptr"},
            **{"out": "ptr", "out_rows": rows[form.out_table]},
            **dict.fromkeys(
                ("m", "n", "steps", "groups", "x_group", "m_tiles", "n_blocks", "m_chunks", "n_chunks"), "i64"
            ),
            **epilogue.params(),
        }
        params |= self.step_params()
        kind = f"igemm_{isa.name}_{tile.rows}x{tile.vectors}"
        self.f = Function(kind, params, optimize=False, lean=isa.lean)

    def step_params(self) -> dict[str, str]:
        """Names and types of the parameters that tell where the steps of a sum read."""
        return {} if self.form.affine else {"offsets": "ptr"}

    def kernel(self) -> Kernel:
        f = self.f
        self.epilogue.start(f, self.lanes)
        per_group = f.mul(f.p["m_chunks"], f.p["n_chunks"])
        panel = f.mul(f.p["steps"], self.tile.vectors * self.lanes * self.codes)
        first, last = f.my_range(f.mul(per_group, f.p["groups"]))
        with f.loop(first, last, name="unit") as unit:
            group, rest = f.udiv(unit.index, per_group), f.urem(unit.index, per_group)
            mc, nc = f.udiv(rest, f.p["n_chunks"]), f.urem(rest, f.p["n_chunks"])
            x = f.gep(f.p["x"], f.mul(group, f.p["x_group"]))
            blocks = self._chunk(nc, f.p["n_blocks"], f.p["n_chunks"])
            tiles = self._chunk(mc, f.p["m_tiles"], f.p["m_chunks"])
            with f.loop(*blocks, name="block") as block:
                which = f.add(f.mul(group, f.p["n_blocks"]), block.index)
                w = self.block_weights(which, panel, tiles)
                channels = self._channels(block.index)
                base = f.mul(group, f.p["n"])
                with f.loop(*tiles, name="tile") as tile:
                    self._tile(x, w, which, [f.add(base, c) for c in channels], tile.index)
        return f.kernel()

    def block_weights(self, which: Value, panel: Value, tiles: tuple[Value, Value]) -> Value:
        """Where the weights of a block begin, which `tiles` read; a block of every step has `panel` bytes."""
        f = self.f
        w = f.gep(f.p["w"], f.mul(which, panel))
        self.look_ahead(f.gep(w, panel), panel, f.udiv(f.p["steps"], self.form.unroll), tiles)
        return w

    def look_ahead(self, following: Value, nbytes: Value, rounds: Value, tiles: tuple[Value, Value]) -> None:
        """Each of the `rounds` of every tile's inner loop will ask for some of `nbytes` of weights, the next block's.

        They come from far away, and the first tile of a block would wait for them.
        """
        f = self.f
        all_rounds = f.smax(f.mul(f.sub(tiles[1], tiles[0]), rounds), 1)
        self.ahead = f.add(f.udiv(nbytes, all_rounds), 1)
        self.tile_ahead = f.mul(self.ahead, rounds)
        self.next = f.gep(following, f.sub(0, f.mul(tiles[0], self.tile_ahead)))

    def soon(self, tile: Value) -> Value:
        """What the first round of a tile asks for; each later one asks for what lies `ahead` bytes further."""
        return self.f.gep(self.next, self.f.mul(tile, self.tile_ahead))

    def _chunk(self, index: Value, count: Value, chunks: Value) -> tuple[Value, Value]:
        f = self.f
        return f.udiv(f.mul(count, index), chunks), f.udiv(f.mul(count, f.add(index, 1)), chunks)

    def _channels(self, block: Value) -> list[Value]:
        """First channel of each vector of a block: the last ones overlap rather than pass the end."""
        f, lanes, vectors = self.f, self.lanes, self.tile.vectors
        n = f.p["n"]
        columns = f.udiv(f.add(n, lanes - 1), lanes)
        first = f.mul(f.smin(f.mul(block, vectors), f.sub(columns, vectors)), lanes)
        channels = [f.add(first, j * lanes) for j in range(vectors - 1)]
        end = f.add(first, (vectors - 1) * lanes)
        return [*channels, end if self.form.narrow else f.smin(end, f.sub(n, lanes))]

    def _tile(self, x: Value, w: Value, which: Value, channels: list[Value], index: Value) -> None:
        f, width = self.f, self.tile.vectors * self.lanes
        first = f.smin(f.mul(index, self.tile.rows), f.sub(f.p["m"], self.tile.rows))
        rows = [f.add(first, r) for r in range(self.tile.rows)]
        pointers = self.row_pointers(x, f.p["x_rows"], rows)
        init = f.gep(f.p["init"], f.mul(which, width), "i32")
        starts = [f.load(self.acc_type, f.gep(init, j * self.lanes, "i32"), 4) for j in range(self.tile.vectors)]
        sums = [s for _ in rows for s in starts]
        self._store(self.add_products(pointers, w, index, sums), rows, channels)

    def row_pointers(self, base: Value, strides: Value, rows: list[Value]) -> list[Value]:
        """The addresses of consecutive rows."""
        return [row_pointer(self.f, base, strides, m) for m in rows]

    def add_products(self, pointers: list[Value], w: Value, tile: Value, sums: list[Value]) -> list[Value]:
        """`sums` plus the products of every step of a block: 4 bytes of a row times a vector of weights at `w`."""
        f, form = self.f, self.form
        column = self.tile.vectors * self.lanes * 4
        with f.loop(0, f.p["steps"], form.unroll, carried=[*sums, self.soon(tile)], nonempty=True, name="step") as k:
            *k.next, soon = k.values
            f.prefetch(soon, SECOND_CACHE)
            at = f.moving(k, w, column)
            for u in range(form.unroll):
                offset = f.mul(k.index, 4) if form.affine else self.offset(f.p["offsets"], k.index, u)
                vectors = range(u * column, (u + 1) * column, self.lanes * 4)
                weights = [f.load(self.byte_type, f.gep(at, v), 1) for v in vectors]
                sums, k.next = k.next, []
                for r, pointer in enumerate(pointers):
                    # a row's bytes are read right before they are used: they need a register only here
                    a = self.four(pointer, offset, 4 * u if form.affine else 0)
                    own = sums[r * len(weights) : (r + 1) * len(weights)]
                    k.next += [
                        self.isa.weight_dot(f, total, a, weight) for total, weight in zip(own, weights, strict=True)
                    ]
            k.next.append(f.gep(soon, self.ahead))
        return k.results[:-1]

    def four(self, pointer: Value, offset: Value, ahead: int = 0) -> Value:
        """4 bytes of a row, in every lane."""
        f = self.f
        four = f.load("i32", f.gep(f.gep(pointer, offset), ahead), 1)
        return f.convert("bitcast", f.splat(four, self.lanes), self.byte_type)

    def offset(self, table: Value, step: Value, ahead: int = 0) -> Value:
        f = self.f
        at = f.gep(f.gep(table, step, "i32"), 4 * ahead)
        return f.convert("sext", f.load("i32", at, 4), "i64")

    def _store(self, sums: list[Value], rows: list[Value], channels: list[Value]) -> None:
        f, vectors = self.f, self.tile.vectors
        size = element_bytes(self.epilogue.type)
        outs = self.row_pointers(f.p["out"], f.p["out_rows"], rows)
        operands = [self.epilogue.row(f, m) for m in rows]
        together = self.epilogue.saturate
        waiting: list[tuple[Value, Value]] = []
        for j, n in enumerate(channels):
            leaves = self.epilogue.vectors(f, n, self.lanes)
            for r, out in enumerate(outs):
                tensors = self.epilogue.tensors(f, operands[r], n, self.lanes)
                result = self.epilogue.finish(f, self.isa, sums[r * vectors + j], {**leaves, **tensors}, together)
                waiting.append((result, f.gep(out, f.mul(n, size))))
                if not together or len(waiting) == 4:
                    self._flush(waiting, together)
        self._flush(waiting, together)

    def _flush(self, waiting: list[tuple[Value, Value]], together: bool) -> None:
        """Stores what waits, four vectors of bytes packed together."""
        results = [result for result, _ in waiting]
        if together and waiting:
            results = pack_each(self.f, results, self.isa.is_x86)
        for result, (_, at) in zip(results, waiting, strict=True):
            if self.form.narrow:
                store_lanes(self.f, result, at, self.f.p["n"], self.isa.masks)
            else:
                self.f.store(result, at)
        waiting.clear()
