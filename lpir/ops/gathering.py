"""Reading elements at positions that a tensor holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import InputError, ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ops.bases import integers, normalize_axis
from lpir.ops.windows import checked
from lpir.record import record


def check_indices(arg: Arg) -> None:
    """Raises ModelError unless the indices are i32 or i64 (or another integer type)."""
    if not arg.type.is_integer:
        raise ModelError(f"the indices must be integers, not {arg.type}")


def wrapped(indices: Array, length: int) -> Array:
    """Indices with negative ones counted from the end. Raises InputError when one is outside `length`."""
    indices = indices.astype(np.int64)
    if indices.size and (int(indices.min()) < -length or int(indices.max()) >= length):
        raise InputError(f"indices {indices.min()}..{indices.max()} are outside an axis of length {length}")
    return np.where(indices < 0, indices + length, indices)


@op
@record
class Gather(Op):
    """`y[b, p, i, s] = x[b, p, indices[b, i], s]`: the slices of `x` along an axis at `indices` (OpenVINO opset8).

    Inputs: x, indices, axis (scalar). batch_dims: so many leading axes belong to both (negative: from the end of the
    indices' axes). Negative indices count from the end.
    """

    version: ClassVar[str] = "opset8"
    arity: ClassVar[tuple[int, int | None]] = (3, 3)
    batch_dims: int = 0

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, indices, axis_arg = inputs
        check_indices(indices)
        if x.shape.dims is None or indices.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        batch = self._batch_dims(len(indices.shape))
        if axis_arg.value is None:
            rank = len(x.shape) + len(indices.shape) - 1 - batch
            return [TensorType(x.type, PartialShape((ANY,) * rank))]
        axis = normalize_axis(integers(axis_arg, "the axis")[0], len(x.shape))
        if batch > axis or not x.shape.dims:
            raise ModelError(f"axis {axis} of {x.shape} cannot be gathered behind {batch} batch axes")
        shared = []
        for a, b in zip(x.shape.dims[:batch], indices.shape.dims[:batch], strict=True):
            merged = a.merge(b)
            if merged is None:
                raise ModelError(f"the first {batch} axes of {x.shape} and {indices.shape} differ")
            shared.append(merged)
        dims = [*shared, *x.shape.dims[batch:axis], *indices.shape.dims[batch:], *x.shape.dims[axis + 1 :]]
        return [TensorType(x.type, checked(dims))]

    def _batch_dims(self, rank: int) -> int:
        batch = self.batch_dims + rank if self.batch_dims < 0 else self.batch_dims
        if not 0 <= batch <= rank:
            raise ModelError(f"batch_dims {self.batch_dims} is outside indices of rank {rank}")
        return batch

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, indices = inputs[:2]
        axis = normalize_axis(int(inputs[2].reshape(-1)[0]), x.ndim)
        batch = self._batch_dims(indices.ndim)
        places = wrapped(indices, x.shape[axis])
        if batch == 0:
            return (np.take(x, places, axis),)
        before, between = x.shape[:batch], x.shape[batch:axis]
        rows = math.prod(before)
        flat = x.reshape(rows, *x.shape[batch:])
        flat_places = places.reshape(rows, *places.shape[batch:])
        shape = (*before, *between, *places.shape[batch:], *x.shape[axis + 1 :])
        parts = [np.take(a, i, axis - batch) for a, i in zip(flat, flat_places, strict=True)]
        return (np.stack(parts).reshape(shape) if parts else np.zeros(shape, x.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        return [
            Case(cls(), (x, np.array([2, 0]), np.array(1)), "axis1"),
            Case(cls(), (x, np.array([[1, 0], [3, 3]]), np.array(-1)), "matrix_of_indices"),
            Case(cls(), (x, np.array(-1), np.array(0)), "scalar_negative_index"),
            Case(cls(1), (x, np.array([[0, 2], [1, 1]]), np.array(1)), "batch"),
            Case(cls(1), (x, np.array([[0, 2, 1], [1, 1, 3]]), np.array(2)), "batch_inner_axis"),
            Case(cls(-1), (x, np.array([[0, 2], [1, 1]]), np.array(1)), "batch_negative"),
        ]


@op
@record
class GatherElements(Op):
    """`y[i, j, k] = x[indices[i, j, k], j, k]` for axis 0, and so on (OpenVINO opset6 GatherElements)."""

    version: ClassVar[str] = "opset6"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    axis: int

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, indices = inputs
        check_indices(indices)
        if x.shape.dims is None or indices.shape.dims is None:
            rank = x.shape.rank if x.shape.rank is not None else indices.shape.rank
            dims = None if rank is None else indices.shape.dims or (ANY,) * rank
            return [TensorType(x.type, PartialShape(dims))]
        if len(x.shape) != len(indices.shape) or not x.shape.dims:
            raise ModelError(f"the input {x.shape} and the indices {indices.shape} must have one rank, at least 1")
        axis = normalize_axis(self.axis, len(x.shape))
        out: list[Dimension] = []
        for a, (have, wanted) in enumerate(zip(x.shape, indices.shape, strict=True)):
            merged = wanted if a == axis else have.merge(wanted)
            if merged is None:
                raise ModelError(f"the input {x.shape} and the indices {indices.shape} differ along axis {a}")
            out.append(merged)
        return [TensorType(x.type, PartialShape(out))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, indices = inputs
        return (np.take_along_axis(x, wrapped(indices, x.shape[self.axis]), self.axis),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        return [
            Case(cls(0), (x, np.array([[2, 0, 1, 1]])), "axis0"),
            Case(cls(1), (x, np.array([[3, 0], [1, 1], [2, 2]])), "axis1"),
            Case(cls(-1), (x, np.array([[-1, 0], [1, -4], [2, 2]])), "negative"),
        ]


@op
@record
class GatherND(Op):
    """`y[b, i] = x[b, indices[b, i, 0], indices[b, i, 1], ...]` (OpenVINO opset8 GatherND).

    The last axis of the indices holds a position in the axes of `x` behind its first batch_dims.
    """

    version: ClassVar[str] = "opset8"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    batch_dims: int = 0

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, indices = inputs
        check_indices(indices)
        if x.shape.dims is None or indices.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        batch = self.batch_dims
        if not indices.shape.dims or not 0 <= batch < min(len(indices.shape), len(x.shape) + 1):
            raise ModelError(f"batch_dims {batch} does not fit the input {x.shape} and the indices {indices.shape}")
        depth = indices.shape[-1]
        shared: list[Dimension] = []
        for a, b in zip(x.shape.dims[:batch], indices.shape.dims[:batch], strict=True):
            merged = a.merge(b)
            if merged is None:
                raise ModelError(f"the first {batch} axes of {x.shape} and {indices.shape} differ")
            shared.append(merged)
        if not depth.is_static:
            return [TensorType(x.type, PartialShape(None))]
        if batch + depth.lo > len(x.shape):
            raise ModelError(f"positions of {depth} numbers are too long for {x.shape} behind {batch} batch axes")
        dims = [*shared, *indices.shape.dims[batch:-1], *x.shape.dims[batch + depth.lo :]]
        return [TensorType(x.type, checked(dims))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, indices = inputs
        batch = self.batch_dims
        before, depth = x.shape[:batch], indices.shape[-1]
        rows = math.prod(before)
        flat = x.reshape(rows, *x.shape[batch:])
        places = indices.reshape(rows, math.prod(indices.shape[batch:-1]), depth)
        index = [np.arange(rows)[:, None]]
        index += [wrapped(places[..., i], x.shape[batch + i]) for i in range(depth)]
        found = flat[tuple(index)] if depth else np.repeat(flat[:, None], places.shape[1], 1)
        return (found.reshape(*before, *indices.shape[batch:-1], *x.shape[batch + depth :]),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        return [
            Case(cls(), (x, np.array([[0, 1, 2], [1, 2, 3]])), "elements"),
            Case(cls(), (x, np.array([[[0, 1]], [[1, 2]]])), "rows"),
            Case(cls(1), (x, np.array([[1], [2]])), "batch"),
            Case(cls(2), (x, np.array([[[1], [2], [0]], [[3], [3], [0]]])), "two_batch_axes"),
        ]
