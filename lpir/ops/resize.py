"""Interpolate: resizing along chosen axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ir.types import from_dtype
from lpir.ops.bases import integers, normalize_axis
from lpir.ops.windows import LARGEST, checked
from lpir.record import record

MODES = ("nearest", "linear", "linear_onnx", "cubic", "bilinear_pillow", "bicubic_pillow")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "tf_half_pixel_for_nn", "align_corners")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")


def coordinates(transformation: str, length: int, out: int, scale: float) -> Array:
    """`[out]` float32: where in the input of `length` elements each output lies."""
    i = np.arange(out, dtype=np.float32)
    s = np.float32(scale)
    if transformation == "asymmetric":
        return i / s
    if transformation == "tf_half_pixel_for_nn":
        return (i + np.float32(0.5)) / s
    if transformation == "align_corners":
        return i * np.float32(length - 1) / np.float32(out - 1) if out > 1 else np.zeros(out, np.float32)
    if transformation == "pytorch_half_pixel" and out == 1:
        return np.zeros(out, np.float32)
    return (i + np.float32(0.5)) / s - np.float32(0.5)


def nearest_places(x: Array, mode: str, length: int, scale: float) -> Array:
    """`[out]`: the element that stands for each coordinate."""
    if mode == "round_prefer_floor":
        places = np.ceil(x - np.float32(0.5))
    elif mode == "round_prefer_ceil":
        places = np.floor(x + np.float32(0.5))
    elif mode == "floor":
        places = np.floor(x)
    elif mode == "ceil" or scale < 1:
        places = np.ceil(x)
    else:
        places = np.trunc(x)
    return np.clip(places.astype(np.int64), 0, length - 1)


Taps = tuple[Array, Array]


def linear_onnx_taps(x: Array, length: int) -> Taps:
    """Places and weights `[out, 2]` of the two neighbours of each coordinate, clamped into the input."""
    x = np.clip(x, 0, np.float32(length - 1))
    left = np.minimum(x.astype(np.int64), length - 1)
    right = np.minimum(left + 1, length - 1)
    far = np.abs(x - left.astype(np.float32))
    weights = np.stack(
        [np.where(left == right, np.float32(1), np.float32(1) - far), np.where(left == right, 0, far)], 1
    )
    return np.stack([left, right], 1), weights.astype(np.float32)


def linear_taps(x: Array, length: int, scale: float, antialias: bool) -> Taps:
    """Places and weights of a triangle around each coordinate, widened by `1 / scale` with antialias."""
    a = np.float32(scale if antialias else 1.0)
    radius = 2 if scale > 1 else min(math.ceil(2.0 / float(a)), length + 1)
    places = np.rint(x).astype(np.int64)[:, None] + np.arange(-radius, radius + 1)
    weights = np.maximum(np.float32(0), 1 - np.abs(a * (x[:, None] - places.astype(np.float32))))
    return _normalized(places, weights, length)


def cubic_taps(x: Array, length: int, coefficient: float) -> Taps:
    """Places and weights `[out, 4]` of the cubic convolution kernel with parameter `coefficient`."""
    first = np.floor(x)
    t = (x - first).astype(np.float32)
    a = np.float32(coefficient)
    weights = [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1,
        ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
    ]
    places = first.astype(np.int64)[:, None] + np.arange(-1, 3)
    return np.clip(places, 0, length - 1), np.stack(weights, 1).astype(np.float32)


def pillow_taps(length: int, out: int, scale: float, coefficient: float | None) -> Taps:
    """Pillow's resampling: the filter (a triangle, or a cubic with `coefficient`) is widened when the image shrinks."""
    wide = max(1.0 / scale, 1.0)
    reach = wide * (1.0 if coefficient is None else 2.0)
    center = (np.arange(out) + 0.5) / scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((center + reach + 0.5).astype(np.int64), length)
    places = first[:, None] + np.arange(max(int((last - first).max()), 1))
    d = np.abs((places - center[:, None] + 0.5) / wide)
    if coefficient is None:
        weights = np.maximum(0, 1 - d)
    else:
        a = coefficient
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        weights = np.where(d < 1, near, np.where(d < 2, (((d - 5) * d + 8) * d - 4) * a, 0))
    return _normalized(places, np.where(places < last[:, None], weights, 0), length)


def _normalized(places: Array, weights: Array, length: int) -> Taps:
    """Weights of places outside the input become 0, the others add up to 1."""
    weights = np.where((places >= 0) & (places < length), weights, 0)
    total = weights.sum(1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)
    return np.clip(places, 0, length - 1), weights.astype(np.float32)


