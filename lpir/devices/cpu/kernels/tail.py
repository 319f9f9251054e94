"""Vectors of which only the first lanes count: the last ones of a row."""

from __future__ import annotations

from lpir.devices.cpu.codegen.emitter import Function, Operand, Value, size_of, vector_of
from lpir.devices.cpu.isa import Isa


def lane_mask(f: Function, lanes: int, count: Value) -> Value:
    """`<lanes x i1>`: the first `count` lanes (0 <= count <= lanes; i64)."""
    wide = "i64" if lanes <= 32 else f"i{2 * lanes}"
    wide_count = count if wide == "i64" else f.convert("zext", count, wide)
    one = Value(wide, "1")
    bits = f.binary("add", f.binary("shl", one, wide_count), Value(wide, "-1"))
    return f.convert("bitcast", f.convert("trunc", bits, f"i{lanes}"), vector_of("i1", lanes))


def store_first(f: Function, isa: Isa, x: Value, at: Value, count: Value) -> None:
    """Stores the first `count` lanes of `x` (1 <= count <= lanes; i64) and nothing behind them."""
    if x.lanes == 1:
        f.store(x, at)
    elif isa.masks:
        f.masked_store(x, at, lane_mask(f, x.lanes, count))
    else:
        buffer = f.alloca(x.type)
        f.store(x, buffer, align=64)
        f.memcpy(at, buffer, f.mul(count, size_of(x.element)))


def store_up_to(f: Function, isa: Isa, x: Value, at: Value, left: Value) -> None:
    """Stores all lanes of `x` where `left` elements are enough, else the first `left` (at least 1)."""
    full = f.icmp("sge", left, x.lanes)
    with f.if_(full):
        f.store(x, at)
    with f.if_(f.icmp("slt", left, x.lanes)):
        store_first(f, isa, x, at, left)


def smaller(f: Function, a: Operand, b: Operand) -> Value:
    """The smaller of two i64."""
    return f.smin(a, b)
