"""INT8 matrix product whose instruction takes two rows at once: 8 codes of each, times 8 weights of two channels.

The kernel is `igemm`'s but for its steps, which have 8 codes. While they are added, a register holds the sums of two
rows and two channels; before and after, those of one row and four channels (ARM's `usmmla`, 128 bits).
"""

from __future__ import annotations

import functools
from typing import ClassVar

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import Value
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import igemm, tiling
from lpir.devices.cpu.kernels.epilogue import Epilogue
from lpir.devices.cpu.kernels.igemm import Form, IntGemm, Printer
from lpir.devices.cpu.kernels.tiling import Tile

CODES = 8


class PairGemm(IntGemm):
    """A kernel for one shape class, and the shape that `params` fills in."""

    codes: ClassVar[int] = CODES


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
    """As `igemm.build`, for an `isa` that has a `pair_dot`; a single row is left to that."""
    if m == 1:
        return igemm.build(isa, m, n, channels, taps, epilogue, groups, x_table, out_table, tile)
    steps = len(taps) * -(-channels // CODES)
    ops = sum(1 for e in epilogue.expr.walk() if e.args)
    tile = tile or tiling.choose_tile(isa, m, n, steps, 1.0, ops + 2.0, isa.spare, height=2)
    form = Form(affine=len(taps) == 1, unroll=1, narrow=n < isa.lanes(), x_table=x_table, out_table=out_table)
    return PairGemm(isa, m, n, channels, taps, groups, tile, _print(isa, tile, epilogue, form), epilogue)


@functools.lru_cache(maxsize=1024)
def _print(isa: Isa, tile: Tile, epilogue: Epilogue, form: Form) -> Kernel:
    return _Printer(isa, tile, epilogue, form).kernel()


class _Printer(Printer):
    """Prints one kernel."""

    codes: ClassVar[int] = CODES

    def add_products(self, pointers: list[Value], w: Value, tile: Value, sums: list[Value]) -> list[Value]:
        f, vectors, dot = self.f, self.tile.vectors, self.isa.pair_dot
        assert dot is not None
        column = vectors * self.lanes * CODES
        with f.loop(0, f.p["steps"], carried=self._pairs(sums), nonempty=True, name="step") as k:
            at = f.moving(k, w, column)
            offset = f.mul(k.index, CODES) if self.form.affine else self.offset(f.p["offsets"], k.index)
            weights = [f.load(self.byte_type, f.gep(at, v), 1) for v in range(0, column, self.lanes * 4)]
            for r in range(0, self.tile.rows, 2):
                # rows' bytes are read right before they are used: they need a register only here
                rows = self._two_rows(pointers[r], pointers[r + 1], offset)
                own = k.values[r * vectors : (r + 2) * vectors]
                k.next += [dot(f, total, rows, weight) for total, weight in zip(own, weights, strict=True)]
        return self._rows(k.results)

    def _two_rows(self, first: Value, second: Value, offset: Value) -> Value:
        """8 bytes of each row."""
        f = self.f
        both = f.zeros("<2 x i64>")
        for i, pointer in enumerate((first, second)):
            both = f.insert(both, f.load("i64", f.gep(pointer, offset), 1), i)
        return f.convert("bitcast", both, self.byte_type)

    def _pairs(self, sums: list[Value]) -> list[Value]:
        """Sums of one row and four channels as sums of two rows and two channels."""
        vectors = self.tile.vectors
        out: list[Value] = []
        for r in range(0, self.tile.rows, 2):
            for j in range(vectors):
                out += self._halves(sums[r * vectors + j], sums[(r + 1) * vectors + j])
        return out

    def _rows(self, pairs: list[Value]) -> list[Value]:
        """The inverse of `_pairs`."""
        vectors = self.tile.vectors
        out: list[Value] = []
        for r in range(0, self.tile.rows, 2):
            both = [self._halves(*pairs[r * vectors + 2 * j : r * vectors + 2 * j + 2]) for j in range(vectors)]
            out += [low for low, _ in both] + [high for _, high in both]
        return out

    def _halves(self, a: Value, b: Value) -> tuple[Value, Value]:
        """The low halves of two vectors, and the high ones."""
        return self.f.shuffle(a, b, (0, 1, 4, 5)), self.f.shuffle(a, b, (2, 3, 6, 7))
