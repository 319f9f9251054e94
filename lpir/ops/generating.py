"""Sequences, one-hot codes, running sums and positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import InputError, ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ir.types import ElementType, boolean, dynamic, f32, i32, i64
from lpir.ops.bases import integers, normalize_axis
from lpir.ops.windows import MOST_ELEMENTS, checked
from lpir.record import record


@op
@record
class Range(Op):
    """`start, start + step, ...` below `stop` (above it for a negative step), of output_type (OpenVINO opset4).

    Inputs: start, stop, step (scalars); for an integer output_type they are truncated first.
    """

    version: ClassVar[str] = "opset4"
    arity: ClassVar[tuple[int, int | None]] = (3, 3)
    output_type: ElementType

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if self.output_type in (boolean, dynamic):
            raise ModelError(f"output_type must be a number type, not {self.output_type}")
        for name, arg in zip(("start", "stop", "step"), inputs, strict=True):
            if arg.shape.is_static and math.prod(arg.shape.to_static()) != 1:
                raise ModelError(f"{name} must be a scalar, not of shape {arg.shape}")
        if any(a.value is None for a in inputs):
            if inputs[2].value is not None and float(np.asarray(inputs[2].value).reshape(-1)[0]) == 0:
                raise ModelError("the step cannot be 0")
            return [TensorType(self.output_type, PartialShape((ANY,)))]
        values = [np.asarray(a.value).reshape(-1)[0] for a in inputs]
        count = self._count(*self._numbers(values))
        return [TensorType(self.output_type, checked([Dimension(count, count)]))]

    def _numbers(self, values: Sequence[Array]) -> list[float | int]:
        if any(not math.isfinite(v) for v in values):
            raise ModelError(f"start, stop and step must be finite, not {[float(v) for v in values]}")
        if self.output_type.is_float:
            return [float(v) for v in values]
        return [int(v) for v in values]

    def _count(self, start: float | int, stop: float | int, step: float | int) -> int:
        if step == 0:
            raise ModelError("the step cannot be 0")
        if isinstance(step, int):
            return max(0, -int((start - stop) // step))
        count = (stop - start) / step
        return max(0, math.ceil(min(count, 2.0 * MOST_ELEMENTS)))

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        start, stop, step = self._numbers([a.reshape(-1)[0] for a in inputs])
        count = self._count(start, stop, step)
        if count > MOST_ELEMENTS:
            raise InputError(f"a range from {start} to {stop} by {step} is too long")
        if isinstance(step, int):
            return ((start + np.arange(count) * step).astype(self.output_type.dtype),)
        work = np.dtype(np.float64 if self.output_type.bits == 64 else np.float32)
        steps = np.arange(count).astype(work) * np.asarray(step, work)
        return ((np.asarray(start, work) + steps).astype(self.output_type.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        def case(name: str, type: ElementType, *values: float, dtype: ElementType = i64) -> Case:
            return Case(cls(type), tuple(np.array(v, dtype.dtype) for v in values), name)

        return [
            case("up", i64, 2, 11, 3),
            case("down", i32, 9, 1, -2, dtype=i32),
            case("empty_like_one", i64, 3, 4, 5),
            case("float", f32, 0.5, 3.0, 0.5, dtype=f32),
            case("float_down", f32, 3.0, -1.0, -0.75, dtype=f32),
        ]


@op
@record
class OneHot(Op):
    """`y[..., d, ...] = on if indices == d else off`, the new axis `axis` of length depth (OpenVINO opset1 OneHot).

    Inputs: indices (i32 or i64), depth, on value, off value. An index outside 0 .. depth - 1 gives only off values.
    """

    arity: ClassVar[tuple[int, int | None]] = (4, 4)
    axis: int = -1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        indices, depth, on, off = inputs
        if not indices.type.is_integer:
            raise ModelError(f"the indices must be integers, not {indices.type}")
        if on.type != off.type:
            raise ModelError(f"the on value is {on.type} and the off value {off.type}; they must be of one type")
        if indices.shape.dims is None:
            return [TensorType(on.type, PartialShape(None))]
        axis = normalize_axis(self.axis, len(indices.shape) + 1)
        new = ANY
        if depth.value is not None:
            length = integers(depth, "the depth")[0]
            if length < 0:
                raise ModelError(f"the depth cannot be {length}")
            new = Dimension(length, length)
        return [TensorType(on.type, checked([*indices.shape.dims[:axis], new, *indices.shape.dims[axis:]]))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        indices, depth, on, off = inputs
        axis = normalize_axis(self.axis, indices.ndim + 1)
        numbers = np.arange(int(depth.reshape(-1)[0]))
        hit = np.expand_dims(indices, axis) == numbers.reshape(-1, *(1,) * (indices.ndim - axis))
        return (np.where(hit, on.reshape(()), off.reshape(())).astype(on.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        on, off = np.array(2, np.float32), np.array(-1, np.float32)
        return [
            Case(cls(-1), (np.array([0, 2, 1]), np.array(3), on, off), "last"),
            Case(cls(0), (np.array([[0, 2], [1, 1]]), np.array(3), on, off), "first"),
            Case(cls(1), (np.array([[0, 5], [1, 1]], np.int32), np.array(4), on, off), "out_of_range"),
        ]


@op
@record
class CumSum(Op):
    """`y[i] = x[0] + ... + x[i]` along the axis that the second input names (default 0) (OpenVINO opset3 CumSum).

    exclusive: without `x[i]` itself. reverse: from the end.
    """

    version: ClassVar[str] = "opset3"
    arity: ClassVar[tuple[int, int | None]] = (1, 2)
    exclusive: bool = False
    reverse: bool = False

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        if len(inputs) > 1 and inputs[1].value is not None and x.shape.dims is not None:
            normalize_axis(integers(inputs[1], "the axis")[0], len(x.shape))
        return [TensorType(x.type, x.shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        axis = int(inputs[1].reshape(-1)[0]) if len(inputs) > 1 else 0
        y = np.flip(x, axis) if self.reverse else x
        total = np.cumsum(y, axis, dtype=x.dtype)
        if self.exclusive:
            shifted = np.zeros_like(total)
            source, target = [slice(None)] * x.ndim, [slice(None)] * x.ndim
            source[axis], target[axis] = slice(None, -1), slice(1, None)
            shifted[tuple(target)] = total[tuple(source)]
            total = shifted
        return (np.ascontiguousarray(np.flip(total, axis) if self.reverse else total),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
        return [
            Case(cls(), (x, np.array(0)), "rows"),
            Case(cls(True, False), (x, np.array(1)), "exclusive"),
            Case(cls(False, True), (x, np.array(-1)), "reverse"),
            Case(cls(True, True), (x, np.array(1)), "both"),
            Case(cls(), (x.astype(np.int32), np.array(1)), "i32"),
        ]


@op
@record
class NonZero(Op):
    """`[rank, count]`: the positions of the elements that are not 0, in row-major order (OpenVINO opset3 NonZero)."""

    version: ClassVar[str] = "opset3"
    output_type: ElementType = i64

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        if self.output_type not in (i32, i64):
            raise ModelError(f"output_type must be i32 or i64, not {self.output_type}")
        if x.shape.dims is None:
            return [TensorType(self.output_type, PartialShape((ANY, ANY)))]
        rank = len(x.shape)
        most = math.prod(d.hi for d in x.shape if d.hi is not None) if all(d.hi is not None for d in x.shape) else None
        return [TensorType(self.output_type, PartialShape((Dimension(rank, rank), Dimension(0, most))))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        if x.ndim == 0:
            return (np.zeros((0, int(bool(x))), self.output_type.dtype),)
        return (np.stack(np.nonzero(x)).astype(self.output_type.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.array([[0, 3, 0], [1, 0, -2]], np.float32)
        return [
            Case(cls(), (x,), "matrix"),
            Case(cls(i32), (x[1],), "vector"),
            Case(cls(), (x.astype(np.int32),), "i32"),
        ]
