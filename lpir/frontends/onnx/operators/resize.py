"""Resize and Upsample."""

from __future__ import annotations

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, front
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value, known_value
from lpir.ir.types import f32, i64

MODES = {"nearest": "nearest", "linear": "linear_onnx", "bilinear": "linear_onnx", "cubic": "cubic"}
COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "tf_half_pixel_for_nn")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@operator("Upsample")
def upsample_attribute(c: Call) -> Value:
    return scaled(c, np.array(c.get("scales", tuple, None)), coordinates="asymmetric", nearest="floor")


@operator("Upsample", since=9)
@operator("Resize", since=10)
def upsample(c: Call) -> Value:
    scales = c.known(1, "the scales")
    nearest = "floor" if c.operator.type == "Upsample" or bool(np.all(scales >= 1)) else "simple"
    return scaled(c, scales, coordinates="asymmetric", nearest=nearest)


@operator("Resize", since=11)
def resize(c: Call) -> Value:
    """Interpolate over the axes that change, by scales or sizes."""
    coordinates = c.text("coordinate_transformation_mode", "half_pixel")
    nearest = c.text("nearest_mode", "round_prefer_floor")
    if c.integer("exclude_outside", 0) or c.integer("antialias", 0):
        raise UnsupportedError("exclude_outside and antialias are not supported")
    if coordinates not in COORDINATES:
        raise UnsupportedError(f"coordinate_transformation_mode {coordinates!r} is not supported")
    if nearest not in NEAREST:
        raise ModelError(f"nearest_mode {nearest!r} is unknown")
    sizes = c.maybe(3)
    given = c.maybe(2)
    empty = given is None or (given.shape.is_static and 0 in given.shape.to_static())
    if sizes is None and empty:
        raise ModelError("neither scales nor sizes are given")
    if not empty:
        return scaled(c, c.known(2, "the scales"), coordinates, nearest)
    return sized(c, sizes if sizes is not None else c[3], coordinates, nearest)


def axes_of(c: Call, count: int) -> list[int]:
    rank = c.rank()
    axes = [front(a, rank) for a in c.integers("axes", tuple(range(rank)))]
    if len(axes) != count:
        raise ModelError(f"{count} scales or sizes for {len(axes)} axes")
    return axes


def scaled(c: Call, scales: np.ndarray[tuple[int, ...], np.dtype[np.float32]], coordinates: str, nearest: str) -> Value:
    factors = [float(s) for s in np.asarray(scales).reshape(-1)]
    if any(not np.isfinite(s) or s <= 0 for s in factors):
        raise ModelError(f"scales {factors} must be positive")
    changed = [(a, s) for a, s in zip(axes_of(c, len(factors)), factors, strict=True) if s != 1]
    if not changed:
        return c[0]
    target = c.const([s for _, s in changed], f32)
    return interpolate(c, target, [a for a, _ in changed], "scales", coordinates, nearest)


def sized(c: Call, sizes: Value, coordinates: str, nearest: str) -> Value:
    """Sizes may depend on shapes that are not known yet."""
    policy = c.text("keep_aspect_ratio_policy", "stretch")
    known = known_value(sizes)
    count = int(known.size) if known is not None else sizes.shape[0].length
    axes = axes_of(c, count)
    if policy != "stretch":
        return aspect(c, c.known_ints(3, "sizes"), axes, policy, coordinates, nearest)
    if known is None:
        # the leading dimensions of an image batch never change: linear_onnx works on what follows
        keep = [i for i, a in enumerate(axes) if a >= 2] or list(range(count))
        picked = c.make("Gather", c.convert(sizes, i64), c.const(keep), c.const(0), batch_dims=0)
        return interpolate(c, picked, [axes[i] for i in keep], "sizes", coordinates, nearest)
    x = c[0].shape
    changed = [(a, int(n)) for a, n in zip(axes, known.reshape(-1), strict=True) if x[a] != type(x[a])(int(n), int(n))]
    if not changed:
        return c[0]
    target = c.const([n for _, n in changed])
    return interpolate(c, target, [a for a, _ in changed], "sizes", coordinates, nearest)


def aspect(c: Call, sizes: list[int], axes: list[int], policy: str, coordinates: str, nearest: str) -> Value:
    """One factor for all axes: the largest image inside (`not_larger`) or around (`not_smaller`) the sizes."""
    pick = {"not_larger": min, "not_smaller": max}.get(policy)
    if pick is None:
        raise ModelError(f"keep_aspect_ratio_policy {policy!r} is unknown")
    lengths = [c[0].shape[a].length for a in axes]
    factor = pick(n / length for n, length in zip(sizes, lengths, strict=True))
    target = [int(np.floor(factor * length + 0.5)) for length in lengths]
    return interpolate(c, c.const(target), axes, "sizes", coordinates, nearest)


def interpolate(c: Call, target: Value, axes: list[int], kind: str, coordinates: str, nearest: str) -> Value:
    mode = c.text("mode", "nearest")
    if mode not in MODES:
        raise ModelError(f"mode {mode!r} is unknown")
    return c.make(
        "Interpolate",
        c[0],
        target,
        c.const(axes),
        mode=MODES[mode],
        shape_calculation_mode=kind,
        coordinate_transformation_mode=coordinates,
        nearest_mode=nearest,
        antialias=False,
        pads_begin=(0,),
        pads_end=(0,),
        cube_coeff=c.real("cubic_coeff_a", -0.75),
    )
