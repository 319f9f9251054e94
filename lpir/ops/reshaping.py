"""Operations that change a shape and keep, repeat or join the elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape, broadcast
from lpir.ir.types import ElementType, i32, i64
from lpir.ops.bases import integers, normalize_axis
from lpir.ops.windows import checked, shape_input
from lpir.record import record

ONE = Dimension(1, 1)


def static(length: int) -> Dimension:
    """The dimension of exactly `length`. Raises ModelError when it is negative."""
    if length < 0:
        raise ModelError(f"a length of {length} is negative")
    return Dimension(length, length)


def product(dims: Sequence[Dimension]) -> Dimension:
    """How many elements `dims` hold."""
    return math.prod(dims, start=ONE)


@op
@record
class Reshape(Op):
    """The same elements in the shape that the second input holds (OpenVINO opset1 Reshape).

    special_zero: a 0 copies the length of the same input axis. One -1 stands for what is left.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    special_zero: bool = False

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, pattern = inputs
        if pattern.value is None:
            known = shape_input(pattern, "the pattern")
            if x.shape.is_static and known.dims == (ANY,):
                known = PartialShape((product(x.shape.known()),))
            return [TensorType(x.type, known)]
        wanted = integers(pattern, "the pattern")
        if any(v < -1 for v in wanted) or wanted.count(-1) > 1:
            raise ModelError(f"the pattern {wanted} may hold lengths, zeros and one -1")
        dims = [self._dimension(x.shape, axis, v) for axis, v in enumerate(wanted)]
        if x.shape.dims is None:
            return [TensorType(x.type, checked([d or ANY for d in dims]))]
        if -1 in wanted:
            dims[wanted.index(-1)] = self._rest(x.shape.dims, wanted, [d for d in dims if d is not None])
        full = [d or ANY for d in dims]
        if product(x.shape.dims).merge(product(full)) is None:
            raise ModelError(f"shape {x.shape} cannot be seen as {wanted}: the number of elements differs")
        return [TensorType(x.type, checked(full))]

    def _dimension(self, shape: PartialShape, axis: int, wanted: int) -> Dimension | None:
        """The length that entry `wanted` of the pattern asks for; None for -1."""
        if wanted == -1:
            return None
        if wanted == 0 and self.special_zero:
            if shape.dims is None:
                return ANY
            if axis >= len(shape):
                raise ModelError(f"the pattern copies axis {axis}, but the input {shape} has only {len(shape)} axes")
            return shape[axis]
        return static(wanted)

    def _rest(self, have: tuple[Dimension, ...], wanted: list[int], others: list[Dimension]) -> Dimension:
        """What the -1 stands for. Axes that are copied cancel, so that they may be dynamic."""
        copied = [self.special_zero and v == 0 for v in wanted]
        source = product([d for axis, d in enumerate(have) if axis >= len(copied) or not copied[axis]])
        target = product([static(v) for v in wanted if v > 0 or (v == 0 and not self.special_zero)])
        if target.lo == 0:
            if not product(have).allows(0):
                raise ModelError(f"shape {PartialShape(have)} cannot be seen as {wanted}")
            return static(0)
        if source.is_static and source.lo % target.lo:
            raise ModelError(f"shape {PartialShape(have)} cannot be seen as {wanted}: {source} / {target} is not whole")
        return Dimension(-(-source.lo // target.lo), None if source.hi is None else source.hi // target.lo)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        wanted = [int(v) for v in inputs[1].reshape(-1)]
        copied = [axis for axis, v in enumerate(wanted) if v == 0 and self.special_zero]
        if -1 in wanted:
            # NumPy refuses to work out a -1 for an empty array; axes that are copied cancel
            source = math.prod(n for axis, n in enumerate(x.shape) if axis not in copied)
            others = math.prod(v for axis, v in enumerate(wanted) if v != -1 and axis not in copied)
            wanted[wanted.index(-1)] = source // others if others else 0
        return (x.reshape([x.shape[axis] if axis in copied else v for axis, v in enumerate(wanted)]),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        return [
            Case(cls(False), (x, np.array([4, 6])), "plain"),
            Case(cls(True), (x, np.array([0, -1])), "copy_and_rest"),
            Case(cls(True), (x, np.array([0, 0, 2, 2])), "copy_two"),
            Case(cls(False), (x, np.array([-1])), "flatten"),
            Case(cls(False), (x, np.array([-1, 1, 24])), "rest_is_one"),
            Case(cls(False), (x[:1, :1, :1], np.array([], np.int64)), "to_scalar"),
            Case(cls(True), (x.astype(np.int32), np.array([1, 0, 0, -1], np.int32)), "i32"),
        ]


def _axes(arg: Arg, rank: int) -> list[int]:
    axes = [normalize_axis(a, rank) for a in integers(arg, "the axes")]
    return sorted(set(axes))


@op
@record
class Squeeze(Op):
    """Takes away the axes of length 1 named by the second input, or all of them (OpenVINO opset15 Squeeze).

    allow_axis_skip: an axis that turns out longer than 1 is kept instead of refused.
    """

    version: ClassVar[str] = "opset15"
    arity: ClassVar[tuple[int, int | None]] = (1, 2)
    allow_axis_skip: bool = False

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        if x.shape.dims is None or (len(inputs) > 1 and inputs[1].value is None):
            return [TensorType(x.type, PartialShape(None))]
        given = len(inputs) > 1 and len(integers(inputs[1], "the axes")) > 0
        if not given:
            # which axes go cannot be said while one may or may not be 1
            unsure = any(d != ONE and d.allows(1) for d in x.shape.dims)
            dims = None if unsure else [d for d in x.shape.dims if d != ONE]
            return [TensorType(x.type, PartialShape(dims))]
        axes = _axes(inputs[1], len(x.shape))
        for axis in axes:
            if not x.shape[axis].allows(1) and not self.allow_axis_skip:
                raise ModelError(f"axis {axis} of {x.shape} has not the length 1")
        if self.allow_axis_skip and any(x.shape[a] != ONE and x.shape[a].allows(1) for a in axes):
            return [TensorType(x.type, PartialShape(None))]
        gone = [a for a in axes if x.shape[a].allows(1)]
        return [TensorType(x.type, PartialShape(d for a, d in enumerate(x.shape) if a not in gone))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        axes = [int(a) % x.ndim for a in inputs[1].reshape(-1)] if len(inputs) > 1 else []
        if not axes:
            return (x.reshape([n for n in x.shape if n != 1]),)
        return (x.reshape([n for a, n in enumerate(x.shape) if a not in axes or n != 1]),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(6, dtype=np.float32).reshape(1, 3, 1, 2)
        return [
            Case(cls(), (x,), "all"),
            Case(cls(), (x, np.array([0])), "one"),
            Case(cls(), (x, np.array([-2, 0])), "two"),
            Case(cls(), (x, np.array(2)), "scalar_axis"),
            Case(cls(True), (x, np.array([1, 0])), "skip"),
        ]


@op
class Unsqueeze(Op):
    """Adds axes of length 1 at the places (in the output) that the second input names (OpenVINO opset1 Unsqueeze)."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, axes = inputs
        if axes.value is None or x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        wanted = integers(axes, "the axes")
        rank = len(x.shape) + len(set(wanted))
        added = _axes(axes, rank)
        if len(added) != len(wanted):
            raise ModelError(f"the axes {wanted} name one axis twice")
        rest = iter(x.shape)
        return [TensorType(x.type, PartialShape(ONE if a in added else next(rest) for a in range(rank)))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (np.expand_dims(inputs[0], tuple(int(a) for a in inputs[1].reshape(-1))),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        return [
            Case(cls(), (x, np.array([0])), "front"),
            Case(cls(), (x, np.array([-1])), "back"),
            Case(cls(), (x, np.array([1, 3])), "two"),
            Case(cls(), (x, np.array(1)), "scalar_axis"),
        ]


@op
class Transpose(Op):
    """`y` has axis `order[i]` of `x` as its axis `i`; an empty order reverses them (OpenVINO opset1 Transpose)."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, order = inputs
        if order.value is None:
            rank = x.shape.rank
            if rank is None and order.shape.is_static and order.shape.to_static()[:1] != (0,):
                rank = shape_input(order, "the order").rank
            return [TensorType(x.type, PartialShape(None if rank is None else (ANY,) * rank))]
        wanted = integers(order, "the order")
        if not wanted and x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        rank = len(wanted) if x.shape.dims is None else len(x.shape)
        wanted = wanted or list(range(rank))[::-1]
        if sorted(wanted) != list(range(rank)):
            raise ModelError(f"the order {wanted} is no permutation of the axes of {x.shape}")
        dims = x.shape.dims or (ANY,) * rank
        return [TensorType(x.type, PartialShape(dims[a] for a in wanted))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        order = [int(a) for a in inputs[1].reshape(-1)]
        return (np.transpose(inputs[0], order or None).copy(),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        return [
            Case(cls(), (x, np.array([0, 2, 1])), "last_two"),
            Case(cls(), (x, np.array([2, 0, 1])), "rotate"),
            Case(cls(), (x, np.array([], np.int64)), "reverse"),
            Case(cls(), (x.reshape(1, 2, 3, 4).astype(np.int32), np.array([0, 2, 3, 1])), "channels_last"),
        ]


@op
@record
class Concat(Op):
    """The inputs one after the other along `axis` (OpenVINO opset1 Concat)."""

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    axis: int

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        types = {a.type for a in inputs}
        if len(types) != 1:
            raise ModelError(f"the inputs have different types: {', '.join(str(a.type) for a in inputs)}")
        shapes = [a.shape for a in inputs if a.shape.dims is not None]
        if not shapes:
            return [TensorType(inputs[0].type, PartialShape(None))]
        axis = normalize_axis(self.axis, len(shapes[0]))
        total, merged = static(0), PartialShape(_with(shapes[0], axis, ANY))
        for shape in shapes:
            found = merged.merge(PartialShape(_with(shape, axis, ANY))) if len(shape) else None
            if found is None:
                raise ModelError(f"shape {shape} does not fit beside {shapes[0]} along axis {axis}")
            merged, total = found, total + shape[axis]
        if len(shapes) != len(inputs):
            total = Dimension(total.lo, None)
        return [TensorType(inputs[0].type, checked(_with(merged, axis, total)))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (np.concatenate(inputs, self.axis),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
        return [
            Case(cls(0), (x, x + 1), "two"),
            Case(cls(-1), (x, x[:, :, :1], x * 2), "three"),
            Case(cls(1), (x,), "one"),
            Case(cls(1), (x, x[:, :0]), "empty"),
            Case(cls(1), (x.astype(np.int32), x[:, :1].astype(np.int32)), "i32"),
        ]


def _with(shape: PartialShape, axis: int, dim: Dimension) -> list[Dimension]:
    return [dim if a == axis else d for a, d in enumerate(shape)]


@op
@record
class Broadcast(Op):
    """`x` repeated to the shape that the second input holds (OpenVINO opset3 Broadcast).

    mode "numpy": one way, axes aligned at the end; "explicit": axis `i` of `x` becomes axis `axes_mapping[i]` (third
    input); "bidirectional": both shapes broadcast to each other.
    """

    version: ClassVar[str] = "opset3"
    arity: ClassVar[tuple[int, int | None]] = (2, 3)
    mode: str = "numpy"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        if self.mode not in ("numpy", "explicit", "bidirectional"):
            raise ModelError(f"mode must be numpy, explicit or bidirectional, not {self.mode!r}")
        if (self.mode == "explicit") != (len(inputs) == 3):
            raise ModelError(f"mode {self.mode} does not take {len(inputs)} inputs; explicit takes 3, the others 2")
        target = shape_input(inputs[1], "the target shape")
        if x.shape.dims is None or target.dims is None:
            return [TensorType(x.type, PartialShape(None) if self.mode == "bidirectional" else target)]
        if self.mode == "bidirectional":
            return [TensorType(x.type, checked(broadcast(x.shape, target).known()))]
        mapping = list(range(len(target) - len(x.shape), len(target)))
        if self.mode == "explicit":
            if inputs[2].value is None:
                return [TensorType(x.type, target)]
            mapping = integers(inputs[2], "the axes mapping")
        if len(mapping) != len(x.shape) or any(b <= a for a, b in pairwise(mapping)):
            raise ModelError(f"the axes mapping {mapping} must name one rising axis for each axis of {x.shape}")
        for have, axis in zip(x.shape, mapping, strict=True):
            if not 0 <= axis < len(target):
                raise ModelError(f"shape {x.shape} has an axis with no place in {target}")
            if not have.allows(1) and have.merge(target[axis]) is None:
                raise ModelError(f"shape {x.shape} does not broadcast to {target}")
        return [TensorType(x.type, checked(target.known()))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        target = tuple(int(v) for v in inputs[1].reshape(-1))
        if self.mode == "bidirectional":
            target = np.broadcast_shapes(x.shape, target)
        if self.mode == "explicit":
            lengths = [1] * len(target)
            for n, axis in zip(x.shape, inputs[2].reshape(-1), strict=True):
                lengths[int(axis)] = n
            x = x.reshape(lengths)
        return (np.broadcast_to(x, target).copy(),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(3, dtype=np.float32)
        return [
            Case(cls(), (x, np.array([2, 4, 3])), "numpy"),
            Case(cls(), (x.reshape(3, 1), np.array([2, 3, 5])), "numpy_inner"),
            Case(cls(), (np.array(7, np.float32), np.array([2, 2])), "scalar"),
            Case(cls("explicit"), (x, np.array([2, 3, 4]), np.array([1])), "explicit"),
            Case(cls("explicit"), (x.reshape(1, 3), np.array([2, 5, 3]), np.array([0, 2])), "explicit_two"),
            Case(cls("bidirectional"), (x.reshape(3, 1), np.array([2, 1, 4])), "bidirectional"),
            Case(cls("bidirectional"), (np.ones((2, 3, 4), np.float32), np.array([3, 1])), "bidirectional_smaller"),
        ]


@op
class Tile(Op):
    """`x` repeated `repeats[i]` times along axis `i`; the shorter of both is filled up with ones in front (opset1)."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, repeats = inputs
        times = shape_input(repeats, "the repeats")
        if x.shape.dims is None or times.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        rank = max(len(x.shape), len(times))
        left = (ONE,) * (rank - len(x.shape)) + x.shape.dims
        right = (ONE,) * (rank - len(times)) + times.dims
        return [TensorType(x.type, checked([a * b for a, b in zip(left, right, strict=True)]))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (np.tile(inputs[0], [int(v) for v in inputs[1].reshape(-1)]),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        return [
            Case(cls(), (x, np.array([2, 1])), "rows"),
            Case(cls(), (x, np.array([3])), "fewer"),
            Case(cls(), (x, np.array([2, 1, 2])), "more"),
        ]


@op
@record
class ShapeOf(Op):
    """The lengths of the input as a vector of output_type (OpenVINO opset3 ShapeOf)."""

    version: ClassVar[str] = "opset3"
    output_type: ElementType = i64

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if self.output_type not in (i32, i64):
            raise ModelError(f"output_type must be i32 or i64, not {self.output_type}")
        rank = inputs[0].shape.rank
        return [TensorType(self.output_type, PartialShape((ANY if rank is None else static(rank),)))]

    def static_value(self, shapes: Sequence[PartialShape]) -> Array | None:
        """The output when the input's shape leaves no choice."""
        return np.array(shapes[0].to_static(), self.output_type.dtype) if shapes[0].is_static else None

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (np.array(inputs[0].shape, self.output_type.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.zeros((2, 3, 4), np.float32)
        return [
            Case(cls(), (x,), "i64"),
            Case(cls(i32), (x[:0],), "i32_empty"),
            Case(cls(), (np.zeros((), np.float32),), "scalar"),
        ]
