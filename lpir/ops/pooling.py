"""Pooling: maximum and average over sliding or adaptive windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op, xml_name
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ir.types import ElementType, from_dtype, i32, i64
from lpir.ops.bases import normalize_axis
from lpir.ops.windows import (
    check_auto_pad,
    check_window,
    checked,
    pad_spatial,
    padding_of,
    shape_input,
    shifted,
    taps,
    window_dimension,
    window_length,
)
from lpir.record import record

ROUNDINGS = ("floor", "ceil", "ceil_torch")


def lowest(dtype: np.dtype[Any]) -> Any:
    """The smallest finite value of `dtype`: what OpenVINO gives for a window without data."""
    kind = from_dtype(dtype)
    if not kind.is_float:
        return kind.limits[0]
    import ml_dtypes

    return ml_dtypes.finfo(dtype).min  # type: ignore[no-untyped-call]


def _pool_shape(
    x: PartialShape,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[tuple[int, ...], tuple[int, ...]],
    auto_pad: str,
    rounding_type: str,
) -> PartialShape:
    check_auto_pad(auto_pad)
    if rounding_type not in ROUNDINGS:
        raise ModelError(f"rounding_type must be one of {', '.join(ROUNDINGS)}, not {rounding_type!r}")
    spatial = len(kernel) if x.rank is None else x.rank - 2
    if not 1 <= spatial <= 3:
        raise ModelError(f"pooling takes 1 to 3 spatial axes, not shape {x} with kernel {list(kernel)}")
    check_window(
        spatial,
        {"kernel": kernel, "strides": strides, "dilations": dilations},
        {"pads_begin": pads[0], "pads_end": pads[1]},
    )
    dims = x.dims or (ANY,) * (spatial + 2)
    out = [
        window_dimension(n, Dimension(k, k), s, d, b, e, auto_pad, rounding_type)
        for n, k, s, d, b, e in zip(dims[2:], kernel, strides, dilations, *pads, strict=True)
    ]
    return checked([dims[0], dims[1], *out])


def _frame(
    lengths: Sequence[int],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    begin: Sequence[int],
    end: Sequence[int],
    rounding: str,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(output lengths, how much the data must be padded behind for the last window)."""
    out, behind = [], []
    for n, k, s, d, b, e in zip(lengths, kernel, strides, dilations, begin, end, strict=True):
        reach = (k - 1) * d + 1
        count = window_length(n, reach, s, b, e, rounding)
        out.append(count)
        behind.append(max((count - 1) * s + reach - n - b, 0))
    return tuple(out), tuple(behind)


