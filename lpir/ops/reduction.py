"""Reductions over axes. Inputs: data, axes (a constant vector or scalar; negative counts from the back).

No axes: the data as it is. float sums are taken in float64 and rounded once; integer means round toward zero.
Source: the OpenVINO opset1 (L1, L2: opset4) specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import Dimension, PartialShape
from lpir.ir.types import boolean
from lpir.ops.bases import normalize_axis
from lpir.record import record


def reduced_axes(axes: Array, rank: int) -> tuple[int, ...]:
    """Sorted, non-negative axes. Raises ModelError for one out of range or given twice."""
    found = [normalize_axis(int(a), rank) for a in np.asarray(axes).reshape(-1)]
    if len(set(found)) != len(found):
        raise ModelError(f"axes {found} hold one axis twice")
    return tuple(sorted(found))


@record
class Reduction(Op):
    """Base of the reductions. A subclass states `reduce`."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    keep_dims: bool = False

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        """`x` reduced, of any type, with the reduced axes kept as 1."""
        raise ModelError(f"{self.type_name} states no reduction")

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        data, axes = inputs
        if not axes.type.is_integer:
            raise ModelError(f"axes must be integers, not {axes.type}")
        if data.shape.dims is None:
            return [TensorType(data.type, PartialShape(None))]
        if axes.value is None:
            # any axis may be reduced; with keep_dims the rank at least is known
            shape = PartialShape([d.union(Dimension(1, 1)) for d in data.shape]) if self.keep_dims else None
            return [TensorType(data.type, shape or PartialShape(None))]
        chosen = reduced_axes(axes.value, len(data.shape))
        dims = [Dimension(1, 1) if i in chosen else d for i, d in enumerate(data.shape)]
        if not self.keep_dims:
            dims = [d for i, d in enumerate(dims) if i not in chosen]
        return [TensorType(data.type, PartialShape(dims))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, axes = inputs
        chosen = reduced_axes(axes, x.ndim)
        with np.errstate(all="ignore"):
            y = np.asarray(self.reduce(x, chosen)).astype(x.dtype) if chosen else x
        return (y if self.keep_dims else np.squeeze(y, chosen) if chosen else y,)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(2).uniform(-2, 2, (2, 3, 4, 5)).astype(np.float32)
        whole = np.arange(1, 25, dtype=np.int32).reshape(2, 3, 4) % 7 + 1
        return [
            Case(cls(), (x, np.array([1])), "one axis"),
            Case(cls(True), (x, np.array([2, 3])), "spatial, kept"),
            Case(cls(), (x, np.array([-1, 0], np.int32)), "negative"),
            Case(cls(), (x, np.array(1)), "scalar axis"),
            Case(cls(), (x, np.array([0, 1, 2, 3])), "all"),
            Case(cls(True), (whole, np.array([2])), "i32"),
            Case(cls(), (whole.astype(np.int64), np.array([0, 2])), "i64"),
        ]


def _wide(x: Array) -> Array:
    """Enough bits to sum in: float64 for floats, 64 bit integers otherwise."""
    if x.dtype.kind in "iu":
        return x.astype(np.int64 if x.dtype.kind == "i" else np.uint64)
    return x.astype(np.float64)


@op
class ReduceSum(Reduction):
    """`sum(x)` (opset1)."""

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(_wide(x).sum(axes, keepdims=True))


@op
class ReduceMean(Reduction):
    """`sum(x) / count` (opset1); integers toward zero."""

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        total = _wide(x).sum(axes, keepdims=True)
        count = int(np.prod([x.shape[a] for a in axes]))
        if x.dtype.kind in "iu":
            return np.asarray(np.trunc(total / max(count, 1)))
        return np.asarray(total / np.float64(count))


@op
class ReduceProd(Reduction):
    """The product (opset1)."""

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(_wide(x).prod(axes, keepdims=True))


@op
class ReduceMax(Reduction):
    """The largest element (opset1)."""

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
        return np.asarray(np.max(x, axes, keepdims=True, initial=lowest))


@op
class ReduceMin(Reduction):
    """The smallest element (opset1)."""

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        highest = np.iinfo(x.dtype).max if x.dtype.kind in "iu" else np.inf
        return np.asarray(np.min(x, axes, keepdims=True, initial=highest))


@op
class ReduceL1(Reduction):
    """`sum(|x|)` (opset4)."""

    version: ClassVar[str] = "opset4"

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(np.abs(_wide(x)).sum(axes, keepdims=True))


@op
class ReduceL2(Reduction):
    """`sqrt(sum(x^2))` (opset4)."""

    version: ClassVar[str] = "opset4"

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(np.sqrt(np.square(_wide(x)).sum(axes, keepdims=True)))


class LogicalReduction(Reduction):
    """A reduction of booleans. A subclass states `reduce`."""

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if inputs[0].type != boolean:
            raise ModelError(f"the data must be boolean, not {inputs[0].type}")
        return super().infer(inputs)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.array([[True, True, False], [True, True, True], [False, False, False]])
        return [Case(cls(), (x, np.array([1])), "rows"), Case(cls(True), (x, np.array([0, 1])), "all")]


@op
class ReduceLogicalAnd(LogicalReduction):
    """Whether all are true (opset1)."""

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(np.all(x, axes, keepdims=True))


@op
class ReduceLogicalOr(LogicalReduction):
    """Whether one is true (opset1)."""

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.asarray(np.any(x, axes, keepdims=True))
