"""Partial shapes: a dimension may be a number, a range or unknown, and the rank may be unknown."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Union

from lpir.errors import InputError, ModelError

DimensionLike = Union["Dimension", int, None, str, tuple[int, "int | None"]]


@dataclass(frozen=True, slots=True)
class Dimension:
    """A length between `lo` and `hi` (inclusive; `hi` None: no bound)."""

    lo: int = 0
    hi: int | None = None

    def __post_init__(self) -> None:
        if self.lo < 0 or (self.hi is not None and self.hi < self.lo):
            raise InputError(f"a dimension must be 0 <= lo <= hi, not {self.lo}..{self.hi}")

    @property
    def is_static(self) -> bool:
        return self.lo == self.hi

    @property
    def length(self) -> int:
        """The length of a static dimension. Raises ModelError for a dynamic one."""
        if self.hi is None or self.lo != self.hi:
            raise ModelError(f"dimension {self} is dynamic")
        return self.lo

    def merge(self, other: Dimension) -> Dimension | None:
        """The lengths that both allow, or None if there are none."""
        if self is other:
            return self
        his = [h for h in (self.hi, other.hi) if h is not None]
        lo, hi = max(self.lo, other.lo), min(his) if his else None
        return None if hi is not None and hi < lo else Dimension(lo, hi)

    def union(self, other: Dimension) -> Dimension:
        """The smallest range that holds both."""
        hi = None if self.hi is None or other.hi is None else max(self.hi, other.hi)
        return Dimension(min(self.lo, other.lo), hi)

    def allows(self, length: int) -> bool:
        return self.lo <= length and (self.hi is None or length <= self.hi)

    def __add__(self, other: Dimension) -> Dimension:
        return Dimension(self.lo + other.lo, None if self.hi is None or other.hi is None else self.hi + other.hi)

    def __mul__(self, other: Dimension) -> Dimension:
        if NONE in (self, other):
            return NONE
        return Dimension(self.lo * other.lo, None if self.hi is None or other.hi is None else self.hi * other.hi)

    def __str__(self) -> str:
        if self.is_static:
            return str(self.lo)
        if self.lo == 0 and self.hi is None:
            return "?"
        return f"{self.lo}..{'' if self.hi is None else self.hi}"

    __repr__ = __str__


ANY, NONE, ONE = Dimension(), Dimension(0, 0), Dimension(1, 1)


@functools.lru_cache(4096)
def _static(length: int) -> Dimension:
    """One object a length: comparing two of them is quick."""
    return Dimension(length, length)


def as_dimension(value: DimensionLike) -> Dimension:
    """From 3, -1 (unknown), None (unknown), (1, 10), (1, None) or OpenVINO's text "1..10". Raises InputError."""
    if isinstance(value, Dimension):
        return value
    if value is None:
        return ANY
    if isinstance(value, str):
        return _parse_dimension(value)
    if isinstance(value, tuple):
        return Dimension(value[0], None if value[1] is None or value[1] < 0 else value[1])
    length = int(value)
    if length < -1:
        raise InputError(f"a dimension cannot be {length}; use -1 for an unknown one")
    return ANY if length == -1 else _static(length)


def _parse_dimension(text: str) -> Dimension:
    text = text.strip()
    if text in ("?", "-1"):
        return ANY
    try:
        if ".." in text:
            lo, hi = text.split("..")
            return Dimension(int(lo or 0), int(hi) if hi else None)
        return as_dimension(int(text))
    except ValueError:
        raise InputError(f"{text!r} is not a dimension; write 3, ?, 1..10, 3.. or ..5") from None


