"""Transposed convolution (the gradient of a convolution with respect to its data)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension
from lpir.ops.convolution import spatial_rank
from lpir.ops.matmul import accumulator
from lpir.ops.windows import check_auto_pad, check_window, checked, map_dimension, shape_input, split_padding, taps
from lpir.record import record


@record
class BackpropDataBase(Op):
    """What ConvolutionBackpropData and GroupConvolutionBackpropData share.

    `So = stride * (S - 1) + dilation * (K - 1) + 1 - pads_begin - pads_end + output_padding`, or the third input's
    value (spatial lengths); then auto_pad "same_upper" / "same_lower" choose the pads. An empty output_padding means
    zeros.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 3)
    grouped: ClassVar[bool] = False
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    auto_pad: str = "explicit"
    output_padding: tuple[int, ...] = ()

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, w = inputs[:2]
        if x.type != w.type:
            raise ModelError(f"the input is {x.type} and the weights are {w.type}; they must be of one type")
        check_auto_pad(self.auto_pad)
        spatial = spatial_rank(x.shape, w.shape, self.grouped, len(self.strides))
        pads = {"pads_begin": self.pads_begin, "pads_end": self.pads_end, "output_padding": self.extra(spatial)}
        check_window(spatial, {"strides": self.strides, "dilations": self.dilations}, pads)
        data = x.shape.dims or (ANY,) * (spatial + 2)
        weights = w.shape.dims or (ANY,) * (spatial + 2 + self.grouped)
        if self.grouped:
            in_channels, out_channels = weights[0] * weights[1], weights[0] * weights[2]
        else:
            in_channels, out_channels = weights[0], weights[1]
        if data[1].merge(in_channels) is None:
            raise ModelError(f"the input has {data[1]} channels and the weights {w.shape} are for {in_channels}")
        lengths = self._lengths(data[2:], weights[-spatial:], inputs[2] if len(inputs) > 2 else None)
        return [TensorType(x.type, checked([data[0], out_channels, *lengths]))]

    def _lengths(self, data: Sequence[Dimension], kernel: Sequence[Dimension], wanted: Arg | None) -> list[Dimension]:
        if wanted is not None:
            shape = shape_input(wanted, "the output shape")
            if shape.rank not in (None, len(data)):
                raise ModelError(f"the output shape {shape} has not one length for each of {len(data)} spatial axes")
            return list(shape.dims or (ANY,) * len(data))
        begin, end = self._attribute_pads(len(data))
        out = []
        for n, k, s, d, b, e, extra in zip(
            data, kernel, self.strides, self.dilations, begin, end, self.extra(len(data)), strict=True
        ):
            if k.hi == 0:
                raise ModelError("the kernel is empty along a spatial axis")
            reach = map_dimension(k, lambda v, d=d: (v - 1) * d + 1)  # type: ignore[misc]
            full = map_dimension(n, lambda v, s=s: s * (v - 1)) + reach  # type: ignore[misc]
            found = map_dimension(full, lambda v, cut=b + e - extra: v - cut)  # type: ignore[misc]
            if found.hi == 0:
                raise ModelError(f"padding {b} and {e} leaves nothing of the output (input length {n}, kernel {k})")
            out.append(found)
        return out

    def extra(self, spatial: int) -> tuple[int, ...]:
        """output_padding with its default."""
        return self.output_padding or (0,) * spatial

    def _attribute_pads(self, spatial: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.auto_pad in ("explicit", "notset"):
            return self.pads_begin, self.pads_end
        return (0,) * spatial, (0,) * spatial

    def placement(
        self, lengths: Sequence[int], kernel: Sequence[int], wanted: Sequence[int] | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(front padding, output lengths) for spatial `lengths`."""
        begin, end = self._attribute_pads(len(lengths))
        extra = self.extra(len(lengths))
        full = [
            s * (n - 1) + (k - 1) * d + 1
            for n, k, s, d in zip(lengths, kernel, self.strides, self.dilations, strict=True)
        ]
        if wanted is None:
            out = [f - b - e + x for f, b, e, x in zip(full, begin, end, extra, strict=True)]
            return tuple(begin), tuple(out)
        if self.auto_pad.startswith("same"):
            totals = [max(f + x - n, 0) for f, x, n in zip(full, extra, wanted, strict=True)]
            # of an odd total, same_upper takes the larger part in front: the mirror image of a convolution
            begin = tuple(split_padding(t, self.auto_pad)[1] for t in totals)
        return tuple(begin), tuple(wanted)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, w = inputs[:2]
        w = w if self.grouped else w[None]
        wanted = [int(v) for v in inputs[2].reshape(-1)] if len(inputs) > 2 else None
        begin, out = self.placement(x.shape[2:], w.shape[3:], wanted)
        work = accumulator(x.dtype)
        y = scatter_windows(
            x.astype(work, copy=False), w.astype(work, copy=False), self.strides, self.dilations, begin, out
        )
        return (y.astype(x.dtype, copy=False),)


def scatter_windows(
    x: Array, w: Array, strides: Sequence[int], dilations: Sequence[int], begin: Sequence[int], out: Sequence[int]
) -> Array:
    """`y[n, o, i * stride + k * dilation - begin] += x[n, c, i] * w[g, c, o, k]`, cut to `out` lengths."""
    groups, per_in, per_out = w.shape[:3]
    kernel, lengths, count = w.shape[3:], x.shape[2:], x.shape[0]
    full = [
        max(s * (n - 1) + (k - 1) * d + 1, b + o)
        for n, k, s, d, b, o in zip(lengths, kernel, strides, dilations, begin, out, strict=True)
    ]
    y = np.zeros((count, groups, per_out, *full), x.dtype)
    flat = x.reshape(count, groups, per_in, math.prod(lengths))
    for tap in taps(kernel):
        position: tuple[Any, ...] = (Ellipsis, *tap)
        weights = w[position].swapaxes(1, 2)
        part = np.matmul(weights, flat).reshape(count, groups, per_out, *lengths)
        index: tuple[Any, ...] = tuple(
            slice(t * d, t * d + s * (n - 1) + 1, s)
            for t, d, s, n in zip(tap, dilations, strides, lengths, strict=True)
        )
        y[:, :, :, *index] += part
    inside: tuple[Any, ...] = tuple(slice(b, b + o) for b, o in zip(begin, out, strict=True))
    return np.ascontiguousarray(y[:, :, :, *inside]).reshape(count, groups * per_out, *out)


def _case(cls: type[BackpropDataBase], name: str, x: tuple[int, ...], w: tuple[int, ...], **attributes: object) -> Case:
    n = len(x) - 2
    rng = np.random.default_rng(len(name))
    wanted = attributes.pop("output_shape", None)
    arguments = {"strides": (1,) * n, "pads_begin": (0,) * n, "pads_end": (0,) * n, "dilations": (1,) * n, **attributes}
    arrays = [rng.standard_normal(x).astype(np.float32), rng.standard_normal(w).astype(np.float32)]
    if wanted is not None:
        arrays.append(np.asarray(wanted, np.int64))
    return Case(cls(**arguments), tuple(arrays), name)  # type: ignore[arg-type]


@op
class ConvolutionBackpropData(BackpropDataBase):
    """`y[n, o, i * stride + k * dilation - pads_begin] += x[n, c, i] * w[c, o, k]` (OpenVINO opset1).

    x `[N, C, *S]`, w `[C, O, *K]`, optional third input: spatial output lengths.
    """

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            _case(cls, "plain", (1, 3, 4, 5), (3, 2, 3, 3)),
            _case(cls, "stride", (2, 3, 4, 5), (3, 4, 2, 2), strides=(2, 2)),
            _case(cls, "pads", (1, 3, 5, 5), (3, 2, 4, 4), strides=(2, 2), pads_begin=(1, 1), pads_end=(1, 1)),
            _case(
                cls,
                "output_padding",
                (1, 3, 4, 4),
                (3, 2, 3, 3),
                strides=(2, 2),
                pads_begin=(1, 1),
                pads_end=(1, 1),
                output_padding=(1, 1),
            ),
            _case(cls, "dilated", (1, 2, 4, 5), (2, 2, 3, 2), dilations=(2, 3)),
            _case(
                cls,
                "output_shape_same_upper",
                (1, 2, 4, 5),
                (2, 3, 3, 3),
                strides=(2, 2),
                auto_pad="same_upper",
                output_shape=[8, 10],
            ),
            _case(
                cls,
                "output_shape_same_lower",
                (1, 2, 4, 5),
                (2, 3, 3, 3),
                strides=(2, 2),
                auto_pad="same_lower",
                output_shape=[8, 10],
            ),
            _case(cls, "valid", (1, 2, 4, 5), (2, 3, 3, 3), strides=(2, 2), auto_pad="valid"),
            _case(cls, "1d", (1, 3, 7), (3, 2, 4), strides=(3,), pads_begin=(1,)),
            _case(cls, "3d", (1, 2, 3, 3, 3), (2, 2, 2, 3, 2), strides=(2, 1, 2)),
        ]


@op
class GroupConvolutionBackpropData(BackpropDataBase):
    """ConvolutionBackpropData of each group of channels by itself (OpenVINO opset1).

    x `[N, C, *S]`, w `[G, C / G, O / G, *K]`, optional third input: spatial output lengths.
    """

    grouped: ClassVar[bool] = True

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            _case(cls, "groups", (1, 4, 4, 5), (2, 2, 3, 3, 3), strides=(2, 2), pads_begin=(1, 1), pads_end=(1, 1)),
            _case(cls, "depthwise", (1, 3, 4, 5), (3, 1, 1, 2, 2), strides=(2, 2)),
            _case(cls, "output_padding", (1, 4, 4, 4), (2, 2, 2, 3, 3), strides=(2, 2), output_padding=(1, 0)),
            _case(cls, "1d", (2, 4, 6), (2, 2, 1, 4), strides=(2,)),
        ]
