"""INT8 matrix product whose instruction adds products in int16: exact, because the packer proves that no sum leaves it.

The kernel is `igemm`'s but for its steps. A block is one vector of channels, with windows of its own that read a row
where they like (`pack_int16`): first pairs of windows that share an int16 sum (5 vector instructions), then single
windows (3). One vector a block, because the more channels share a window, the more often two of its weights are unsafe.
"""

from __future__ import annotations

import functools

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import SECOND_CACHE, Value
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.isa.dots import add_pairs, pmaddubsw
from lpir.devices.cpu.kernels.epilogue import Epilogue
from lpir.devices.cpu.kernels.igemm import Form, IntGemm, Printer
from lpir.devices.cpu.kernels.pack import Array, PackedWeights
from lpir.devices.cpu.kernels.pack_int16 import pack_int16
from lpir.devices.cpu.kernels.tiling import MAX_ROWS, Tile

LINE = 64  # bytes of a cache line


class Int16Gemm(IntGemm):
    """A kernel for one shape class, and the shape that `params` fills in."""

    @property
    def row_bytes(self) -> int:
        """What a row touches while one line of its output is filled, a vector of channels after the other."""
        return self.steps * self.codes + min(LINE * self.epilogue.rows, self.n * self.epilogue.row_bytes)

    def pack(self, w: Array, top: int = 255) -> PackedWeights:
        """Packs `w` [G, taps, C, N] i8; activations are at most `top`."""
        return pack_int16(w, self.isa.lanes(), self.taps, top)


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
    """As `igemm.build`, for an `isa` that is not exact."""
    tile = tile or Tile(even_rows(m), 1)
    form = Form(affine=False, unroll=1, narrow=n < isa.lanes(), x_table=x_table, out_table=out_table)
    return Int16Gemm(isa, m, n, channels, taps, groups, tile, _print(isa, tile, epilogue, form), epilogue)


def even_rows(m: int) -> int:
    """Rows of a tile, so that as few as possible are computed twice."""
    return -(-m // -(-m // MAX_ROWS))


@functools.lru_cache(maxsize=1024)
def _print(isa: Isa, tile: Tile, epilogue: Epilogue, form: Form) -> Kernel:
    return _Printer(isa, tile, epilogue, form).kernel()


class _Printer(Printer):
    """Prints one kernel."""

    def step_params(self) -> dict[str, str]:
        return {"offsets": "ptr", "ranges": "ptr"}

    def block_weights(self, which: Value, panel: Value, tiles: tuple[Value, Value]) -> Value:
        f, size = self.f, self.lanes * 4
        at = f.gep(f.p["ranges"], f.mul(which, 3), "i32")
        first, middle, last, _, _, following = (
            f.convert("sext", f.load("i32", f.gep(at, 4 * i), 4), "i64") for i in range(6)
        )
        self.block = first, middle, last
        rounds = f.udiv(f.sub(middle, first), 2)
        self.look_ahead(f.gep(f.p["w"], f.mul(last, size)), f.mul(f.sub(following, last), size), rounds, tiles)
        # windows of all blocks are numbered through
        return f.p["w"]

    def row_pointers(self, base: Value, strides: Value, rows: list[Value]) -> list[Value]:
        if strides.type == "ptr":
            return super().row_pointers(base, strides, rows)
        # multiplications would compete with those of the products
        pointers = super().row_pointers(base, strides, rows[:1])
        while len(pointers) < len(rows):
            pointers.append(self.f.gep(pointers[-1], strides))
        return pointers

    def add_products(self, pointers: list[Value], w: Value, tile: Value, sums: list[Value]) -> list[Value]:
        f = self.f
        first, middle, last = self.block
        with f.loop(first, middle, 2, carried=[*sums, self.soon(tile)], name="pairs") as k:
            *sums, soon = k.values
            f.prefetch(soon, SECOND_CACHE)
            k.next = [*self._windows(pointers, w, k.index, 2, sums), f.gep(soon, self.ahead)]
        with f.loop(middle, last, carried=k.results[:-1], name="windows") as k:
            k.next = self._windows(pointers, w, k.index, 1, k.values)
        return k.results

    def _windows(self, pointers: list[Value], w: Value, index: Value, count: int, sums: list[Value]) -> list[Value]:
        """`sums` plus windows `index .. index + count`, added in int16."""
        f, size = self.f, self.lanes * 4
        at = f.gep(w, f.mul(index, size))
        offsets = [self.offset(f.p["offsets"], index, i) for i in range(count)]
        weights = [f.load(self.byte_type, f.gep(at, i * size), 1) for i in range(count)]
        following = []
        for total, pointer in zip(sums, pointers, strict=True):
            # a row's bytes are read right before they are used: they need a register only here
            products = [
                pmaddubsw(f, self.four(pointer, offset), weight)
                for offset, weight in zip(offsets, weights, strict=True)
            ]
            following.append(add_pairs(f, total, functools.reduce(f.add, products)))
        return following