@record(eq=False)
class Resampling:
    """Resizing along one axis: each output is the sum of `weights[out, t] * x[places[out, t]]` (None: `x[places]`)."""

    axis: int
    places: Array
    weights: Array | None


@op
@record
class Interpolate(Op):
    """`x`, padded by zeros, resized along some axes (OpenVINO opset11 Interpolate).

    Inputs: x, the sizes or the scales (as shape_calculation_mode says) and the axes (default: all). All modes but
    "nearest" are weighted sums over each axis in turn. coordinate_transformation_mode, nearest_mode, antialias and
    cube_coeff as in the specification of Interpolate-4.
    """

    version: ClassVar[str] = "opset11"
    arity: ClassVar[tuple[int, int | None]] = (2, 3)
    mode: str
    shape_calculation_mode: str
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    antialias: bool = False
    pads_begin: tuple[int, ...] = ()
    pads_end: tuple[int, ...] = ()
    cube_coeff: float = -0.75

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        self._check()
        x, wanted = inputs[:2]
        if x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        rank = len(x.shape)
        begin, end = self._pads(rank)
        dims = [d + Dimension(b + e, b + e) for d, b, e in zip(x.shape, begin, end, strict=True)]
        axes = list(range(rank))
        if len(inputs) > 2:
            if inputs[2].value is None:
                return [TensorType(x.type, PartialShape((ANY,) * rank))]
            axes = [normalize_axis(a, rank) for a in integers(inputs[2], "the axes")]
        if wanted.value is None:
            for axis in axes:
                dims[axis] = ANY
            return [TensorType(x.type, checked(dims))]
        values = np.asarray(wanted.value).reshape(-1)
        if len(values) != len(axes):
            raise ModelError(f"{len(values)} {self.shape_calculation_mode} for {len(axes)} axes")
        for axis, value in zip(axes, values, strict=True):
            dims[axis] = self._resized(dims[axis], value)
        return [TensorType(x.type, checked(dims))]

    def _check(self) -> None:
        if self.mode not in MODES:
            raise ModelError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.shape_calculation_mode not in ("sizes", "scales"):
            raise ModelError(f"shape_calculation_mode must be sizes or scales, not {self.shape_calculation_mode!r}")
        if self.coordinate_transformation_mode not in COORDINATES:
            raise ModelError(
                f"coordinate_transformation_mode must be one of {', '.join(COORDINATES)}, "
                f"not {self.coordinate_transformation_mode!r}"
            )
        if self.nearest_mode not in NEAREST:
            raise ModelError(f"nearest_mode must be one of {', '.join(NEAREST)}, not {self.nearest_mode!r}")

    def _pads(self, rank: int) -> tuple[list[int], list[int]]:
        """Both pads, filled up with zeros behind. Raises ModelError when they are negative or too many."""
        for pads in (self.pads_begin, self.pads_end):
            if any(not 0 <= p <= LARGEST for p in pads) or any(pads[rank:]):
                raise ModelError(f"padding {list(pads)} must be one value from 0 on for each of {rank} axes")
        return tuple([*pads[:rank], *[0] * (rank - len(pads))] for pads in (self.pads_begin, self.pads_end))  # type: ignore[return-value]

    def _resized(self, dim: Dimension, value: float) -> Dimension:
        if self.shape_calculation_mode == "sizes":
            length = int(value)
            if length < 1:
                raise ModelError(f"a size must be at least 1, not {length}")
            if dim == Dimension(0, 0):
                raise ModelError("an empty axis cannot be resized")
            return Dimension(length, length)
        scale = float(value)
        if not 0 < scale <= LARGEST:
            raise ModelError(f"a scale must be positive, not {scale}")
        return Dimension(scaled(dim.lo, scale), None if dim.hi is None else scaled(dim.hi, scale))

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        y = np.pad(x, list(zip(*self._pads(x.ndim), strict=True))) if self.padded(x.ndim) else x
        for step in self.resampling(y.shape, *inputs[1:]):
            if step.weights is None:
                y = np.take(y, step.places[:, 0], step.axis)
                continue
            shape = [-1 if a == step.axis else 1 for a in range(x.ndim)]
            total: Array = np.zeros((), np.float32)
            for tap in range(step.places.shape[1]):
                taken = np.take(y, step.places[:, tap], step.axis).astype(np.float32)
                total = total + taken * step.weights[:, tap].reshape(shape)
            y = total
        if from_dtype(x.dtype).is_integer and y.dtype != x.dtype:
            y = np.clip(np.rint(y), *from_dtype(x.dtype).limits)
        return (y.astype(x.dtype, copy=False),)

    def padded(self, rank: int) -> bool:
        """Whether zeros are added around the input first."""
        return any(map(any, self._pads(rank)))

    def resampling(self, shape: Sequence[int], wanted: Array, axes: Array | None = None) -> list[Resampling]:
        """What happens along each axis of a (padded) input of `shape`, in order; untouched axes are left out.

        wanted, axes: the second and the third input.
        """
        rank = len(shape)
        where = list(range(rank)) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
        by_size = self.shape_calculation_mode == "sizes"
        values = [float(v) for v in np.asarray(wanted).reshape(-1)]
        outs = [int(v) if by_size else scaled(shape[a], v) for a, v in zip(where, values, strict=True)]
        # a scale that changes no length moves nothing either
        from_sizes = [by_size or o == shape[a] for a, o in zip(where, outs, strict=True)]
        scales = [o / shape[a] if c else v for a, o, v, c in zip(where, outs, values, from_sizes, strict=True)]
        shrinks = any(s < 1 for s in scales)
        steps = []
        for axis, out, scale in zip(where, outs, scales, strict=True):
            n = shape[axis]
            if out == n and scale == 1.0:
                continue
            if self.mode == "nearest":
                at = coordinates(self.coordinate_transformation_mode, n, out, scale)
                steps.append(Resampling(axis, nearest_places(at, self.nearest_mode, n, scale)[:, None], None))
                continue
            places, weights = self._taps(n, out, scale, shrinks)
            kept = [t for t in range(places.shape[1]) if weights[:, t].any()] or [0]
            steps.append(Resampling(axis, places[:, kept], weights[:, kept]))
        return steps

    def _taps(self, length: int, out: int, scale: float, shrinks: bool) -> Taps:
        if self.mode.endswith("pillow"):
            return pillow_taps(length, out, scale, self.cube_coeff if self.mode == "bicubic_pillow" else None)
        where = coordinates(self.coordinate_transformation_mode, length, out, scale)
        if self.mode == "linear_onnx":
            return linear_onnx_taps(where, length)
        if self.mode == "cubic":
            return cubic_taps(where, length, self.cube_coeff)
        return linear_taps(where, length, scale, self.antialias and shrinks)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(9).standard_normal((1, 2, 5, 6)).astype(np.float32)
        axes = np.array([2, 3])

        def sized(name: str, sizes: tuple[int, int], *attributes: object) -> Case:
            mode, *rest = attributes
            return Case(cls(str(mode), "sizes", *rest), (x, np.array(sizes), axes), name)  # type: ignore[arg-type]

        found = [sized(f"nearest_{c}", (8, 4), "nearest", c) for c in COORDINATES]
        found += [sized(f"nearest_{n}", (3, 11), "nearest", "half_pixel", n) for n in NEAREST]
        found += [sized(f"onnx_{c}", (9, 4), "linear_onnx", c) for c in COORDINATES if c != "tf_half_pixel_for_nn"]
        found += [sized(f"cubic_{c}", (9, 4), "cubic", c) for c in COORDINATES if c != "tf_half_pixel_for_nn"]
        found += [
            sized("linear", (9, 12), "linear", "half_pixel"),
            sized("linear_shrink", (3, 4), "linear", "asymmetric"),
            sized("linear_antialias", (2, 3), "linear", "half_pixel", "round_prefer_floor", True),
            sized("bilinear_pillow", (3, 9), "bilinear_pillow"),
            sized("bicubic_pillow", (3, 9), "bicubic_pillow", "half_pixel", "floor", False, (), (), -0.5),
            sized("padded", (9, 9), "nearest", "asymmetric", "floor", False, (0, 0, 1, 0), (0, 0, 0, 2)),
        ]
        scales = np.array([2.0, 1.5], np.float32)
        found += [
            Case(cls("nearest", "scales", "asymmetric", "floor"), (x, scales, axes), "scales"),
            Case(
                cls("nearest", "scales", "half_pixel"), (x, scales * np.float32(0.55), axes), "scales_too_small_to_grow"
            ),
            Case(cls("linear_onnx", "scales", "half_pixel"), (x, scales * np.float32(0.45), axes), "scales_shrink"),
        ]
        return found


def scaled(length: int, scale: float) -> int:
    """`floor(length * scale)` with the float32 scale's rounding forgiven."""
    return math.floor(length * scale + 1e-5)
