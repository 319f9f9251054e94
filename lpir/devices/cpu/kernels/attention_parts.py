"""The product of powers and v in AMX's tile registers, where float32 numbers are sums of three bfloat16.

Cut off one after the other, the first 8 bits of a significand, the next 8 and the last are three bfloat16 whose sum is
the number. Of the nine products of parts the six largest are added, smallest first: the others are below 2^-21 of the
whole. Sums stay in float32. Numbers below 2^-126 count as 0, and infinities in v give NaN.

A chunk is 32 columns of scores and 32 rows of v. A row's powers in a chunk become three lines of 64 bytes, one a part,
in which column `i` and column `16 + i` are neighbors; 16 columns of v become three tiles, in which row `i` and row
`16 + i` are. Tile registers multiply one chunk while vectors compute the powers of the next: the processor does both at
once if they lie within some 500 instructions of each other.
"""

from __future__ import annotations

from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.kernels.attention_softmax import TOGETHER, Softmax
from lpir.devices.cpu.kernels.attention_tiles import BYTES, MOST, PAIR, emit

PARTS, LANES, CHUNK = 3, 16, 32
TILE_BYTES = MOST * BYTES
# rows of a block: two tiles; fewer than LEAST are as fast in vectors
ROWS, LEAST = 2 * MOST, 20
# bytes of one part of a chunk of powers
LINES_BYTES = ROWS * BYTES
# the upper half of a float32 is a bfloat16
HIGH = -(1 << 16)
# what `vpternlogd` computes of a, b and c: a | (b & c)
MERGE = 0xF8
# parts of v and of powers that are multiplied, smallest products first
ORDER = ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0))
INTS, FLOATS = vector_of("i32", LANES), vector_of("float", LANES)


