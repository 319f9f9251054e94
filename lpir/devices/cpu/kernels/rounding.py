"""Conversions written as additions, to the same bits, for code beside AMX's tile instructions.

Near a tile instruction a core has one port for 512-bit multiplications, conversions, minima and maxima, where it has
two for them elsewhere; additions and logic keep both. A float in `2^23 .. 2^24` has a step of 1: adding `1.5 * 2^23`
rounds half to even, as a conversion does, and taking it away again leaves the rounded number.

    cast(rint_i32(x), f32)   ->  (x + MAGIC) - MAGIC
    cast(sum, f32)           ->  bitcast(sum, f32) - MAGIC, where sums start from MAGIC_BITS

Both hold where the value is proved to lie within `+-2^22`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lpir.devices.cpu.kernels.ranges import Range, value_range
from lpir.ir.types import f32, i32
from lpir.scalar.expr import Expr, const

MAGIC, MAGIC_BITS = 12582912.0, 0x4B400000
# largest magnitude that may be added to MAGIC; one less than 2^22, for what rounds up
LIMIT = float((1 << 22) - 1)
# what runs on one port beside tiles
NARROW = ("mul", "minimum", "maximum", "cast", "rint_i32")


def by_additions(expr: Expr, leaves: Mapping[int, Range], packing: int = 2) -> Expr:
    """`expr` with conversions as additions, if there are enough of them to keep one port busy.

    `packing`: operations a vector that pack and store results, and have the other port alone.
    """
    narrow = sum(e.fn in NARROW and f32 in (e.type, *(a.type for a in e.args)) for e in expr.walk())
    wide = sum(e.fn in ("add", "sub") for e in expr.walk())
    if narrow <= wide + packing:
        return expr
    magic = const(MAGIC)
    new: dict[int, Expr] = {}
    for e in expr.walk():
        mine = Expr(e.fn, tuple(new[id(a)] for a in e.args), e.type, e.value) if e.args else e
        if (mine.fn, mine.type) == ("cast", f32):
            source = e.args[0]
            if source.fn == "rint_i32" and _is_near(source.args[0], leaves):
                mine = (new[id(source.args[0])] + magic) - magic
            elif _is_sum(source) and _is_near(source, leaves):
                mine = Expr("bitcast", (source,), f32) - magic
        new[id(e)] = mine
    result = new[id(expr)]
    # whoever reads sums as they are would read them shifted
    plain = any(_is_sum(a) for e in result.walk() if e.fn != "bitcast" for a in e.args)
    return expr if plain and starts_from_magic(result) else result


def starts_from_magic(expr: Expr) -> bool:
    """Whether `expr` wants sums that start from MAGIC_BITS."""
    return any(e.fn == "bitcast" and _is_sum(e.args[0]) for e in expr.walk())


def _is_sum(e: Expr) -> bool:
    return e.fn == "input" and e.value == 0 and e.type == i32


def _is_near(e: Expr, leaves: Mapping[int, Range]) -> bool:
    limits = value_range(e, leaves)
    return limits is not None and bool(np.min(limits[0]) >= -LIMIT and np.max(limits[1]) <= LIMIT)
