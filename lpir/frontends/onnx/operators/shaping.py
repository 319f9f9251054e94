"""Shapes: reshaping, transposing, padding, broadcasting, joining and splitting."""

from __future__ import annotations

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, front
from lpir.frontends.onnx.operators.quantization import moves_codes
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value, known_value
from lpir.ir.types import i64


@operator("Reshape")
@moves_codes
def reshape_attribute(c: Call) -> Value:
    return c.make("Reshape", c[0], c.const(c.integers("shape")), special_zero=True)


@operator("Reshape", since=5)
@moves_codes
def reshape(c: Call) -> Value:
    return c.make("Reshape", c[0], c[1], special_zero=not c.integer("allowzero", 0))


@operator("Flatten")
@moves_codes
def flatten(c: Call) -> Value:
    """A matrix: dimensions before `axis` times those from it on."""
    axis = c.integer("axis", 1)
    rank = c.rank()
    if not -rank <= axis <= rank:
        raise ModelError(f"axis {axis} is outside a tensor of rank {rank}")
    axis += rank if axis < 0 else 0
    if axis == 1:
        return c.make("Reshape", c[0], c.const([0, -1]), special_zero=True)
    if axis in (0, rank):
        return c.make("Reshape", c[0], c.const([1, -1] if axis == 0 else [-1, 1]), special_zero=False)
    shape = c.make("ShapeOf", c[0], output_type=i64)
    leading = c.make("Slice", shape, c.const([0]), c.const([axis]), c.const([1]))
    rows = c.make("ReduceProd", leading, c.const([0]), keep_dims=True)
    return c.make("Reshape", c[0], c.make("Concat", rows, c.const([-1]), axis=0), special_zero=False)


@operator("Squeeze", "Unsqueeze")
@moves_codes
def squeeze_attribute(c: Call) -> Value:
    kind = c.operator.type
    axes = c.integers("axes", () if kind == "Squeeze" else None)
    return c.make(kind, c[0], c.const(axes)) if axes else c.make(kind, c[0])


@operator("Squeeze", "Unsqueeze", since=13)
@moves_codes
def squeeze(c: Call) -> Value:
    axes = c.maybe(1)
    return c.make(c.operator.type, c[0]) if axes is None else c.make(c.operator.type, c[0], axes)


@operator("Transpose")
@moves_codes
def transpose(c: Call) -> Value:
    order = c.integers("perm") if c.has("perm") else tuple(range(c.rank()))[::-1]
    return c.make("Transpose", c[0], c.const(order))


def shape_of(c: Call) -> Value:
    return c.make("ShapeOf", c[0], output_type=i64)


@operator("Shape")
def shape_slice(c: Call) -> Value:
    """The shape, or from operator set 15 on a part of it."""
    shape = shape_of(c)
    if not c.has("start") and not c.has("end"):
        return shape
    rank = c.rank()
    start, stop, _ = slice(c.integer("start", 0), c.integer("end", rank)).indices(rank)
    return c.make("Slice", shape, c.const([start]), c.const([max(start, stop)]), c.const([1]), c.const([0]))


@operator("Size")
def size(c: Call) -> Value:
    return c.make("ReduceProd", shape_of(c), c.const([0]), keep_dims=False)


@operator("Concat")
def concat(c: Call) -> Value:
    values = [c[i] for i in range(len(c.inputs))]
    return c.make("Concat", *values, axis=c.axis(1))


@operator("Expand")
def expand(c: Call) -> Value:
    return c.make("Broadcast", c[0], c[1], mode="bidirectional")


@operator("Tile", since=6)
def tile(c: Call) -> Value:
    return c.make("Tile", c[0], c[1])


@operator("ConstantOfShape")
def constant_of_shape(c: Call) -> Value:
    from lpir.frontends.onnx.records import Tensor

    given = c.operator.attributes.get("value")
    if given is not None and not isinstance(given, Tensor):
        raise ModelError("attribute 'value' must be a tensor")
    value = c.const(0.0, np.float32) if given is None else c.const(given.data.reshape(()), given.element_type)
    return c.make("Broadcast", value, c[0], mode="numpy")


@operator("Range")
def arange(c: Call) -> Value:
    return c.make("Range", c[0], c[1], c[2], output_type=c[0].element_type)