@op
@record
class MaxPool(Op):
    """`y[n, c, i] = max_k x[n, c, i * stride + k * dilation - pads_begin]` and where it was (OpenVINO opset14).

    The second output holds the position of the maximum in `x` flattened from `axis` on, of type index_element_type.
    rounding_type: "floor", "ceil" (a last window may be partly empty) or "ceil_torch" (unless it starts in padding).
    """

    version: ClassVar[str] = "opset14"
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    kernel: tuple[int, ...]
    rounding_type: str = "floor"
    auto_pad: str = "explicit"
    index_element_type: ElementType = i64
    axis: int = 0

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        (x,) = inputs
        if self.index_element_type not in (i32, i64):
            raise ModelError(f"index_element_type must be i32 or i64, not {self.index_element_type}")
        shape = _pool_shape(
            x.shape,
            self.kernel,
            self.strides,
            self.dilations,
            (self.pads_begin, self.pads_end),
            self.auto_pad,
            self.rounding_type,
        )
        normalize_axis(self.axis, len(shape))
        return [TensorType(x.type, shape), TensorType(self.index_element_type, shape)]

    def padding(self, lengths: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The padding that is really applied to spatial `lengths`."""
        return padding_of(
            lengths, self.kernel, self.strides, self.dilations, self.pads_begin, self.pads_end, self.auto_pad
        )

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        (x,) = inputs
        begin, end = self.padding(x.shape[2:])
        out, behind = _frame(x.shape[2:], self.kernel, self.strides, self.dilations, begin, end, self.rounding_type)
        padded = pad_spatial(x, begin, behind, lowest(x.dtype))
        best = np.full((*x.shape[:2], *out), lowest(x.dtype), x.dtype)
        where = self._first_taps(best.shape, begin)
        for number, tap in enumerate(taps(self.kernel)):
            seen = shifted(padded, tap, self.strides, self.dilations, out)
            better = seen > best
            np.copyto(best, seen, where=better)
            np.copyto(where, number, where=better)
        indices = self._positions(where, x.shape, begin)
        return best, indices.astype(self.index_element_type.dtype)

    def _first_taps(self, shape: tuple[int, ...], begin: Sequence[int]) -> Array:
        """`shape`: the number of the first kernel position inside the data, so that no maximum is found in padding."""
        first: Array = np.zeros((), np.int64)
        for n, k, s, d, b in zip(shape[2:], self.kernel, self.strides, self.dilations, begin, strict=True):
            outside = np.maximum(b - np.arange(n) * s, 0)
            first = first[..., None] * k + np.minimum(-(-outside // d), k - 1)
        return np.broadcast_to(first, shape).copy()

    def _positions(self, tap: Array, shape: tuple[int, ...], begin: Sequence[int]) -> Array:
        """From the number of the kernel position to the position in `x` flattened from `axis` on."""
        coordinates = [np.arange(tap.shape[0]).reshape(-1, *(1,) * (tap.ndim - 1))]
        coordinates.append(np.arange(tap.shape[1]).reshape(-1, *(1,) * (tap.ndim - 2)))
        inside = np.unravel_index(tap, self.kernel)
        for axis, k in enumerate(inside):
            first = np.arange(tap.shape[axis + 2]) * self.strides[axis] - begin[axis]
            coordinates.append(first.reshape(-1, *(1,) * (tap.ndim - 3 - axis)) + k * self.dilations[axis])
        flat: Array = np.zeros(tap.shape, np.int64)
        empty: Array = np.zeros((), bool)
        for axis in range(2, len(shape)):
            empty = empty | (coordinates[axis] >= shape[axis])
        for axis in range(normalize_axis(self.axis, len(shape)), len(shape)):
            # a window without data reports the first element of its plane
            place = np.where(empty, 0, coordinates[axis]) if axis >= 2 else coordinates[axis]
            flat = flat + place * math.prod(shape[axis + 1 :])
        return flat

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(4)
        x = rng.standard_normal((2, 3, 9, 8)).astype(np.float32)
        one, two, none, three = (1, 1), (2, 2), (0, 0), (3, 3)
        line = rng.standard_normal((1, 2, 11)).astype(np.float32)
        cube = rng.standard_normal((1, 2, 5, 6, 7)).astype(np.float32)
        # no value occurs twice: which of two equal maxima is reported is not specified
        small = rng.permutation(2 * 36)[None].reshape(1, 2, 6, 6).astype(np.uint8)
        return [
            Case(cls(two, one, none, none, two), (x,), "2x2"),
            Case(cls(two, one, one, one, three), (x,), "resnet"),
            Case(cls(two, one, none, none, three, "ceil"), (x,), "ceil"),
            Case(cls(two, one, one, one, three, "ceil_torch"), (x,), "ceil_torch"),
            Case(cls((4, 5), one, none, none, one, "ceil", "valid"), (x[:, :, :8],), "ceil_without_data"),
            Case(cls(two, one, none, none, three, "ceil", "same_upper"), (x,), "ceil_same"),
            Case(cls(one, two, none, none, three), (x,), "dilated"),
            Case(cls(two, one, none, none, three, "floor", "same_upper"), (x,), "same_upper"),
            Case(cls(two, one, none, none, three, "floor", "same_lower"), (x,), "same_lower"),
            Case(cls(two, one, none, none, two, "floor", "explicit", i32, 2), (x,), "axis"),
            Case(cls((3,), (1,), (1,), (1,), (3,)), (line,), "1d"),
            Case(cls((2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 0, 1), (2, 2, 3)), (cube,), "3d"),
            Case(cls(two, one, none, none, two), (small,), "u8"),
        ]


@op
@record
class AvgPool(Op):
    """`y[n, c, i] = sum_k x[n, c, i * stride + k - pads_begin] / count` (OpenVINO opset14).

    exclude-pad: `count` is the number of elements of `x` in the window instead of the whole window's size. It is so
    too when nothing is padded and only rounding_type lets a window hang over.
    """

    version: ClassVar[str] = "opset14"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    exclude_pad: bool = xml_name("exclude-pad")
    auto_pad: str = "explicit"
    rounding_type: str = "floor"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        (x,) = inputs
        dilations = (1,) * len(self.kernel)
        pads = (self.pads_begin, self.pads_end)
        shape = _pool_shape(x.shape, self.kernel, self.strides, dilations, pads, self.auto_pad, self.rounding_type)
        return [TensorType(x.type, shape)]

    def padding(self, lengths: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The padding that is really applied to spatial `lengths`."""
        ones = (1,) * len(self.kernel)
        return padding_of(lengths, self.kernel, self.strides, ones, self.pads_begin, self.pads_end, self.auto_pad)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        (x,) = inputs
        begin, end = self.padding(x.shape[2:])
        ones = (1,) * len(self.kernel)
        out, behind = _frame(x.shape[2:], self.kernel, self.strides, ones, begin, end, self.rounding_type)
        work = np.float64 if x.dtype == np.float64 else np.float32
        padded = pad_spatial(x.astype(work), begin, behind, 0)
        total = np.zeros((*x.shape[:2], *out), work)
        for tap in taps(self.kernel):
            total += shifted(padded, tap, self.strides, ones, out)
        mean = total / self.counts(x.shape[2:], out, begin, end).astype(work)
        if not from_dtype(x.dtype).is_float:
            mean = np.rint(mean)
        return (mean.astype(x.dtype),)

    def counts(self, lengths: Sequence[int], out: Sequence[int], begin: Sequence[int], end: Sequence[int]) -> Array:
        """`[*So]`: what each sum is divided by."""
        total: Array = np.ones((), np.int64)
        padded = any(begin) or any(end)
        for n, k, s, b, o in zip(lengths, self.kernel, self.strides, begin, out, strict=True):
            first = np.arange(o) * s - b
            last = first + k
            if self.exclude_pad or not padded:
                first, last = np.maximum(first, 0), np.minimum(last, n)
            total = total[..., None] * np.maximum(last - first, 1)
        return total

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(5)
        x = rng.standard_normal((2, 3, 9, 8)).astype(np.float32)
        line = rng.standard_normal((1, 2, 11)).astype(np.float32)
        cube = rng.standard_normal((1, 2, 5, 6, 7)).astype(np.float32)
        one, two, none, three = (1, 1), (2, 2), (0, 0), (3, 3)
        return [
            Case(cls(two, two, none, none, False), (x,), "2x2"),
            Case(cls(three, two, one, one, True), (x,), "exclude"),
            Case(cls(three, two, one, one, False), (x,), "include"),
            Case(cls(three, two, none, none, True, "explicit", "ceil"), (x,), "ceil"),
            Case(cls(three, two, one, one, False, "explicit", "ceil"), (x,), "ceil_include"),
            Case(cls(three, two, one, one, False, "explicit", "ceil_torch"), (x,), "ceil_torch"),
            Case(cls(three, two, none, none, False, "explicit", "ceil"), (x,), "ceil_without_padding"),
            Case(cls(three, two, none, none, True, "same_upper"), (x,), "same_upper"),
            Case(cls(three, two, none, none, False, "same_lower"), (x,), "same_lower"),
            Case(cls((9, 8), one, none, none, False), (x,), "global"),
            Case(cls((3,), (2,), (1,), (0,), True), (line,), "1d"),
            Case(cls((2, 3, 2), (2, 2, 2), (0, 1, 0), (1, 1, 1), True), (cube,), "3d"),
        ]


def _adaptive_shape(x: Arg, wanted: Arg) -> PartialShape:
    spatial = shape_input(wanted, "the output shape")
    rank = x.shape.rank if x.shape.rank is not None else None if spatial.rank is None else spatial.rank + 2
    if rank is None:
        return PartialShape(None)
    if not 3 <= rank <= 5:
        raise ModelError(f"adaptive pooling takes rank 3 to 5, not {x.shape}")
    if spatial.rank not in (None, rank - 2):
        raise ModelError(f"the output shape {spatial} has not one length for each spatial axis of {x.shape}")
    dims = x.shape.dims or (ANY,) * rank
    if any(d == Dimension(0, 0) for d in dims[2:]):
        raise ModelError(f"the input {x.shape} is empty along a spatial axis")
    return checked([*dims[:2], *(spatial.dims or (ANY,) * (rank - 2))])


def _adaptive(x: Array, lengths: Sequence[int], reduce: Callable[[Array, tuple[slice, ...]], None]) -> None:
    """Calls `reduce(window, index)` for the window of every spatial output index."""
    for index in np.ndindex(*lengths):
        window = tuple(
            slice(i * n // o, -(-(i + 1) * n // o)) for i, n, o in zip(index, x.shape[2:], lengths, strict=True)
        )
        reduce(x[(slice(None), slice(None), *window)], window)


@op
class AdaptiveAvgPool(Op):
    """The mean of window `floor(i * S / So) .. ceil((i + 1) * S / So)` for each of So outputs (OpenVINO opset8).

    Inputs: x `[N, C, *S]` and the spatial output lengths.
    """

    version: ClassVar[str] = "opset8"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(inputs[0].type, _adaptive_shape(*inputs))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, wanted = inputs
        lengths = [int(v) for v in wanted.reshape(-1)]
        axes = tuple(range(2, x.ndim))
        means: list[Array] = []
        _adaptive(x, lengths, lambda window, _: means.append(window.mean(axis=axes, dtype=np.float32)))
        y = np.stack(means, axis=-1) if means else np.zeros((*x.shape[:2], 0))
        return (y.reshape(*x.shape[:2], *lengths).astype(x.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(6)
        x = rng.standard_normal((2, 3, 9, 8)).astype(np.float32)
        line = rng.standard_normal((1, 2, 11)).astype(np.float32)
        cube = rng.standard_normal((1, 2, 5, 6, 7)).astype(np.float32)
        return [
            Case(cls(), (x, np.array([1, 1])), "global"),
            Case(cls(), (x, np.array([4, 3])), "uneven"),
            Case(cls(), (x, np.array([10, 9])), "larger"),
            Case(cls(), (line, np.array([4])), "1d"),
            Case(cls(), (cube, np.array([2, 3, 4])), "3d"),
        ]


@op
@record
class AdaptiveMaxPool(Op):
    """The maximum of each adaptive window and its position in the flattened spatial axes (OpenVINO opset8)."""

    version: ClassVar[str] = "opset8"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    index_element_type: ElementType = i64

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if self.index_element_type not in (i32, i64):
            raise ModelError(f"index_element_type must be i32 or i64, not {self.index_element_type}")
        shape = _adaptive_shape(*inputs)
        return [TensorType(inputs[0].type, shape), TensorType(self.index_element_type, shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, wanted = inputs
        lengths = [int(v) for v in wanted.reshape(-1)]
        numbers = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
        best: list[Array] = []
        where: list[Array] = []

        def reduce(window: Array, index: tuple[slice, ...]) -> None:
            flat = window.reshape(*x.shape[:2], -1)
            winner = flat.argmax(axis=-1)
            best.append(np.take_along_axis(flat, winner[..., None], -1)[..., 0])
            where.append(numbers[index].reshape(-1)[winner])

        _adaptive(x, lengths, reduce)
        shape = (*x.shape[:2], *lengths)
        indices = np.stack(where, axis=-1).reshape(shape)
        return np.stack(best, axis=-1).reshape(shape), indices.astype(self.index_element_type.dtype)

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(7)
        x = rng.standard_normal((2, 3, 9, 8)).astype(np.float32)
        line = rng.standard_normal((1, 2, 11)).astype(np.float32)
        return [
            Case(cls(i32), (x, np.array([1, 1])), "global"),
            Case(cls(i32), (x, np.array([4, 3])), "uneven"),
            Case(cls(i32), (line, np.array([4])), "1d"),
        ]
