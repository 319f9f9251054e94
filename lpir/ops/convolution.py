"""Convolution and grouped convolution in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, PartialShape
from lpir.ops.matmul import accumulator
from lpir.ops.windows import (
    check_auto_pad,
    check_window,
    checked,
    pad_spatial,
    padding_of,
    shifted,
    taps,
    window_dimension,
    window_length,
)
from lpir.record import record

# elements of the unrolled input that are alive at once: they should fit the second-level cache
UNROLLED = 2**18


def convolve(
    x: Array,
    w: Array,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads_begin: Sequence[int],
    pads_end: Sequence[int],
    groups: int,
    dtype: Any,
) -> Array:
    """`y[n, o, i] = sum_{c, k} x[n, c, i * stride + k * dilation - pad] * w[o, c, k]`, padded by zeros.

    x `[N, C, *S]`, w `[O, C / groups, *K]` (output channels group by group); the sums are of type `dtype`:
    float32, float64 or int64 (exact while the sums are below 2**63). Returns `[N, O, *So]`.
    """
    dtype = np.dtype(dtype)
    work = _work_type(x, w, dtype)
    kernel = w.shape[2:]
    x = pad_spatial(np.asarray(x).astype(work, copy=False), pads_begin, pads_end, 0)
    w = np.asarray(w).astype(work, copy=False)
    out = tuple(
        window_length(n, (k - 1) * d + 1, s, 0, 0)
        for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    )
    if 0 in (*out, *kernel, x.shape[0], x.shape[1], w.shape[0]):
        return np.zeros((x.shape[0], w.shape[0], *out), dtype)
    if w.shape[1] == 1 and groups > 1:
        y = _depthwise(x, w, strides, dilations, out, groups)
    else:
        y = _unrolled(x, w, strides, dilations, out, groups)
    return y.astype(dtype, copy=False)


def _work_type(x: Array, w: Array, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float64 in place of int64 when it is as exact: then the matrix product runs in BLAS."""
    if dtype.kind not in "iu" or x.size == 0 or w.size == 0:
        return dtype
    largest = [max(abs(int(a.min())), abs(int(a.max()))) for a in (x, w)]
    terms = math.prod(w.shape[1:])
    return np.dtype(np.float64) if largest[0] * largest[1] * terms < 2**53 else np.dtype(np.int64)


def _depthwise(
    x: Array, w: Array, strides: Sequence[int], dilations: Sequence[int], out: tuple[int, ...], groups: int
) -> Array:
    """One input channel a group: a multiply-add of the whole plane for each position of the kernel."""
    count, spatial = x.shape[0], len(out)
    x = x[:, :, None]
    # [G, O / G, *K]
    w = w.reshape(groups, -1, *w.shape[2:])
    y = np.zeros((count, groups, w.shape[1], *out), x.dtype)
    for tap in taps(w.shape[2:]):
        position: tuple[Any, ...] = (slice(None), slice(None), *tap)
        factor = w[position].reshape(1, groups, -1, *(1,) * spatial)
        y += shifted(x, tap, strides, dilations, out) * factor
    return y.reshape(count, -1, *out)