@operator("Split")
@moves_codes
def split_attribute(c: Call) -> list[Value]:
    lengths = c.const(c.integers("split")) if c.has("split") else None
    return divided(c, lengths)


@operator("Split", since=13)
@moves_codes
def split(c: Call) -> list[Value]:
    return divided(c, c.maybe(1))


def divided(c: Call, lengths: Value | None) -> list[Value]:
    """Split into equal parts (the last may be smaller) or VariadicSplit into stated lengths."""
    axis, count = c.axis(0), c.integer("num_outputs", len(c.operator.outputs))
    if lengths is not None:
        return c.make_all("VariadicSplit", c[0], c.const(axis), lengths)
    length = c[0].shape[axis]
    if count < 1:
        raise ModelError(f"cannot split into {count} parts")
    if not length.is_static or length.length % count == 0:
        return c.make_all("Split", c[0], c.const(axis), num_splits=count)
    part = -(-length.length // count)
    parts = [part] * (count - 1) + [length.length - part * (count - 1)]
    return c.make_all("VariadicSplit", c[0], c.const(axis), c.const(parts))


@operator("Slice")
@moves_codes
def slice_attributes(c: Call) -> Value:
    starts, ends = c.integers("starts"), c.integers("ends")
    axes = c.integers("axes", tuple(range(len(starts))))
    return c.make("Slice", c[0], c.const(starts), c.const(ends), c.const([1] * len(starts)), c.const(axes))


@operator("Slice", since=10)
@moves_codes
def slice_(c: Call) -> Value:
    axes, steps = c.maybe(3), c.maybe(4)
    if steps is None:
        steps = c.like(c[1], np.ones(c[1].shape[0].length))
    inputs = [c[0], c[1], c[2], steps]
    return c.make("Slice", *inputs) if axes is None else c.make("Slice", *inputs, axes)


PAD_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect"}


@operator("Pad")
def pad_attributes(c: Call) -> Value:
    pads = c.integers("pads", c.integers("paddings", ()))
    half = len(pads) // 2
    value = c.like(c[0], c.real("value", 0.0))
    return padded(c, c.const(pads[:half]), c.const(pads[half:]), value)


@operator("Pad", since=11)
def pad(c: Call) -> Value:
    """Pad; pads given for some axes are spread over all."""
    value = c.maybe(2) or c.like(c[0], 0)
    if c.maybe(3) is None:
        begin, end = c.make_all("Split", c[1], c.const(0), num_splits=2)
        return padded(c, begin, end, value)
    pads, axes, rank = c.known_ints(1, "pads"), c.known_ints(3, "axes"), c.rank()
    if len(pads) != 2 * len(axes):
        raise ModelError(f"{len(pads)} pads do not fit {len(axes)} axes")
    full = np.zeros((2, rank), np.int64)
    full[:, [front(a, rank) for a in axes]] = np.reshape(pads, (2, -1))
    return padded(c, c.const(full[0]), c.const(full[1]), value)


def padded(c: Call, begin: Value, end: Value, value: Value) -> Value:
    mode = c.text("mode", "constant")
    if mode not in PAD_MODES:
        raise UnsupportedError(f"pad mode {mode!r} is not supported; only {', '.join(PAD_MODES)}")
    if value.shape.rank == 1:
        value = c.make("Squeeze", value, c.const([0]))
    begin, end = known_constant(c, begin), known_constant(c, end)
    return c.make("Pad", c[0], begin, end, value, pad_mode=PAD_MODES[mode])


def known_constant(c: Call, value: Value) -> Value:
    """`value` as a Constant when it is known."""
    data = known_value(value)
    return value if data is None else c.like(value, data)


@operator("DepthToSpace")
def depth_to_space(c: Call) -> Value:
    modes = {"DCR": "blocks_first", "CRD": "depth_first"}
    mode = c.text("mode", "DCR")
    if mode not in modes:
        raise ModelError(f"mode must be DCR or CRD, not {mode!r}")
    return c.make("DepthToSpace", c[0], mode=modes[mode], block_size=c.integer("blocksize"))


@operator("SpaceToDepth")
def space_to_depth(c: Call) -> Value:
    mode = "depth_first" if c.text("mode", "DCR") == "CRD" else "blocks_first"
    return c.make("SpaceToDepth", c[0], mode=mode, block_size=c.integer("blocksize"))
