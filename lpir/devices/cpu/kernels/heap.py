"""Sorting in kernels: a heap of 64-bit numbers, smallest at the top, and numbers that order floats with their places.

`ranked(x, place)` is a number that is larger for a larger `x`, and for equal `x` larger for a smaller place: 32 bits of
order above 32 bits of the place's complement. NaN is above all and equal to itself; -0 equals 0.
"""

from __future__ import annotations

from lpir.devices.cpu.codegen.emitter import Function, Operand, Value

_NAN = 0x7FFFFFFF


def order_of_float(f: Function, x: Value) -> Value:
    """An i32 that is ordered as the f32 `x` is."""
    real = f.fadd(x, f.const(x.type, 0.0))
    bits = f.convert("bitcast", real, "i32")
    flipped = f.binary("xor", bits, f.binary("and", f.binary("ashr", bits, 31), _NAN))
    return f.select(f.fcmp("uno", x, x), Value("i32", str(_NAN)), flipped)


def ranked(f: Function, order: Value, place: Value) -> Value:
    """The number of an i32 order and an i64 place below 2**32."""
    high = f.binary("shl", f.convert("sext", order, "i64"), 32)
    return f.binary("or", high, f.sub(0xFFFFFFFF, place))


def place_of(f: Function, number: Value) -> Value:
    """The place in a ranked number."""
    return f.sub(0xFFFFFFFF, f.binary("and", number, 0xFFFFFFFF))


def sift(f: Function, heap: Value, size: Operand, hole: Operand, number: Value) -> None:
    """Puts `number` at `hole` of a heap of `size` numbers (at least 1), or below, where it belongs."""
    last = f.sub(size, 1) if isinstance(size, Value) else f.const("i64", size - 1)
    start = hole if isinstance(hole, Value) else f.const("i64", hole)
    with f.repeat([start], name="sift") as level:
        here = level.values[0]
        left = f.add(f.mul(here, 2), 1)
        right = f.smin(f.add(left, 1), last)
        first = f.smin(left, last)
        a, b = (f.load("i64", f.gep(heap, i, "i64"), 8) for i in (first, right))
        smaller = f.select(f.icmp("slt", b, a), right, first)
        child = f.smin(a, b)
        down = f.binary("and", f.icmp("sle", left, last), f.icmp("slt", child, number))
        with f.if_(down):
            f.store(child, f.gep(heap, here, "i64"), 8)
        level.next, level.again = [f.select(down, smaller, here)], down
    f.store(number, f.gep(heap, level.results[0], "i64"), 8)


def heapify(f: Function, heap: Value, size: Value) -> None:
    """Makes a heap of `size` numbers in any order."""
    half = f.udiv(size, 2)
    with f.loop(0, half, name="heapify") as i:
        at = f.sub(f.sub(half, 1), i.index)
        sift(f, heap, size, at, f.load("i64", f.gep(heap, at, "i64"), 8))


def sort_down(f: Function, heap: Value, size: Value) -> None:
    """Turns a heap into its numbers in falling order."""
    with f.loop(1, size, name="sort") as i:
        end = f.sub(size, i.index)
        top, last = f.load("i64", heap, 8), f.load("i64", f.gep(heap, end, "i64"), 8)
        sift(f, heap, end, 0, last)
        f.store(top, f.gep(heap, end, "i64"), 8)
