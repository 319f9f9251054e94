"""Operations that do nothing, undo each other, or have a simpler form."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.ir.graph import Node, Value, known_value
from lpir.ir.model import Model
from lpir.ir.shape import PartialShape
from lpir.ops.boundary import constant
from lpir.ops.builder import make
from lpir.passes.rewrite import apply_rewrites, is_op, rewrite, sample, scalar, single_use, with_scalar

# stands for "to the end" in slices
FAR = np.iinfo(np.int32).max


def simplify(model: Model) -> int:
    """Applies the rewrites of this module until none fires; returns how often one did."""
    return apply_rewrites(model, RULES)


def ints(*values: int) -> Value:
    return constant(np.array(values, np.int64), np.int64)


def same_shape(a: Value, b: Value) -> bool:
    return a.shape.is_static and a.shape == b.shape


@rewrite(
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Broadcast",
    "Tile",
    example=lambda: sample(lambda x: make("Reshape", x, ints(2, -1), special_zero=False), (2, 3)),
)
def drop_identity_reshape(node: Node) -> Value | None:
    """A reshape to the shape that is already there."""
    x = node.inputs[0]
    return x if same_shape(x, node.outputs[0]) else None


@rewrite("Transpose", example=lambda: sample(lambda x: make("Transpose", x, ints(0, 1)), (2, 3)))
def drop_identity_transpose(node: Node) -> Value | None:
    order = known_value(node.inputs[1])
    if order is None or not order.size or list(order) != list(range(order.size)):
        return None
    return node.inputs[0]


@rewrite("Convert", example=lambda: sample(lambda x: make("Convert", x, destination_type=x.element_type), (2, 3)))
def drop_identity_convert(node: Node) -> Value | None:
    x = node.inputs[0]
    return x if x.element_type == node.outputs[0].element_type else None


@rewrite("Concat", example=lambda: sample(lambda x: make("Concat", x, axis=0), (2, 3)))
def drop_concat_of_one(node: Node) -> Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


@rewrite(
    "Split", "VariadicSplit", example=lambda: sample(lambda x: make("Split", x, ints_scalar(0), num_splits=1), (2, 3))
)
def drop_split_into_one(node: Node) -> Value | None:
    return node.inputs[0] if len(node.outputs) == 1 and same_shape(node.inputs[0], node.outputs[0]) else None


def ints_scalar(value: int) -> Value:
    return constant(value, np.int64)


@rewrite("Pad", example=lambda: sample(lambda x: make("Pad", x, ints(0, 0), ints(0, 0), pad_mode="edge"), (2, 3)))
def drop_empty_pad(node: Node) -> Value | None:
    pads = [known_value(v) for v in node.inputs[1:3]]
    return node.inputs[0] if all(p is not None and not p.any() for p in pads) else None


@rewrite("Slice", example=lambda: sample(lambda x: make("Slice", x, ints(0), ints(FAR), ints(1), ints(1)), (2, 3)))
def drop_full_slice(node: Node) -> Value | None:
    """A slice from the start to the end."""
    x = node.inputs[0]
    start, stop, step = (known_value(v) for v in node.inputs[1:4])
    if step is None or np.any(step != 1):
        return None
    if same_shape(x, node.outputs[0]):
        return x
    whole = start is not None and stop is not None and not start.any() and bool(np.all(stop >= FAR))
    return x if whole else None


@rewrite(
    "StridedSlice",
    example=lambda: sample(
        lambda x: make(
            "StridedSlice",
            x,
            ints(0, 0),
            ints(2, 3),
            ints(1, 1),
            begin_mask=(0, 0),
            end_mask=(0, 0),
            new_axis_mask=(),
            shrink_axis_mask=(),
            ellipsis_mask=(),
        ),
        (2, 3),
    ),
)
def drop_full_strided_slice(node: Node) -> Value | None:
    step = known_value(node.inputs[3]) if len(node.inputs) > 3 else np.ones(1)
    if step is None or np.any(step != 1) or not same_shape(node.inputs[0], node.outputs[0]):
        return None
    return node.inputs[0]


@rewrite(
    "Transpose",
    example=lambda: sample(lambda x: make("Transpose", make("Transpose", x, ints(1, 2, 0)), ints(1, 0, 2)), (2, 3, 4)),
)
def merge_transposes(node: Node) -> Value | None:
    """A transpose of a transpose is one."""
    inner = node.inputs[0]
    if not is_op(inner, "Transpose"):
        return None
    first, second = known_value(inner.node.inputs[1]), known_value(node.inputs[1])
    if first is None or second is None or first.size != second.size or not first.size:
        return None
    return make("Transpose", inner.node.inputs[0], ints(*[int(first[i]) for i in second]))


def target_of(shape: PartialShape) -> list[int] | None:
    """A Reshape target that gives `shape`: at most one dimension may be dynamic, none may be 0."""
    if shape.dims is None:
        return None
    target = [d.lo if d.is_static else -1 for d in shape.dims]
    return None if target.count(-1) > 1 or 0 in target else target


@rewrite(
    "Squeeze",
    "Unsqueeze",
    example=lambda: sample(lambda x: make("Unsqueeze", x, ints(0)), (2, 3)),
)
def squeeze_to_reshape(node: Node) -> Value | None:
    """Squeeze and Unsqueeze as Reshape: one operation less to match."""
    target = target_of(node.outputs[0].shape)
    return None if target is None else make("Reshape", node.inputs[0], ints(*target), special_zero=False)


@rewrite(
    "Reshape",
    example=lambda: sample(
        lambda x: make("Reshape", make("Reshape", x, ints(6), special_zero=False), ints(3, 2), special_zero=False),
        (2, 3),
    ),
)
def merge_reshapes(node: Node) -> Value | None:
    """A reshape of a reshape is one."""
    inner = node.inputs[0]
    target = target_of(node.outputs[0].shape)
    if not is_op(inner, "Reshape", "Squeeze", "Unsqueeze") or target is None:
        return None
    return make("Reshape", inner.node.inputs[0], ints(*target), special_zero=False)


NEUTRAL = {"Add": 0.0, "Subtract": 0.0, "Multiply": 1.0, "Divide": 1.0}


@rewrite(*NEUTRAL, example=lambda: sample(lambda x: make("Multiply", x, constant(1.0, np.float32)), (2, 3)))
def drop_neutral(node: Node) -> Value | None:
    """`x + 0`, `x - 0`, `x * 1`, `x / 1`; the scale of a compressed constant stays."""
    found = with_scalar(node)
    if found is None or found[1] != NEUTRAL[node.op.type_name]:
        return None
    x = found[0]
    if is_op(x, "Convert", "Subtract") or (node.op.type_name in ("Subtract", "Divide") and x is not node.inputs[0]):
        return None
    other = next(v for v in node.inputs if v is not x)
    return x if (other.shape.rank or 0) <= (x.shape.rank or 0) else None


@rewrite(
    "Minimum",
    "Maximum",
    example=lambda: sample(
        lambda x: make("Minimum", make("Maximum", x, constant(-1.0, np.float32)), constant(6.0, np.float32)), (2, 3)
    ),
)
def clamp_from_minimum(node: Node) -> Value | None:
    """Maximum and Minimum with numbers, in either order, are Clamp."""
    outer = with_scalar(node)
    if outer is None or not node.outputs[0].element_type.is_float or outer[0].shape != node.outputs[0].shape:
        return None
    kind = "Maximum" if node.op.type_name == "Minimum" else "Minimum"
    if is_op(outer[0], "Relu") and kind == "Maximum":
        x, number = outer[0].node.inputs[0], 0.0
    else:
        inner = with_scalar(outer[0].node) if is_op(outer[0], kind) else None
        if inner is None or inner[0].shape != node.outputs[0].shape:
            return None
        x, number = inner
    low, high = (number, outer[1]) if kind == "Maximum" else (outer[1], number)
    return make("Clamp", x, min=low, max=high) if low <= high else None


@rewrite("Maximum", example=lambda: sample(lambda x: make("Maximum", x, constant(0.0, np.float32)), (2, 3)))
def relu_from_maximum(node: Node) -> Value | None:
    found = with_scalar(node)
    if found is None or found[1] != 0 or found[0].shape != node.outputs[0].shape:
        return None
    return make("Relu", found[0]) if found[0].element_type.is_float else None


@rewrite("Power", example=lambda: sample(lambda x: make("Power", x, constant(2.0, np.float32)), (2, 3)), exact=False)
def power_of_constant(node: Node) -> Value | None:
    """`x ^ 2`, `x ^ 0.5` and `x ^ 1` without a power function."""
    x, exponent = node.inputs[0], scalar(node.inputs[1])
    if exponent not in (0.5, 1.0, 2.0) or x.shape != node.outputs[0].shape or not x.element_type.is_float:
        return None
    if exponent == 1:
        return x
    return make("Sqrt", x) if exponent == 0.5 else make("Multiply", x, x)


def example_padded(x: Value) -> Value:
    pads = [ints(0, 0, 1, 0), ints(0, 0, 0, 2)]
    window: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (0, 1), "pads_end": (0, 0)}
    padded = make("Pad", x, *pads, constant(0.0, np.float32), pad_mode="constant")
    return make("Convolution", padded, constant(np.ones((2, 3, 2, 2)), np.float32), **window, auto_pad="explicit")


@rewrite("Convolution", "GroupConvolution", example=lambda: sample(example_padded, (1, 3, 4, 4)))
def pad_into_convolution(node: Node) -> Value | None:
    """Zeros around the image become the padding of the convolution that reads them."""
    padded, attributes = node.inputs[0], node.op.attributes()
    if not is_op(padded, "Pad") or attributes["auto_pad"] not in ("explicit", "valid"):
        return None
    pad = padded.node
    begin, end = known_value(pad.inputs[1]), known_value(pad.inputs[2])
    zero = len(pad.inputs) < 4 or scalar(pad.inputs[3]) == 0
    if begin is None or end is None or not zero or pad.op.attributes()["pad_mode"] != "constant":
        return None
    if begin[:2].any() or end[:2].any() or begin.min() < 0 or end.min() < 0:
        return None
    before = ((0,) * (begin.size - 2),) * 2
    if attributes["auto_pad"] == "explicit":
        before = (attributes["pads_begin"], attributes["pads_end"])
    sums = [tuple(a + int(b) for a, b in zip(p, q[2:], strict=True)) for p, q in zip(before, (begin, end), strict=True)]
    attributes.update(pads_begin=sums[0], pads_end=sums[1], auto_pad="explicit")
    return make(node.op.type_name, pad.inputs[0], *node.inputs[1:], **attributes)


def example_quantized_behind(x: Value) -> Value:
    limits = [constant(np.full((1, 1), v, np.float32)) for v in (0.0, 2.0, 0.0, 2.0)]
    moved = make("Transpose", make("Reshape", x, ints(2, -1), special_zero=False), ints(1, 0))
    return make("FakeQuantize", moved, *limits, levels=256)


@rewrite("FakeQuantize", example=lambda: sample(example_quantized_behind, (2, 3, 4)))
def quantize_before_moving(node: Node) -> Value | None:
    """A quantization with one range is in front of what only moves elements: then codes are moved, by fewer bytes."""
    moved, *limits = node.inputs
    if not is_op(moved, "Reshape", "Transpose", "Squeeze", "Unsqueeze") or not single_use(moved):
        return None
    x, numbers = moved.node.inputs[0], [scalar(v) for v in limits]
    rank = moved.shape.rank
    fits = rank is not None and all(v.shape.rank is not None and v.shape.rank <= rank for v in limits)
    if is_op(x, "Constant") or None in numbers or not fits:
        return None
    # one number goes with a tensor of any rank
    fixed = [v if not v.shape.rank else constant(n, v.element_type) for v, n in zip(limits, numbers, strict=True)]
    quantized = Node(node.op, [x, *fixed], node.name).output
    return Node(moved.node.op, [quantized, *moved.node.inputs[1:]], moved.node.name).output


RULES = (
    drop_identity_reshape,
    drop_identity_transpose,
    drop_identity_convert,
    drop_concat_of_one,
    drop_split_into_one,
    drop_empty_pad,
    drop_full_slice,
    drop_full_strided_slice,
    merge_transposes,
    squeeze_to_reshape,
    merge_reshapes,
    drop_neutral,
    clamp_from_minimum,
    relu_from_maximum,
    power_of_constant,
    pad_into_convolution,
    quantize_before_moving,
)
