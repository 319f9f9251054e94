"""Bytes of several rows interleaved into 32-bit lanes, and back.

x86 unpacks within 128-bit parts. From a block of `W` bytes come four vectors of `W / 4` lanes; vector `v`, lane `l`
holds channel `16 * (l // 4) + 4 * v + l % 4`. Packing the four vectors to bytes restores the order in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.vector import concat
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

_PACK_WORDS = {4: "llvm.x86.sse2.packssdw.128", 8: "llvm.x86.avx2.packssdw", 16: "llvm.x86.avx512.packssdw.512"}
_PACK_BYTES = {4: "llvm.x86.sse2.packuswb.128", 8: "llvm.x86.avx2.packuswb", 16: "llvm.x86.avx512.packuswb.512"}


def lane_order(block: int) -> Array:
    """Channel of each lane of the four vectors of a block: [4, block / 4]."""
    lane = np.arange(block // 4)
    return np.asarray(16 * (lane // 4) + 4 * np.arange(4)[:, None] + lane % 4)


def _unpack(f: Function, a: Value, b: Value, high: bool) -> Value:
    """`punpckl` / `punpckh` of elements within each 128-bit part."""
    per = 16 * 8 // int(a.element[1:])
    half = per // 2
    indices = []
    for part in range(0, a.lanes, per):
        for i in range(part + half * high, part + half * high + half):
            indices += [i, a.lanes + i]
    return f.shuffle(a, b, indices)


@record
class Interleaved:
    """One to four rows of u8 on their way to four vectors of bytes: lane = rows' bytes of a channel, zeros behind them.

    With `words`, one or two rows, each byte followed by a zero byte (16-bit lanes). A vector is made when it is asked
    for, so that only one needs a register.
    """

    words: bool
    halves: list[tuple[Value, Value]]

    @staticmethod
    def of(f: Function, rows: Sequence[Value], words: bool) -> Interleaved:
        zero = f.zeros(rows[0].type)
        full = [*rows, *[zero] * (4 - len(rows))]
        first = [_unpack(f, full[0], full[1], high) for high in (False, True)]
        if words or len(rows) <= 2:
            second = [zero, zero]
        else:
            second = [_unpack(f, full[2], full[3], high) for high in (False, True)]
        return Interleaved(words, list(zip(first, second, strict=True)))

    def vector(self, f: Function, v: int) -> Value:
        """Vector `v` of the four."""
        a, b = self.halves[v // 2]
        if self.words:
            return _unpack(f, a, b, bool(v % 2))
        wide = vector_of("i16", a.lanes // 2)
        whole = _unpack(f, f.convert("bitcast", a, wide), f.convert("bitcast", b, wide), bool(v % 2))
        return f.convert("bitcast", whole, a.type)


def to_lane_order(f: Function, x: Value, lanes: int) -> list[Value]:
    """A block in memory order as the four vectors."""
    order = lane_order(4 * lanes)
    return [f.shuffle(x, None, [int(i) for i in order[v]]) for v in range(4)]


def to_memory_order(f: Function, parts: Sequence[Value], block: int) -> Value:
    """The four vectors as one block in memory order."""
    a, b = (f.shuffle(parts[i], parts[i + 1], range(2 * parts[i].lanes)) for i in (0, 2))
    where = np.argsort(lane_order(block).reshape(-1))
    return f.shuffle(a, b, [int(i) for i in where])


def pack_bytes(f: Function, parts: Sequence[Value], x86: bool, saturate: bool) -> Value:
    """Four vectors of int32 as one block of u8 in memory order: their low bytes, or clamped to 0 .. 255."""
    lanes = parts[0].lanes
    if not x86:
        halves = [_narrow(f, concat(f, parts[i : i + 2]), "i16", -32768, 32767, saturate) for i in (0, 2)]
        # vectors of 128 bits follow each other in memory
        return _narrow(f, concat(f, halves), "i8", 0, 255, saturate)
    low = parts if saturate else [f.binary("and", p, f.const(p.type, 255)) for p in parts]
    words = vector_of("i16", 2 * lanes)
    a, b = (f.call(_PACK_WORDS[lanes], words, low[i], low[i + 1]) for i in (0, 2))
    return f.call(_PACK_BYTES[lanes], vector_of("i8", 4 * lanes), a, b)


def _narrow(f: Function, x: Value, element: str, low: int, high: int, saturate: bool) -> Value:
    """The low half of every element; with `saturate` clamped before: ARM's `sqxtn` and `sqxtun`."""
    if saturate:
        x = f.intrinsic("llvm.smax", x.type, x, f.const(x.type, low))
        x = f.intrinsic("llvm.smin", x.type, x, f.const(x.type, high))
    return f.convert("trunc", x, vector_of(element, x.lanes))


def pack_each(f: Function, parts: Sequence[Value], x86: bool) -> list[Value]:
    """One to four vectors of int32 clamped to 0 .. 255, each as a vector of u8."""
    lanes = parts[0].lanes
    whole = pack_in_order(f, parts, x86)
    return [f.shuffle(whole, None, range(v * lanes, (v + 1) * lanes)) for v in range(len(parts))]


def pack_in_order(f: Function, parts: Sequence[Value], x86: bool) -> Value:
    """One to four vectors of int32 clamped to 0 .. 255, as u8 one behind the other; what is missing is anything."""
    lanes = parts[0].lanes
    four = [*parts, *[parts[-1]] * (4 - len(parts))]
    packed = f.convert("bitcast", pack_bytes(f, four, x86, True), vector_of("i32", lanes))
    # each 128-bit part holds 4 bytes of every vector: gather the parts of one vector
    order = [4 * part + v for v in range(4) for part in range(lanes // 4)]
    return f.convert("bitcast", f.shuffle(packed, None, order), vector_of("i8", 4 * lanes))
