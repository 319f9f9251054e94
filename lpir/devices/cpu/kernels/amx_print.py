"""What the printers of kernels with AMX's tile registers have in common."""

from __future__ import annotations

from lpir.devices.cpu.codegen.emitter import SECOND_CACHE, Function, Value
from lpir.devices.cpu.kernels.amx_blocks import LANES


class TilePrinter:
    """Prints into `f`; `line`: bytes of a vector of sums, and of a line of a tile of weights."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.line = f.const("i64", 4 * LANES)

    def tile(self, instruction: str, *operands: Value | int) -> None:
        """A tile instruction; an int is the number of a tile."""
        values = [Value("i8", str(x)) if isinstance(x, int) else x for x in operands]
        self.f.call(f"llvm.x86.{instruction}", "void", *values)

    def fill(self, tile: int, at: Value) -> None:
        """Loads the line at `at` into every row of a tile: a stride of zero does."""
        self.tile("tileloadd64", tile, at, self.f.const("i64", 0))

    def chunk(self, index: Value, count: str, chunks: str) -> tuple[Value, Value]:
        """The share of part `index`, of parameter `chunks` parts of `count`."""
        f = self.f
        n, parts = f.p[count], f.p[chunks]
        return f.udiv(f.mul(n, index), parts), f.udiv(f.mul(n, f.add(index, 1)), parts)

    def ask(self, at: Value, lines: int) -> None:
        """Asks for `lines` cache lines."""
        for line in range(lines):
            self.f.prefetch(self.f.gep(at, 64 * line), SECOND_CACHE)
