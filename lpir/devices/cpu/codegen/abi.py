"""How a kernel gets its arguments: an array of 64-bit words, one a parameter, in declared order.

A kernel is `void k(i64 *params, i64 tid, i64 nthreads)`. Each parameter is a pointer, an integer or one 32-bit scalar
in the low half of its word (x86 and AArch64 are little-endian). A plan holds words that are numbers or `Ref`s; a `Ref`
becomes an address when buffers are bound.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from lpir.record import record


@record
class Ref:
    """`offset` bytes into the buffer named `buffer` (an arena, the constants, a user's input or output)."""

    buffer: str | int
    offset: int = 0

    def __add__(self, count: int) -> Ref:
        """`count` bytes further."""
        return Ref(self.buffer, self.offset + count)


@record
class F32:
    """A float32 scalar, passed by value in the low half of a word."""

    value: float

    def word(self) -> int:
        return int(struct.unpack("<I", struct.pack("<f", self.value))[0])


Word = int | Ref


@record
class Kernel:
    """One compiled-once function: `text` defines `@symbol`; `params` names its words and their LLVM types, in order.

    `symbol` ends in a hash of the text, so equal kernels of two layers are one function.
    """

    symbol: str
    text: str
    params: tuple[tuple[str, str], ...]

    def words(self, values: Mapping[str, int | float | F32 | Ref]) -> list[Word]:
        """The parameter words from values by name. Raises KeyError for a missing or an unknown name."""
        if len(values) != len(self.params):
            names = {name for name, _ in self.params}
            raise KeyError(f"{self.symbol}: parameters {sorted(names ^ set(values))} are missing or unknown")
        return [_word(values[name], kind) for name, kind in self.params]


def _word(value: int | float | F32 | Ref, kind: str) -> Word:
    if isinstance(value, F32):
        return value.word()
    if kind == "float":
        return F32(float(value)).word() if not isinstance(value, Ref) else value
    if isinstance(value, Ref):
        return value
    return int(value)
