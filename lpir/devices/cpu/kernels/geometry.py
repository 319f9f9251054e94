"""Loop nests over dense and strided arrays: strides, broadcasting, merging of dimensions. No code generation here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lpir.record import record


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def broadcast_strides(shape: Sequence[int], to: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a dense array of `shape` read as `to` (NumPy's rules): 0 along broadcast dimensions."""
    full = (1,) * (len(to) - len(shape)) + tuple(shape)
    return tuple(0 if n == 1 else s for n, s in zip(full, dense_strides(full), strict=True))


@record
class Nest:
    """A loop nest: `sizes`, outermost first, and for each array its strides in elements."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def count(self) -> int:
        """Number of innermost elements."""
        return math.prod(self.sizes)


def collapse(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> Nest:
    """The same elements in the same order with as few loops as possible (at least one).

    Loops of one round vanish; two neighbours merge where every array steps through them as through one.
    """
    kept = [i for i, n in enumerate(sizes) if n != 1]
    if not kept:
        return Nest((1,), tuple((0,) for _ in strides))
    new_sizes = [sizes[kept[0]]]
    new = [[s[kept[0]]] for s in strides]
    for i in kept[1:]:
        if all(mine[-1] == s[i] * sizes[i] for mine, s in zip(new, strides, strict=True)):
            new_sizes[-1] *= sizes[i]
            for mine, s in zip(new, strides, strict=True):
                mine[-1] = s[i]
        else:
            new_sizes.append(sizes[i])
            for mine, s in zip(new, strides, strict=True):
                mine.append(s[i])
    return Nest(tuple(new_sizes), tuple(tuple(mine) for mine in new))


def reorder(nest: Nest, by: int) -> Nest:
    """The nest with loops sorted so that array number `by` is walked through in memory order, then merged."""
    order = sorted(range(nest.rank), key=lambda i: -abs(nest.strides[by][i]))
    return collapse([nest.sizes[i] for i in order], [[s[i] for i in order] for s in nest.strides])


def chunks_of(rows: int, length: int, threads: int, least: int) -> tuple[int, int]:
    """How to cut `rows` rows of `length` so that `threads` threads get about equal work: `(chunk, chunks a row)`.

    A chunk is a multiple of `least` (but for the last of a row) and rows are cut only when there are few of them.
    """
    wanted = 1 if rows >= 4 * threads else -(-4 * threads // max(rows, 1))
    chunk = -(-length // wanted)
    chunk = max(least, -(-chunk // least) * least)
    return chunk, max(1, -(-length // chunk))
