"""Writing updates into a copy of a tensor at positions that another tensor holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import PartialShape
from lpir.ir.types import from_dtype
from lpir.ops.bases import integers, normalize_axis
from lpir.ops.gathering import check_indices, wrapped
from lpir.record import record


def _same_types(x: Arg, updates: Arg) -> None:
    if x.type != updates.type:
        raise ModelError(f"the input is {x.type} and the updates are {updates.type}; they must be of one type")


Combine = Callable[[Array, Any, Array], None]


def _subtract(target: Array, index: Any, values: Array) -> None:
    np.subtract.at(target, index, values)


COMBINE: dict[str, Combine] = {
    "sum": lambda target, index, values: np.add.at(target, index, values),
    "sub": _subtract,
    "prod": lambda target, index, values: np.multiply.at(target, index, values),
    "min": lambda target, index, values: np.minimum.at(target, index, values),
    "max": lambda target, index, values: np.maximum.at(target, index, values),
}


@op
class ScatterUpdate(Op):
    """A copy of `x` in which slice `indices[i]` along an axis is `updates[i]` (OpenVINO opset3 ScatterUpdate).

    Inputs: x, indices, updates `[x before the axis, indices, x behind the axis]`, axis.
    """

    version: ClassVar[str] = "opset3"
    arity: ClassVar[tuple[int, int | None]] = (4, 4)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, indices, updates, axis_arg = inputs
        _same_types(x, updates)
        check_indices(indices)
        ranks = (x.shape.rank, indices.shape.rank, updates.shape.rank)
        if axis_arg.value is not None and None not in ranks:
            axis = normalize_axis(integers(axis_arg, "the axis")[0], len(x.shape))
            dims = x.shape.known()
            wanted = PartialShape((*dims[:axis], *indices.shape, *dims[axis + 1 :]))
            # a single index may come with updates that still have its axis
            scalar = len(indices.shape) == 0 and len(updates.shape) == len(x.shape)
            if not scalar and wanted.merge(updates.shape) is None:
                raise ModelError(f"the updates {updates.shape} should have the shape {wanted}")
        return [TensorType(x.type, x.shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, indices, updates = inputs[:3]
        axis = normalize_axis(int(inputs[3].reshape(-1)[0]), x.ndim)
        y = x.copy()
        places = wrapped(indices, x.shape[axis]).reshape(-1)
        values = updates.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
        # one by one, because of two equal indices the last one counts
        for i, place in enumerate(places):
            y[(slice(None),) * axis + (place,)] = values[(slice(None),) * axis + (i,)]
        return (y,)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.zeros((3, 4), np.float32)
        u = np.arange(1, 9, dtype=np.float32)
        return [
            Case(cls(), (x, np.array([2, 0]), u.reshape(2, 4), np.array(0)), "rows"),
            Case(cls(), (x, np.array([1, 3]), np.arange(6, dtype=np.float32).reshape(3, 2), np.array(1)), "columns"),
        ]


@op
@record
class ScatterElementsUpdate(Op):
    """A copy of `x` with `y[indices[i, j], j] = updates[i, j]` for axis 0, and so on (OpenVINO opset12).

    reduction: "none" or how updates join what is there: "sum", "prod", "min", "max", "mean". use_init_val False: the
    element of `x` does not take part. Inputs: x, indices, updates, axis.
    """

    version: ClassVar[str] = "opset12"
    arity: ClassVar[tuple[int, int | None]] = (4, 4)
    reduction: str = "none"
    use_init_val: bool = True

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, indices, updates, axis = inputs
        _same_types(x, updates)
        check_indices(indices)
        if self.reduction not in ("none", "sum", "prod", "min", "max", "mean"):
            raise ModelError(f"reduction must be none, sum, prod, min, max or mean, not {self.reduction!r}")
        if indices.shape.merge(updates.shape) is None:
            raise ModelError(f"the indices {indices.shape} and the updates {updates.shape} must have one shape")
        if None not in (x.shape.rank, indices.shape.rank) and len(x.shape) != len(indices.shape):
            raise ModelError(f"the input {x.shape} and the indices {indices.shape} must have one rank")
        if axis.value is not None and x.shape.dims is not None:
            normalize_axis(integers(axis, "the axis")[0], len(x.shape))
        return [TensorType(x.type, x.shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, indices, updates = inputs[:3]
        axis = normalize_axis(int(inputs[3].reshape(-1)[0]), x.ndim)
        index: list[Any] = list(np.indices(indices.shape, sparse=True))
        index[axis] = wrapped(indices, x.shape[axis])
        place = tuple(np.broadcast_arrays(*index))
        y = x.copy()
        if self.reduction == "none":
            for position in np.ndindex(indices.shape):
                y[tuple(int(a[position]) for a in place)] = updates[position]
            return (y,)
        if not self.use_init_val:
            y[place] = _neutral(self.reduction, x.dtype)
        if self.reduction == "mean":
            count = np.full(x.shape, int(self.use_init_val), np.int64)
            np.add.at(count, place, 1)
            np.add.at(y, place, updates)
            touched = np.zeros(x.shape, bool)
            touched[place] = True
            mean = y / np.maximum(count, 1) if from_dtype(x.dtype).is_float else y // np.maximum(count, 1)
            return (np.where(touched, mean, y).astype(x.dtype),)
        COMBINE[self.reduction](y, place, updates)
        return (y,)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        i = np.array([[2, 0, 1, 1], [0, 0, -1, 2]])
        u = np.arange(8, dtype=np.float32).reshape(2, 4) + 0.5
        return [
            Case(cls(), (x, np.array([[2, 0, 1, 1]]), u[:1], np.array(0)), "none"),
            Case(cls(), (x, np.array([[3], [0], [1]]), u.T[:3, :1].copy(), np.array(-1)), "last_axis"),
            Case(cls("sum"), (x, i, u, np.array(0)), "sum"),
            Case(cls("sum", False), (x, i, u, np.array(0)), "sum_without_init"),
            Case(cls("prod"), (x, i, u, np.array(0)), "prod"),
            Case(cls("max"), (x, i, u, np.array(0)), "max"),
            Case(cls("min", False), (x, i, u, np.array(0)), "min_without_init"),
            Case(cls("mean"), (x, i, u, np.array(0)), "mean"),
        ]


def _neutral(reduction: str, dtype: np.dtype[Any]) -> Any:
    if reduction in ("sum", "mean"):
        return 0
    if reduction == "prod":
        return 1
    kind = from_dtype(dtype)
    if reduction == "min":
        return np.inf if kind.is_float else kind.limits[1]
    return -np.inf if kind.is_float else kind.limits[0]


@op
@record
class ScatterNDUpdate(Op):
    """A copy of `x` with `y[indices[i]] = updates[i]`, where indices[i] is a position (OpenVINO opset15).

    indices `[*I, K]`, updates `[*I, *x.shape[K:]]`. reduction: "none", "sum", "sub", "prod", "min" or "max".
    """

    version: ClassVar[str] = "opset15"
    arity: ClassVar[tuple[int, int | None]] = (3, 3)
    reduction: str = "none"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, indices, updates = inputs
        _same_types(x, updates)
        check_indices(indices)
        if self.reduction not in ("none", *COMBINE):
            raise ModelError(f"reduction must be none, sum, sub, prod, min or max, not {self.reduction!r}")
        if x.shape.dims is not None and indices.shape.dims:
            depth = indices.shape[-1]
            if depth.lo > len(x.shape):
                raise ModelError(f"positions of {depth} numbers are too long for {x.shape}")
            if depth.is_static:
                wanted = PartialShape((*indices.shape.dims[:-1], *x.shape.dims[depth.lo :]))
                if wanted.merge(updates.shape) is None:
                    raise ModelError(f"the updates {updates.shape} should have the shape {wanted}")
        return [TensorType(x.type, x.shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, indices, updates = inputs
        y = x.copy()
        depth = indices.shape[-1]
        places = [wrapped(indices[..., i], x.shape[i]).reshape(-1) for i in range(depth)]
        values = updates.reshape(places[0].size if places else 1, *x.shape[depth:])
        if self.reduction == "none":
            for i, value in enumerate(values):
                y[tuple(int(p[i]) for p in places)] = value
        else:
            COMBINE[self.reduction](y, tuple(places), values)
        return (y,)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        return [
            Case(cls(), (x, np.array([[0, 1], [2, 3]]), np.array([50, 60], np.float32)), "elements"),
            Case(cls(), (x, np.array([[2], [0]]), -x[:2]), "rows"),
            Case(cls("sum"), (x, np.array([[0, 1], [0, 1]]), np.array([50, 60], np.float32)), "sum"),
            Case(cls("max"), (x, np.array([[0, 1], [2, 3]]), np.array([5, 6], np.float32)), "max"),
            Case(cls("sub"), (x, np.array([[1]]), x[:1]), "sub"),
        ]