class PartialShape:
    """A tuple of dimensions, or an unknown rank (`dims` is None). Immutable."""

    __slots__ = ("_lengths", "dims")
    dims: tuple[Dimension, ...] | None
    # of a static shape: asked for more often than anything else
    _lengths: tuple[int, ...] | None

    def __init__(self, dims: Iterable[Dimension] | None) -> None:
        found = None if dims is None else tuple(dims)
        lengths = () if found is None else tuple([d.lo for d in found if d.lo == d.hi])
        object.__setattr__(self, "dims", found)
        object.__setattr__(self, "_lengths", lengths if found is not None and len(lengths) == len(found) else None)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("PartialShape is immutable")

    @staticmethod
    def of(value: PartialShape | Iterable[DimensionLike] | str | None) -> PartialShape:
        """From a shape, a sequence of dimension-likes, OpenVINO's text, or None (unknown rank)."""
        if isinstance(value, PartialShape):
            return value
        if value is None:
            return PartialShape(None)
        if isinstance(value, str):
            return PartialShape.parse(value)
        return _of_dimensions(tuple(value))

    @staticmethod
    def parse(text: str) -> PartialShape:
        """OpenVINO's text form: "1,1..10,?,3..", "..." for unknown rank, "" for a scalar, brackets allowed."""
        text = text.strip().removeprefix("[").removesuffix("]").strip()
        if text == "...":
            return PartialShape(None)
        return PartialShape(_parse_dimension(t) for t in text.split(",")) if text else PartialShape(())

    @property
    def rank(self) -> int | None:
        return None if self.dims is None else len(self.dims)

    @property
    def is_static(self) -> bool:
        return self._lengths is not None

    def known(self) -> tuple[Dimension, ...]:
        """The dimensions of a shape of known rank. Raises ModelError otherwise."""
        if self.dims is None:
            raise ModelError("the rank is not known here")
        return self.dims

    def to_static(self) -> tuple[int, ...]:
        """The lengths. Raises ModelError if one is dynamic."""
        if self._lengths is None:
            raise ModelError(f"shape {self} is dynamic; give the model static input shapes first")
        return self._lengths

    def merge(self, other: PartialShape) -> PartialShape | None:
        """The shapes that both allow, or None if there are none."""
        if self.dims is None or other.dims is None:
            return other if self.dims is None else self
        if len(self.dims) != len(other.dims):
            return None
        merged = [a.merge(b) for a, b in zip(self.dims, other.dims, strict=True)]
        return None if None in merged else PartialShape(d for d in merged if d is not None)

    def allows(self, lengths: Iterable[int]) -> bool:
        """Whether an array of these lengths has this shape."""
        lengths = tuple(lengths)
        if self.dims is None:
            return True
        return len(lengths) == len(self.dims) and all(d.allows(n) for d, n in zip(self.dims, lengths, strict=True))

    def __getitem__(self, index: int) -> Dimension:
        return self.known()[index]

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.known())

    def __len__(self) -> int:
        return len(self.known())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (tuple, list)):
            other = PartialShape.of(other)
        return self is other or (isinstance(other, PartialShape) and self.dims == other.dims)

    def __hash__(self) -> int:
        return hash(self.dims)

    def __str__(self) -> str:
        return "[...]" if self.dims is None else f"[{','.join(map(str, self.dims))}]"

    __repr__ = __str__


@functools.lru_cache(4096)
def _of_dimensions(dims: tuple[DimensionLike, ...]) -> PartialShape:
    """One object for each shape that is asked for again and again."""
    return PartialShape([as_dimension(d) for d in dims])


def broadcast_dimension(a: Dimension, b: Dimension) -> Dimension | None:
    """NumPy's rule for one dimension, or None if the two can never go together."""
    if a is b or b == ONE:
        return a
    if a == ONE:
        return b
    if a.lo > 1 and b.lo > 1:
        return a.merge(b)
    if a.lo > 1:
        return a
    if b.lo > 1:
        return b
    return a if a == b else a.union(b)


@functools.lru_cache(4096)
def broadcast(*shapes: PartialShape) -> PartialShape:
    """NumPy's broadcast of all shapes. Raises ModelError if they do not go together."""
    if any(s.dims is None for s in shapes):
        return PartialShape(None)
    if shapes and all(s is shapes[0] or s.dims == shapes[0].dims for s in shapes):
        return shapes[0]
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dimension] = []
    for axis in range(-rank, 0):
        dim = ONE
        for s in shapes:
            if len(s) >= -axis:
                found = broadcast_dimension(dim, s[axis])
                if found is None:
                    raise ModelError(f"shapes {' and '.join(map(str, shapes))} do not broadcast (axis {axis})")
                dim = found
        out.append(dim)
    return PartialShape(out)
