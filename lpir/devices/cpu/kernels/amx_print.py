"""What the printers of kernels with AMX's tile registers have in common."""

from __future__ import annotations

from lpir.devices.cpu.codegen.emitter import SECOND_CACHE, Function, Value
from lpir.devices.cpu.kernels.amx_blocks import AT_ONCE, LANES, LINE


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

    def ask_for(self, size: Value, soon: Value, end: Value) -> Value:
        """Asks for `size` bytes at `soon`, unless that is behind `end`; returns where they end."""
        f = self.f
        with f.loop(0, f.select(f.icmp("ult", soon, end), size, 0), LINE * AT_ONCE, name="line") as line:
            at = f.gep(soon, line.index)
            for number in range(AT_ONCE):
                f.prefetch(f.gep(at, LINE * number), SECOND_CACHE)
        return f.gep(soon, size)
