"""Weights of 4 or 8 bits in the order in which kernels decode them, and the code that decodes a vector.

A block holds `vectors * lanes` channels. Its codes lie in the order of the sum: a row of bytes for each k, or, with 4
bits, a row of 32-bit words that hold 8 successive k each. Four bits of a word, masked where they are and or-ed with the
exponent that gives them the weight 1, are the float `2**(23 - position) + code`: no shift and no conversion. What is
subtracted is `2**(23 - position) + zero_point`. Only the last three codes of a word lie too high for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.kernels.pack import channel_index
from lpir.ir.types import ElementType
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

NIBBLES = 8
# codes of a word whose bits lie in the mantissa of a float32; the others are shifted down by so many codes
IN_PLACE = 5
# the exponent and the fraction of float32
BIAS, FRACTION = 127, 23


@record
class Storage:
    """How codes lie in memory: `bits` 4 or 8, `signed` or not; `zero`: whether a zero point is subtracted."""

    bits: int
    signed: bool
    zero: bool

    @property
    def step(self) -> int:
        """Rows of the sum that are decoded together."""
        return NIBBLES if self.bits == 4 else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of `step` rows of one channel."""
        return 4 if self.bits == 4 else 1


@record
class Packed:
    """`codes` of every block, one after the other; `scale` and `zero` float32 `[blocks, groups, vectors * lanes]`."""

    codes: Array
    scale: Array
    zero: Array


def storage_of(type: ElementType, zero: Array, length: int) -> Storage:
    """Two codes to a byte where the type has 4 bits, groups of `length` are whole words, and zero points whole."""
    if type.bits == 4 and length % NIBBLES == 0 and np.array_equal(zero, np.rint(zero)) and np.abs(zero).max() < 256:
        return Storage(4, type.is_signed, True)
    return Storage(8, type.is_signed, bool(zero.any()))


def pack(codes: Array, scale: Array, zero: Array, storage: Storage, lanes: int, vectors: int) -> Packed:
    """`codes [K, N]` with `scale` and `zero [G, N]`."""
    k, n = codes.shape
    index = channel_index(n, lanes, vectors).reshape(-1, vectors * lanes)
    found = np.maximum(index, 0)

    def spread(x: Array) -> Array:
        # lanes without a channel weigh nothing
        return np.where(index < 0, np.float32(0), x.astype(np.float32)[:, found]).transpose(1, 0, 2)

    if storage.bits == 8:
        rows = codes.astype(np.int8 if storage.signed else np.uint8)
        packed = np.ascontiguousarray(rows[:, found].transpose(1, 0, 2))
        return Packed(packed, np.ascontiguousarray(spread(scale)), np.ascontiguousarray(spread(zero)))
    # signed codes are stored from 0 up
    lowest = 8 if storage.signed else 0
    words = np.zeros((k // NIBBLES, n), np.uint32)
    for i in range(NIBBLES):
        nibbles = codes[i::NIBBLES].astype(np.int8) + np.int8(lowest)
        words |= nibbles.astype(np.uint32) << np.uint32(4 * i)
    packed = np.ascontiguousarray(words[:, found].transpose(1, 0, 2))
    return Packed(packed, np.ascontiguousarray(spread(scale)), np.ascontiguousarray(spread(zero + np.float32(lowest))))


def centres(f: Function, storage: Storage, zeros: list[Value]) -> list[list[Value]]:
    """What `decode` subtracts, from the zero points of each vector: for 4 bits one for each place in a word."""
    if storage.bits == 8:
        return [zeros]
    return [
        [f.fadd(zero, f.const(zero.type, float(1 << (FRACTION - 4 * i)))) for zero in zeros] for i in range(IN_PLACE)
    ]


def decode(f: Function, storage: Storage, at: Value, centre: list[list[Value]], lanes: int) -> list[list[Value]]:
    """`code - zero_point` of the next `storage.step` rows at `at`: a list of vectors for each row."""
    if storage.bits == 8:
        return [[_byte(f, storage, at, j, centre[0], lanes) for j in range(len(centre[0]))]]
    words = [f.load(vector_of("i32", lanes), f.gep(at, 4 * lanes * j), 4) for j in range(len(centre[0]))]
    high = [f.binary("lshr", word, f.const(word.type, 4 * IN_PLACE)) for word in words]
    return [
        [_nibble(f, word, i % IN_PLACE, zero) for word, zero in zip(source, centre[i % IN_PLACE], strict=True)]
        for i in range(NIBBLES)
        for source in [words if i < IN_PLACE else high]
    ]


def _nibble(f: Function, word: Value, place: int, zero: Value) -> Value:
    """Code number `place` of each word, less the zero point."""
    code = f.binary("and", word, f.const(word.type, 15 << 4 * place))
    whole = f.binary("or", code, f.const(word.type, BIAS + FRACTION - 4 * place << FRACTION))
    return f.fsub(f.convert("bitcast", whole, vector_of("float", word.lanes)), zero)


def _byte(f: Function, storage: Storage, at: Value, j: int, zeros: list[Value], lanes: int) -> Value:
    bytes_ = f.load(vector_of("i8", lanes), f.gep(at, lanes * j))
    wide = f.convert("sext" if storage.signed else "zext", bytes_, vector_of("i32", lanes))
    real = f.convert("sitofp", wide, vector_of("float", lanes))
    return f.fsub(real, zeros[j]) if storage.zero else real