def rows_of(m: int, n: int, e: int) -> int:
    """Rows of a block for scores [m, n] and v [n, e]; 0 where the product does not come to whole tiles, or is small."""
    blocks = -(-m // ROWS)
    rows = min(-(-m // (TOGETHER * blocks)), m // TOGETHER) * TOGETHER
    # of the last vector of a chunk at least one column counts
    return rows if e % LANES == 0 and -(-n // LANES) % 2 == 0 and rows >= LEAST else 0


def value_bytes(columns: int, e: int) -> int:
    """Bytes of v in parts."""
    return columns * e * 2 * PARTS


def slots(columns: int, e: int) -> int:
    """Chunks of powers that are kept: two, or all where columns of v take more than one pass."""
    return 2 if e <= 2 * LANES else columns // CHUNK


def power_bytes(columns: int, e: int) -> int:
    """Bytes of the powers that are kept."""
    return slots(columns, e) * PARTS * LINES_BYTES


def parts_of(f: Function, a: Value, b: Value) -> list[Value]:
    """The lines of two vectors of 16 floats: one for each part of their sums."""
    lines = []
    high = f.const(INTS, HIGH)
    for part in range(PARTS):
        bits = [f.convert("bitcast", x, INTS) for x in (a, b)]
        low = f.binary("lshr", bits[0], f.const(INTS, LANES))
        # said by its name: `or` of the same becomes a shuffle of words, which is slow
        merged = f.call("llvm.x86.avx512.pternlog.d.512", INTS, low, bits[1], high, f.const("i32", MERGE))
        lines.append(merged)
        if part < PARTS - 1:
            heads = [f.convert("bitcast", f.binary("and", x, high), FLOATS) for x in bits]
            a, b = (f.fsub(x, head) for x, head in zip((a, b), heads, strict=True))
    return lines


def pack_values(f: Function, v: Value, to: Value, tail: bool) -> None:
    """v of a head, `[n, e]` at rows of `v_row` bytes, as tiles `[chunks, e / 16, parts]`; `tail`: n may be uneven."""
    p = f.p
    width = f.mul(p["e"], 4)
    with f.loop(0, p["columns"], CHUNK, name="vc") as c, f.loop(0, MOST, nonempty=True, name="vi") as i:
        first = f.add(c.index, i.index)
        second = f.add(first, LANES)
        inside = f.icmp("slt", second, p["n"])
        numbers = (first, f.smin(second, f.sub(p["n"], 1)) if tail else second)
        rows = [f.gep(v, f.mul(n, p["v_row"])) for n in numbers]
        line = f.gep(f.gep(to, f.mul(f.mul(c.index, p["e"]), 2 * PARTS)), f.mul(i.index, BYTES))
        with f.loop(0, width, BYTES, nonempty=True, name="ve") as e:
            a, b = (f.load(FLOATS, f.gep(row, e.index), 4) for row in rows)
            if tail:
                b = f.select(inside, b, f.zeros(FLOATS))
            tiles = f.gep(line, f.mul(e.index, TILE_BYTES * PARTS // BYTES))
            for part, x in enumerate(parts_of(f, a, b)):
                f.store(x, f.gep(tiles, part * TILE_BYTES), 64)


class Values:
    """Prints the product of a block of rows with v. `powers`: memory for `slots` chunks; `v`: as it is packed."""

    def __init__(self, f: Function, softmax: Softmax, powers: Value, v: Value) -> None:
        self.f, self.softmax, self.powers, self.v = f, softmax, powers, v
        self.sums = f.alloca("float", ROWS * 2 * LANES)
        offsets = [x for of_v, of_power in ORDER for x in (of_v * TILE_BYTES, of_power * LINES_BYTES)]
        self.order = f.table("i64", offsets)

    def powers_and_products(self, columns: list[Value]) -> None:
        """Powers of all scores, and the sums of their products with two tiles of columns of v."""
        f, p = self.f, self.f.p
        quads = f.udiv(p["block_rows"], TOGETHER)
        self._zero()
        with f.loop(0, f.add(p["columns"], CHUNK), CHUNK, nonempty=True, name="vs") as s:
            before = f.sub(s.index, CHUNK)
            some, more = f.icmp("sge", before, 0), f.icmp("slt", s.index, p["columns"])
            tiles, here, there = self._tiles(before, columns), self._slot(before), self._slot(s.index)
            with f.loop(0, f.smax(quads, len(ORDER)), nonempty=True, name="part") as i:
                with f.if_(f.binary("and", some, f.icmp("slt", i.index, len(ORDER)))):
                    self._product(i.index, here, tiles)
                with f.if_(f.binary("and", more, f.icmp("slt", i.index, quads))):
                    self._cut(f.mul(i.index, TOGETHER), s.index, there)
        self._keep()

    def products(self, columns: list[Value]) -> None:
        """Sums of products of the same powers with other columns."""
        f = self.f
        self._zero()
        with f.loop(0, f.p["columns"], CHUNK, nonempty=True, name="vs") as s:
            tiles, powers = self._tiles(s.index, columns), self._slot(s.index)
            with f.loop(0, len(ORDER), nonempty=True, name="part") as i:
                self._product(i.index, powers, tiles)
        self._keep()

    def rows(self, numbers: list[Value]) -> list[Value]:
        """The sums of rows of the block, two vectors a row."""
        f = self.f
        lines = [f.gep(self.sums, f.mul(number, 2 * BYTES)) for number in numbers]
        return [f.load(FLOATS, f.gep(line, BYTES * b), 64) for line in lines for b in PAIR]

    def _slot(self, column: Value) -> Value:
        """The memory of the powers of the chunk at `column`."""
        f = self.f
        slot = f.urem(f.binary("lshr", column, f.const("i64", CHUNK.bit_length() - 1)), f.p["slots"])
        return f.gep(self.powers, f.mul(slot, PARTS * LINES_BYTES))

    def _tiles(self, column: Value, columns: list[Value]) -> list[Value]:
        """The tiles of v of the chunk at `column`."""
        f = self.f
        chunk = f.gep(self.v, f.mul(f.mul(column, f.p["e"]), 2 * PARTS))
        return [f.gep(chunk, f.mul(n, TILE_BYTES * PARTS // LANES)) for n in columns]

    def _cut(self, row: Value, column: Value, to: Value) -> None:
        """Powers of a chunk of four rows."""
        f = self.f
        for i, (a, b) in enumerate(self.softmax.powers(row, column)):
            line = f.gep(to, f.mul(f.add(row, i), BYTES))
            for part, x in enumerate(parts_of(f, a, b)):
                f.store(x, f.gep(line, part * LINES_BYTES), 64)

    def _product(self, number: Value, powers: Value, tiles: list[Value]) -> None:
        """Adds one of the products of parts of a chunk."""
        f = self.f
        width, half = f.const("i64", BYTES), f.mul(f.udiv(f.p["block_rows"], 2), BYTES)
        of_v, of_power = (f.load("i64", f.gep(self.order, f.add(f.mul(number, 16), 8 * i)), 8) for i in range(2))
        lines = f.gep(powers, of_power)
        for a in PAIR:
            emit(f, "tileloadd64", 4 + a, f.gep(lines, f.mul(half, a)), width)
        for b in PAIR:
            emit(f, "tileloadd64", 6 + b, f.gep(tiles[b], of_v), width)
            for a in PAIR:
                emit(f, "tdpbf16ps", 2 * a + b, 4 + a, 6 + b)

    def _zero(self) -> None:
        for t in range(len(PAIR) ** 2):
            emit(self.f, "tilezero", t)

    def _keep(self) -> None:
        f = self.f
        half = f.mul(f.udiv(f.p["block_rows"], 2), 2 * BYTES)
        for a in PAIR:
            for b in PAIR:
                at = f.gep(f.gep(self.sums, f.mul(half, a)), BYTES * b)
                emit(f, "tilestored64", 2 * a + b, at, f.const("i64", 2 * BYTES))
