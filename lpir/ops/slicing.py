"""Parts of a tensor: slices and splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import InputError, ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ops.bases import integers, normalize_axis
from lpir.record import record

# stands for "no bound" while slices of a dynamic length are measured
ENDLESS = 2**62


def slice_range(length: int, start: int | None, stop: int | None, step: int) -> range:
    """The positions that `x[start:stop:step]` takes.

    As in Python, but going backwards the first position is clamped to 0, not to -1, when `start` is far negative.
    """
    first, last, step = slice(start, stop, step).indices(length)
    return range(max(first, min(0, length - 1)) if step < 0 else first, last, step)


def as_index(positions: range) -> slice:
    """The slice that takes `positions`."""
    if len(positions) == 0:
        return slice(0, 0)
    return slice(positions.start, positions.stop if positions.stop >= 0 else None, positions.step)


def slice_dimension(dim: Dimension, start: int | None, stop: int | None, step: int) -> Dimension:
    """The lengths that `x[start:stop:step]` can have. Raises ModelError for a step of 0."""
    if step == 0:
        raise ModelError("the step of a slice cannot be 0")
    hi = ENDLESS if dim.hi is None else dim.hi
    marks = [abs(v) for v in (start, stop) if v is not None]
    # between these lengths the result only rises or only falls
    corners = {dim.lo, hi} | {m + d for m in (*marks, sum(marks)) for d in (-1, 0, 1) if dim.lo <= m + d <= hi}
    lengths = [len(slice_range(n, start, stop, step)) for n in corners if n < ENDLESS]
    if dim.hi is None:
        whole = slice_range(ENDLESS, start, stop, step)
        lengths.append(max(0, -((whole.start - whole.stop) // step)))
    most = max(lengths)
    return Dimension(min(lengths), None if most > ENDLESS // (4 * abs(step)) else most)


@op
class Slice(Op):
    """`x[start:stop:step]` along each of `axes` (OpenVINO opset8 Slice).

    Inputs: x, start, stop, step, and axes (default: the first ones). Bounds count from the end when negative and are
    clamped.
    """

    version: ClassVar[str] = "opset8"
    arity: ClassVar[tuple[int, int | None]] = (4, 5)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        for name, arg in zip(("start", "stop", "step", "axes"), inputs[1:], strict=False):
            if arg.shape.rank not in (None, 1):
                raise ModelError(f"{name} must be a vector, not of shape {arg.shape}")
        if x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        if not x.shape.dims:
            raise ModelError("a scalar cannot be sliced")
        start, stop, step = ([int(v) for v in a.value] if a.value is not None else None for a in inputs[1:4])
        lengths = {len(v) for v in (start, stop, step) if v is not None}
        if len(lengths) > 1:
            raise ModelError(f"start, stop and step have different lengths: {sorted(lengths)}")
        dims = list(x.shape.dims)
        count = lengths.pop() if lengths else None
        axes = integers(inputs[4], "axes") if len(inputs) > 4 and inputs[4].value is not None else None
        if len(inputs) == 4 and count is not None:
            axes = list(range(count))
        if axes is None:
            return [TensorType(x.type, PartialShape(Dimension(0, d.hi) for d in dims))]
        axes = [normalize_axis(a, len(dims)) for a in axes]
        if len(set(axes)) != len(axes) or (count is not None and count != len(axes)):
            raise ModelError(f"the axes {axes} must be different, one for each start")
        for i, axis in enumerate(axes):
            if step is not None and step[i] == 0:
                raise ModelError("the step of a slice cannot be 0")
            if start is None or stop is None or step is None:
                dims[axis] = Dimension(0, dims[axis].hi)
            else:
                dims[axis] = slice_dimension(dims[axis], start[i], stop[i], step[i])
        return [TensorType(x.type, PartialShape(dims))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        start, stop, step = ([int(v) for v in a.reshape(-1)] for a in inputs[1:4])
        axes = [int(a) for a in inputs[4].reshape(-1)] if len(inputs) > 4 else list(range(len(start)))
        index = [slice(None)] * x.ndim
        for axis, a, b, s in zip(axes, start, stop, step, strict=True):
            index[axis] = as_index(slice_range(x.shape[axis], a, b, s))
        return (np.ascontiguousarray(x[tuple(index)]),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        huge = 2**31 - 1

        def case(name: str, *bounds: list[int]) -> Case:
            return Case(cls(), (x, *(np.array(b, np.int64) for b in bounds)), name)

        return [
            case("first_axes", [1, 0], [3, 2], [1, 1]),
            case("axes", [1], [huge], [2], [2]),
            case("negative", [-3], [-1], [1], [-1]),
            case("backwards", [huge], [-huge], [-2], [1]),
            case("empty", [3], [1], [1], [1]),
            case("backwards_from_far_before", [-9], [-huge], [-2], [2]),
            case("several", [0, -1], [huge, -4], [2, -1], [0, 2]),
        ]


@op
@record
class StridedSlice(Op):
    """`x[begin:end:stride]` with masks, one entry a position of the begin vector (OpenVINO opset1 StridedSlice).

    begin_mask / end_mask 1: that bound is not used. new_axis_mask 1: an axis of length 1 is added here.
    shrink_axis_mask 1: only element `begin` is taken and the axis goes. ellipsis_mask 1 (once): as many whole axes as
    are left. Inputs: x, begin, end, and strides (default: ones).
    """

    arity: ClassVar[tuple[int, int | None]] = (3, 4)
    begin_mask: tuple[int, ...]
    end_mask: tuple[int, ...]
    new_axis_mask: tuple[int, ...] = ()
    shrink_axis_mask: tuple[int, ...] = ()
    ellipsis_mask: tuple[int, ...] = ()

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        masks = (self.begin_mask, self.end_mask, self.new_axis_mask, self.shrink_axis_mask, self.ellipsis_mask)
        if any(v not in (0, 1) for mask in masks for v in mask):
            raise ModelError("the masks may hold only 0 and 1")
        if sum(self.ellipsis_mask) > 1:
            raise ModelError("only one position can be an ellipsis")
        if x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        count = next((a.shape[0].lo for a in inputs[1:] if a.shape.rank == 1 and a.shape[0].is_static), None)
        if count is None:
            return [TensorType(x.type, PartialShape(None))]
        if count > 64:
            raise ModelError(f"{count} positions: no tensor has so many axes")
        begin, end = (None if a.value is None else integers(a, "a bound") for a in inputs[1:3])
        strides: list[int] | None = [1] * count
        if len(inputs) > 3:
            strides = None if inputs[3].value is None else integers(inputs[3], "the strides")
        if any(v is not None and len(v) != count for v in (begin, end, strides)):
            raise ModelError("begin, end and strides must have the same length")
        return [TensorType(x.type, PartialShape(self._dims(x.shape.dims, count, begin, end, strides)))]

    def _dims(
        self,
        dims: tuple[Dimension, ...],
        count: int,
        begin: list[int] | None,
        end: list[int] | None,
        strides: list[int] | None,
    ) -> list[Dimension]:
        out: list[Dimension] = []
        rest = list(dims)
        for position, what in enumerate(self.positions(count, len(dims))):
            if what == "new":
                out.append(Dimension(1, 1))
                continue
            if what == "ellipsis":
                whole = len(rest) - self._axes_after(position, count)
                out += rest[:whole]
                rest = rest[whole:]
                continue
            dim = rest.pop(0)
            if what == "shrink":
                first = begin[position] if begin is not None and not _bit(self.begin_mask, position) else None
                if first is not None and dim.hi is not None and not -dim.hi <= first < dim.hi:
                    raise ModelError(f"element {first} is outside an axis of length {dim}")
            else:
                out.append(self._part(dim, position, begin, end, strides))
        return out + rest

    def _part(
        self, dim: Dimension, i: int, begin: list[int] | None, end: list[int] | None, strides: list[int] | None
    ) -> Dimension:
        first = None if _bit(self.begin_mask, i) else begin[i] if begin is not None else ...
        last = None if _bit(self.end_mask, i) else end[i] if end is not None else ...
        if strides is None or first is ... or last is ...:
            return Dimension(0, dim.hi)
        return slice_dimension(dim, first, last, strides[i])

    def positions(self, count: int, rank: int) -> list[str]:
        """What each of `count` positions does: "ellipsis", "new", "shrink" or "slice". ModelError: too many."""
        kinds = [
            "ellipsis"
            if _bit(self.ellipsis_mask, i)
            else "new"
            if _bit(self.new_axis_mask, i)
            else "shrink"
            if _bit(self.shrink_axis_mask, i)
            else "slice"
            for i in range(count)
        ]
        if sum(k in ("slice", "shrink") for k in kinds) > rank:
            raise ModelError(f"{kinds} takes more axes than the {rank} of the input")
        return kinds

    def _axes_after(self, position: int, count: int) -> int:
        kinds = self.positions(count, count)[position + 1 :]
        return sum(k in ("slice", "shrink") for k in kinds)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        begin, end = ([int(v) for v in a.reshape(-1)] for a in inputs[1:3])
        strides = [int(v) for v in inputs[3].reshape(-1)] if len(inputs) > 3 else [1] * len(begin)
        index: list[slice | int | None] = []
        rest = list(range(x.ndim))
        for i, what in enumerate(self.positions(len(begin), x.ndim)):
            if what == "new":
                index.append(None)
            elif what == "ellipsis":
                whole = len(rest) - self._axes_after(i, len(begin))
                index += [slice(None)] * whole
                rest = rest[whole:]
            elif what == "shrink":
                axis = rest.pop(0)
                place = 0 if _bit(self.begin_mask, i) else begin[i]
                if not -x.shape[axis] <= place < x.shape[axis]:
                    raise InputError(f"element {place} is outside an axis of length {x.shape[axis]}")
                index.append(place)
            else:
                axis = rest.pop(0)
                first = None if _bit(self.begin_mask, i) else begin[i]
                last = None if _bit(self.end_mask, i) else end[i]
                index.append(as_index(slice_range(x.shape[axis], first, last, strides[i])))
        return (x[tuple(index)].copy(),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)

        def case(
            name: str,
            bounds: tuple[list[int], list[int], list[int]],
            masks: tuple[tuple[int, ...], ...],
        ) -> Case:
            return Case(cls(*masks), (x, *(np.array(b, np.int64) for b in bounds)), name)

        none = (0, 0)
        return [
            case("plain", ([0, 1], [2, 3], [1, 1]), (none, none)),
            case("masks", ([1, 1], [1, 2], [1, 1]), ((1, 0), (0, 1))),
            case("stride", ([0, 0, 0, 4], [2, 3, 4, 0], [1, 2, 3, -2]), ((0,) * 4, (0,) * 4)),
            case("shrink", ([1, 0], [2, 1], [1, 1]), (none, none, none, (1, 0))),
            case("shrink_last", ([0, -1], [0, 0], [1, 1]), ((1, 0), (1, 0), none, (0, 1), (1, 0))),
            case("new_axis", ([0, 0, 1], [0, 0, 3], [1, 1, 1]), ((1, 1, 0), (1, 1, 0), (0, 1, 0))),
            case("ellipsis", ([0, 1], [0, 3], [1, 1]), (none, none, none, none, (1, 0))),
            case(
                "ellipsis_middle",
                ([1, 0, 2], [2, 0, 4], [1, 1, 1]),
                ((0,) * 3, (0,) * 3, (0,) * 3, (1, 0, 0), (0, 1, 0)),
            ),
            case("reverse", ([0, 0], [0, 0], [-1, -1]), ((1, 1), (1, 1))),
            case("backwards_from_far_before", ([-9, 0], [-99, 3], [-1, 1]), (none, none)),
            case("clamped", ([-9, 1], [9, 99], [1, 1]), (none, none)),
        ]


def _bit(mask: tuple[int, ...], position: int) -> bool:
    return position < len(mask) and mask[position] == 1


def _split_axis(x: Arg, axis: Arg) -> int | None:
    """The axis of a split, from the front; None while it is not known."""
    if axis.value is None or x.shape.dims is None:
        return None
    (found,) = integers(axis, "the axis")
    if not x.shape.dims:
        raise ModelError("a scalar cannot be split")
    return normalize_axis(found, len(x.shape))


@op
@record
class Split(Op):
    """`num_splits` equal parts along the axis that the second input names (OpenVINO opset1 Split)."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    num_splits: int

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        if not 1 <= self.num_splits <= 2**16:
            raise ModelError(f"num_splits must be between 1 and 65536, not {self.num_splits}")
        axis = _split_axis(*inputs)
        if axis is None:
            shape = PartialShape(None if x.shape.dims is None else (ANY,) * len(x.shape))
            return [TensorType(x.type, shape)] * self.num_splits
        dim = x.shape[axis]
        if dim.is_static and dim.lo % self.num_splits:
            raise ModelError(f"axis {axis} of {x.shape} cannot be split into {self.num_splits} equal parts")
        part = Dimension(-(-dim.lo // self.num_splits), None if dim.hi is None else dim.hi // self.num_splits)
        shape = PartialShape(part if a == axis else d for a, d in enumerate(x.shape))
        return [TensorType(x.type, shape)] * self.num_splits

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        parts = np.split(inputs[0], self.num_splits, int(inputs[1].reshape(-1)[0]))
        return tuple(np.ascontiguousarray(p) for p in parts)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(48, dtype=np.float32).reshape(2, 6, 4)
        return [
            Case(cls(3), (x, np.array(1)), "three"),
            Case(cls(2), (x, np.array(-1)), "negative_axis"),
            Case(cls(1), (x, np.array(0)), "one"),
        ]


@op
class VariadicSplit(Op):
    """Parts of the lengths that the third input holds; one of them may be -1, the rest (OpenVINO opset1)."""

    arity: ClassVar[tuple[int, int | None]] = (3, 3)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, axis_arg, lengths_arg = inputs
        axis = _split_axis(x, axis_arg)
        if lengths_arg.value is None:
            count = lengths_arg.shape.to_static()[0]
            lengths = [-2] * min(count, 2**16)
        else:
            lengths = integers(lengths_arg, "the lengths")
            if any(n < -1 for n in lengths) or lengths.count(-1) > 1:
                raise ModelError(f"the lengths {lengths} may hold only one -1 and no smaller number")
        if axis is None:
            shape = PartialShape(None if x.shape.dims is None else (ANY,) * len(x.shape))
            return [TensorType(x.type, shape)] * len(lengths)
        dim, given = x.shape[axis], sum(n for n in lengths if n > 0)
        if -2 not in lengths and (
            (dim.hi is not None and given > dim.hi) or (-1 not in lengths and not dim.allows(given))
        ):
            raise ModelError(f"the lengths {lengths} do not add up to axis {axis} of {x.shape}")
        rest = Dimension(max(dim.lo - given, 0), None if dim.hi is None else dim.hi - given)
        parts = [Dimension(0, dim.hi) if n == -2 else rest if n == -1 else Dimension(n, n) for n in lengths]
        shapes = [PartialShape(p if a == axis else d for a, d in enumerate(x.shape)) for p in parts]
        return [TensorType(x.type, shape) for shape in shapes]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, axis = inputs[0], int(inputs[1].reshape(-1)[0])
        lengths = [int(n) for n in inputs[2].reshape(-1)]
        if -1 in lengths:
            lengths[lengths.index(-1)] = x.shape[axis] - sum(n for n in lengths if n > 0)
        parts = np.split(x, np.cumsum(lengths)[:-1], axis)
        return tuple(np.ascontiguousarray(p) for p in parts)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(48, dtype=np.float32).reshape(2, 6, 4)
        return [
            Case(cls(), (x, np.array(1), np.array([1, 2, 3])), "three"),
            Case(cls(), (x, np.array(1), np.array([4, -1])), "rest"),
            Case(cls(), (x, np.array(-1), np.array([-1, 1, 1])), "rest_first"),
        ]