def _unrolled(
    x: Array, w: Array, strides: Sequence[int], dilations: Sequence[int], out: tuple[int, ...], groups: int
) -> Array:
    """A matrix product for each image, group and block of output rows, over the unrolled windows."""
    count, channels = x.shape[:2]
    kernel = w.shape[2:]
    depth = math.prod(w.shape[1:])
    weights = w.reshape(groups, -1, depth)
    step = x.strides
    # [N, C, *K, *So]
    windows = as_strided(
        x,
        (count, channels, *kernel, *out),
        (
            *step[:2],
            *(b * d for b, d in zip(step[2:], dilations, strict=True)),
            *(b * s for b, s in zip(step[2:], strides, strict=True)),
        ),
        writeable=False,
    )
    y = np.empty((count, groups, weights.shape[1], *out), x.dtype)
    rows = max(1, UNROLLED // (depth * groups * math.prod(out[1:])))
    before = (slice(None),) * (1 + len(kernel))
    for n in range(count):
        for first in range(0, out[0], rows):
            block = windows[n][(*before, slice(first, first + rows))]
            unrolled = block.reshape(groups, depth, -1)
            part = np.matmul(weights, unrolled)
            y[n, :, :, first : first + rows] = part.reshape(groups, -1, *block.shape[-len(out) :])
    return y.reshape(count, -1, *out)


@record
class ConvolutionBase(Op):
    """What Convolution and GroupConvolution share.

    strides, dilations, pads_begin, pads_end: one value a spatial axis. auto_pad: "explicit" uses the pads; "same_upper"
    and "same_lower" pad so that `So = ceil(S / stride)`, the odd element at the end or the front; "valid" pads nothing.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    grouped: ClassVar[bool] = False
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    auto_pad: str = "explicit"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, w = inputs
        if x.type != w.type:
            raise ModelError(f"the input is {x.type} and the weights are {w.type}; they must be of one type")
        check_auto_pad(self.auto_pad)
        spatial = spatial_rank(x.shape, w.shape, self.grouped, len(self.strides))
        check_window(
            spatial,
            {"strides": self.strides, "dilations": self.dilations},
            {"pads_begin": self.pads_begin, "pads_end": self.pads_end},
        )
        data = x.shape.dims or (ANY,) * (spatial + 2)
        weights = w.shape.dims or (ANY,) * (spatial + 2 + self.grouped)
        if self.grouped:
            groups, out_channels, in_channels = weights[0], weights[0] * weights[1], weights[0] * weights[2]
            if groups.hi == 0:
                raise ModelError("the weights have no groups")
        else:
            out_channels, in_channels = weights[0], weights[1]
        if data[1].merge(in_channels) is None:
            raise ModelError(f"the input has {data[1]} channels and the weights {w.shape} are for {in_channels}")
        out = [
            window_dimension(n, k, s, d, b, e, self.auto_pad)
            for n, k, s, d, b, e in zip(
                data[2:], weights[-spatial:], self.strides, self.dilations, self.pads_begin, self.pads_end, strict=True
            )
        ]
        return [TensorType(x.type, checked([data[0], out_channels, *out]))]

    def padding(self, lengths: Sequence[int], kernel: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The padding that is really applied to spatial `lengths`."""
        return padding_of(lengths, kernel, self.strides, self.dilations, self.pads_begin, self.pads_end, self.auto_pad)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, w = inputs
        groups = w.shape[0] if self.grouped else 1
        flat = w.reshape(-1, *w.shape[2:]) if self.grouped else w
        begin, end = self.padding(x.shape[2:], flat.shape[2:])
        y = convolve(x, flat, self.strides, self.dilations, begin, end, groups, accumulator(x.dtype))
        return (y.astype(x.dtype, copy=False),)


def spatial_rank(x: PartialShape, w: PartialShape, grouped: bool, attributes: int) -> int:
    """Number of spatial axes. Raises ModelError unless data, weights and attributes agree on 1, 2 or 3."""
    found = attributes
    if x.rank is not None:
        found = x.rank - 2
        if w.rank is not None and w.rank != x.rank + grouped:
            raise ModelError(f"an input of shape {x} needs weights of rank {x.rank + grouped}, not {w}")
    elif w.rank is not None:
        found = w.rank - 2 - grouped
    if not 1 <= found <= 3:
        raise ModelError(f"{found} spatial axes; convolution has 1, 2 or 3 (input {x}, weights {w})")
    return found


@op
class Convolution(ConvolutionBase):
    """`y[n, o, i] = sum_{c, k} x[n, c, i * stride + k * dilation - pads_begin] * w[o, c, k]` (OpenVINO opset1).

    x `[N, C, *S]`, w `[O, C, *K]`, y `[N, O, *So]`.
    """

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(2)

        def case(
            name: str,
            x: tuple[int, ...],
            w: tuple[int, ...],
            s: tuple[int, ...],
            b: tuple[int, ...],
            e: tuple[int, ...],
            d: tuple[int, ...],
            auto_pad: str = "explicit",
        ) -> Case:
            arrays = (rng.standard_normal(x).astype(np.float32), rng.standard_normal(w).astype(np.float32))
            return Case(cls(s, d, b, e, auto_pad), arrays, name)

        two, one, none = (2, 2), (1, 1), (0, 0)
        return [
            case("3x3", (1, 3, 9, 8), (5, 3, 3, 3), one, one, one, one),
            case("1x1", (2, 8, 5, 5), (6, 8, 1, 1), one, none, none, one),
            case("1x1_stride", (1, 8, 5, 6), (6, 8, 1, 1), two, none, none, one),
            case("7x7_stride", (1, 3, 17, 16), (4, 3, 7, 7), two, (3, 3), (3, 3), one),
            case("dilated", (1, 4, 11, 12), (3, 4, 3, 2), one, (2, 1), (2, 0), (2, 3)),
            case("same_upper", (1, 3, 7, 8), (4, 3, 3, 4), two, none, none, one, "same_upper"),
            case("same_lower", (1, 3, 7, 8), (4, 3, 2, 4), two, none, none, one, "same_lower"),
            case("valid", (1, 3, 7, 8), (4, 3, 3, 3), one, one, one, one, "valid"),
            case("1d", (2, 3, 20), (4, 3, 5), (3,), (2,), (1,), (1,)),
            case("3d", (1, 2, 5, 6, 7), (3, 2, 2, 3, 3), (1, 2, 1), (0, 1, 1), (1, 1, 0), (1, 1, 2)),
        ]


@op
class GroupConvolution(ConvolutionBase):
    """Convolution of each group of channels by itself; depthwise when a group is one channel (OpenVINO opset1).

    x `[N, C, *S]`, w `[G, O / G, C / G, *K]`, y `[N, O, *So]`.
    """

    grouped: ClassVar[bool] = True

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(3)

        def case(
            name: str,
            x: tuple[int, ...],
            w: tuple[int, ...],
            stride: int = 1,
            pad: int = 0,
            dilation: int = 1,
            auto_pad: str = "explicit",
        ) -> Case:
            n = len(x) - 2
            arrays = (rng.standard_normal(x).astype(np.float32), rng.standard_normal(w).astype(np.float32))
            return Case(cls((stride,) * n, (dilation,) * n, (pad,) * n, (pad,) * n, auto_pad), arrays, name)

        return [
            case("depthwise", (1, 6, 9, 8), (6, 1, 1, 3, 3), pad=1),
            case("depthwise_stride", (2, 5, 9, 8), (5, 1, 1, 3, 3), stride=2, pad=1),
            case("depthwise_multiplier", (1, 4, 7, 7), (4, 2, 1, 3, 3), dilation=2, pad=2),
            case("groups", (1, 6, 8, 9), (2, 4, 3, 3, 3), pad=1),
            case("one_group", (1, 3, 5, 5), (1, 4, 3, 2, 2)),
            case("same_upper", (1, 4, 7, 8), (2, 3, 2, 3, 3), stride=2, auto_pad="same_upper"),
            case("1d", (1, 4, 15), (4, 1, 1, 5), pad=2),
            case("3d", (1, 4, 5, 6, 5), (2, 2, 2, 2, 2, 2), stride=2, pad=1),
        ]
