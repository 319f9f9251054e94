"""Arithmetic of sliding windows: output lengths and padding, shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array
from lpir.ir.shape import ANY, Dimension, PartialShape

# lengths and attributes beyond this are taken for damage; products of two still fit 64 bits
LARGEST = 2**31 - 1
# more elements than any machine that this runs on holds
MOST_ELEMENTS = 2**34

AUTO_PADS = ("explicit", "notset", "same_upper", "same_lower", "valid")


def map_dimension(dim: Dimension, length: Callable[[int], int]) -> Dimension:
    """`dim` through a function that never falls; negative lengths become 0."""
    return Dimension(max(length(dim.lo), 0), None if dim.hi is None else max(length(dim.hi), 0))


def checked(dims: Sequence[Dimension], what: str = "the output") -> PartialShape:
    """The shape of `dims`. Raises ModelError when it could hold no array of this machine."""
    count = 1
    for d in dims:
        count *= d.lo
    if count > MOST_ELEMENTS or any(d.lo > MOST_ELEMENTS for d in dims):
        raise ModelError(f"{what} would have the shape {PartialShape(dims)}, which is too large")
    return PartialShape(dims)


def shape_input(arg: Arg, what: str) -> PartialShape:
    """The shape that an integer input holds: its value when known, else as much as its length says.

    Raises ModelError for negative lengths.
    """
    if arg.value is not None:
        lengths = [int(v) for v in np.asarray(arg.value).reshape(-1)]
        if any(n < 0 for n in lengths):
            raise ModelError(f"{what} {lengths} holds a negative length")
        return PartialShape(Dimension(n, n) for n in lengths)
    if arg.shape.dims is None or (len(arg.shape) == 1 and not arg.shape[0].is_static):
        return PartialShape(None)
    count = arg.shape[0].lo if len(arg.shape) == 1 else 1
    if count > 64:
        raise ModelError(f"{what} has {count} elements: no tensor has so many axes")
    return PartialShape((ANY,) * count)


def check_window(spatial: int, at_least_one: dict[str, tuple[int, ...]], pads: dict[str, tuple[int, ...]]) -> None:
    """Raises ModelError unless every attribute has `spatial` values in its range."""
    for name, values in (*at_least_one.items(), *pads.items()):
        lowest = 1 if name in at_least_one else 0
        if len(values) != spatial:
            raise ModelError(f"{name} has {len(values)} values for {spatial} spatial axes")
        if any(not lowest <= v <= LARGEST for v in values):
            raise ModelError(f"{name} must be between {lowest} and {LARGEST}, not {list(values)}")


def check_auto_pad(auto_pad: str) -> None:
    """Raises ModelError unless `auto_pad` is one of OpenVINO's words."""
    if auto_pad not in AUTO_PADS:
        raise ModelError(f"auto_pad must be one of {', '.join(AUTO_PADS)}, not {auto_pad!r}")


def split_padding(total: int, auto_pad: str) -> tuple[int, int]:
    """`total` in two halves; the odd one goes to the end for same_upper and to the front for same_lower."""
    small, large = total // 2, total - total // 2
    return (small, large) if auto_pad == "same_upper" else (large, small)


def padding_of(
    lengths: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads_begin: Sequence[int],
    pads_end: Sequence[int],
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The padding that is really applied to `lengths`: the attributes, or what `auto_pad` asks for."""
    if auto_pad == "valid":
        return (0,) * len(lengths), (0,) * len(lengths)
    if not auto_pad.startswith("same"):
        return tuple(pads_begin), tuple(pads_end)
    pairs = [
        split_padding(max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0), auto_pad)
        for n, k, s, d in zip(lengths, kernel, strides, dilations, strict=True)
    ]
    return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)


def window_length(length: int, reach: int, stride: int, pad_begin: int, pad_end: int, rounding: str = "floor") -> int:
    """How many windows of `reach` elements fit; 0 when none does.

    rounding "ceil" adds a last, partly empty window; "ceil_torch" only if it starts in the data or its left padding.
    """
    room = length + pad_begin + pad_end - reach
    if room < 0:
        return 0
    if rounding == "floor":
        return room // stride + 1
    count = -(-room // stride) + 1
    if rounding == "ceil_torch" and (count - 1) * stride >= length + pad_begin:
        count -= 1
    return count


def same_length(length: int, reach: int, stride: int, rounding: str) -> int:
    """How many windows auto_pad "same_upper" or "same_lower" gives: `ceil(length / stride)` when rounding down."""
    if rounding == "floor":
        return -(-length // stride)
    padded = max(length, (-(-length // stride) - 1) * stride + reach)
    return window_length(padded, reach, stride, 0, 0, rounding)


def window_dimension(
    dim: Dimension,
    kernel: Dimension,
    stride: int,
    dilation: int,
    pad_begin: int,
    pad_end: int,
    auto_pad: str,
    rounding: str = "floor",
) -> Dimension:
    """Output length along one axis. Raises ModelError when no window fits or the kernel is empty."""
    if kernel.hi == 0:
        raise ModelError("the kernel is empty along a spatial axis")
    if auto_pad.startswith("same"):
        # a rounding up may still add a window behind the padding that "same" asks for
        reach = (kernel.lo - 1) * dilation + 1 if kernel.is_static else 1
        return map_dimension(dim, lambda n: same_length(n, reach, stride, rounding))
    if auto_pad == "valid":
        pad_begin = pad_end = 0
    small = (max(kernel.lo, 1) - 1) * dilation + 1
    most = None
    if dim.hi is not None:
        most = window_length(dim.hi, small, stride, pad_begin, pad_end, rounding)
        if most == 0:
            raise ModelError(
                f"a window of {small} elements (dilation included) does not fit the input of "
                f"length {dim} with padding {pad_begin} and {pad_end}"
            )
    least = 1
    if kernel.hi is not None:
        reach = (kernel.hi - 1) * dilation + 1
        least = max(window_length(dim.lo, reach, stride, pad_begin, pad_end, rounding), 1)
    return Dimension(least, most)


def pad_spatial(x: Array, pads_begin: Sequence[int], pads_end: Sequence[int], value: Any) -> Array:
    """`x [N, C, *S]` with its spatial axes padded by `value`."""
    if not any(pads_begin) and not any(pads_end):
        return x
    shape = [n + b + e for n, b, e in zip(x.shape[2:], pads_begin, pads_end, strict=True)]
    out: Array = np.full((*x.shape[:2], *shape), value, x.dtype)
    inside = tuple(slice(b, b + n) for n, b in zip(x.shape[2:], pads_begin, strict=True))
    out[(slice(None), slice(None), *inside)] = x
    return out


def taps(kernel: Sequence[int]) -> list[tuple[int, ...]]:
    """Every position inside a kernel, in row-major order."""
    return [tuple(int(i) for i in index) for index in np.ndindex(*kernel)]


def shifted(
    x: Array, tap: Sequence[int], strides: Sequence[int], dilations: Sequence[int], out: Sequence[int]
) -> Array:
    """View `[..., *out]` of what position `tap` of every window sees in the padded `x [..., *S]`."""
    index: tuple[Any, ...] = tuple(
        slice(t * d, t * d + (n - 1) * s + 1 if n else t * d, s)
        for t, d, s, n in zip(tap, dilations, strides, out, strict=True)
    )
    view: Array = x[(Ellipsis, *index)]
    return view
