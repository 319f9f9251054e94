"""Batch normalization, and any scale and shift per channel, moves into the weights before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ops.boundary import constant, constant_data
from lpir.ops.builder import make
from lpir.passes.rewrite import apply_rewrites, is_op, rewrite, sample, single_use

WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")


def fold_batch_normalization(model: Model) -> int:
    """Applies the rewrites of this module until none fires; returns how often one did."""
    return apply_rewrites(model, RULES)


def floats(*shape: int) -> Value:
    """Numbers for the examples: 0.5, 0.6, ... in `shape`."""
    return constant((0.5 + 0.1 * np.arange(np.prod(shape))).reshape(shape), np.float32)


def example_convolution(x: Value) -> Value:
    window: dict[str, Any] = {
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads_begin": (0, 0),
        "pads_end": (0, 0),
        "auto_pad": "explicit",
    }
    return make("Convolution", x, floats(2, 3, 1, 1), **window)


@rewrite(
    "BatchNormInference",
    example=lambda: sample(lambda x: make("BatchNormInference", x, *[floats(3)] * 4, epsilon=1e-3), (1, 3, 2, 2)),
    exact=False,
)
def expand_batch_normalization(node: Node) -> Value | None:
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta` as one Multiply and one Add."""
    x = node.inputs[0]
    data = [constant_data(v) for v in node.inputs[1:]]
    gamma, beta, mean, variance = (None if a is None else a.astype(np.float64) for a in data)
    rank = x.shape.rank
    if gamma is None or beta is None or mean is None or variance is None or rank is None:
        return None
    scale = gamma / np.sqrt(variance + node.op.attributes()["epsilon"])
    column = (1, -1, *[1] * (rank - 2))
    y = make("Multiply", x, constant(scale.reshape(column), x.element_type), name=f"{node.name}/scale")
    return make("Add", y, constant((beta - mean * scale).reshape(column), x.element_type))


def with_constant(node: Node) -> tuple[Value, Array] | None:
    """The other input and the constant one of an elementwise operation."""
    a, b = node.inputs
    for x, y in ((a, b), (b, a)):
        data = constant_data(y)
        if data is not None and constant_data(x) is None:
            return x, data
    return None


def channel_axis(node: Node) -> int:
    """The axis of the output that counts the weights' outputs, from the end for MatMul."""
    return -1 if node.op.type_name == "MatMul" else 1


def per_channel(data: Array, value: Value) -> Array | None:
    """`data` as a vector a channel of `value` (or of length 1), if it broadcasts only along the channels."""
    rank = value.shape.rank
    if data.size == 1 and rank is not None and data.ndim <= rank:
        return data.reshape(1)
    if rank is None or data.ndim > rank:
        return None
    axis = channel_axis(value.node) % rank
    full = data.reshape((1,) * (rank - data.ndim) + data.shape)
    channels = value.shape[axis]
    if full.size != full.shape[axis] or not channels.is_static or channels.length != full.size:
        return None
    return full.reshape(-1)


def scaled_weights(node: Node, weights: Array, scale: Array) -> Array | None:
    """The weights of `node` with its outputs multiplied by `scale`, one number a channel."""
    wide, kind = weights.astype(np.float64), node.op.type_name
    if scale.size == 1:
        return wide * scale
    match kind:
        case "Convolution":
            return wide * scale.reshape(-1, *[1] * (weights.ndim - 1))
        case "ConvolutionBackpropData":
            return wide * scale.reshape(1, -1, *[1] * (weights.ndim - 2))
        case "GroupConvolution":
            return wide * scale.reshape(weights.shape[0], weights.shape[1], *[1] * (weights.ndim - 2))
        case "GroupConvolutionBackpropData":
            return wide * scale.reshape(weights.shape[0], 1, weights.shape[2], *[1] * (weights.ndim - 3))
        case "MatMul" if weights.ndim >= 2:
            return wide * (scale[:, None] if node.op.attributes()["transpose_b"] else scale)
    return None


@rewrite(
    "Multiply",
    example=lambda: sample(lambda x: make("Multiply", example_convolution(x), floats(1, 2, 1, 1)), (1, 3, 4, 4)),
    exact=False,
)
def multiply_into_weights(node: Node) -> Value | None:
    """`(x * w) * scale` is `x * (w * scale)` for constant weights that nobody else reads through this node."""
    found = with_constant(node)
    if found is None or not is_op(found[0], *WEIGHTED) or not single_use(found[0]):
        return None
    product, data = found
    weights, scale = constant_data(product.node.inputs[1]), per_channel(data, product)
    if weights is None or scale is None or weights.dtype.kind != "f":
        return None
    scaled = scaled_weights(product.node, weights, scale)
    if scaled is None or not np.all(np.isfinite(scaled)):
        return None
    x, w = product.node.inputs[:2]
    new = constant(scaled, w.element_type, w.node.name)
    new.names = set(w.names)
    inner = product.node
    result = make(inner.op.type_name, x, new, *inner.inputs[2:], **inner.op.attributes())
    result.node.name = inner.name
    return result


@rewrite(
    "Multiply",
    example=lambda: sample(
        lambda x: make("Multiply", make("Add", example_convolution(x), floats(1, 2, 1, 1)), floats(1, 2, 1, 1)),
        (1, 3, 4, 4),
    ),
    exact=False,
)
def multiply_before_bias(node: Node) -> Value | None:
    """`(y + bias) * scale` is `y * scale + bias * scale` where the scale then moves into weights."""
    found = with_constant(node)
    if found is None or not is_op(found[0], "Add") or not single_use(found[0]):
        return None
    inner, scale = with_constant(found[0].node), found[1]
    if inner is None or not is_op(inner[0], *WEIGHTED) or not single_use(inner[0]):
        return None
    product, bias = inner
    if constant_data(product.node.inputs[1]) is None or per_channel(scale, product) is None:
        return None
    y = make("Multiply", product, constant(scale, product.element_type), name=f"{node.name}/scale")
    return make("Add", y, constant(bias.astype(np.float64) * scale, product.element_type))


@rewrite(
    "Add",
    example=lambda: sample(
        lambda x: make("Add", make("Add", example_convolution(x), floats(1, 2, 1, 1)), floats(1, 2, 1, 1)),
        (1, 3, 4, 4),
    ),
    exact=False,
)
def merge_biases(node: Node) -> Value | None:
    """`(y + a) + b` is `y + (a + b)` for constants after a weighted operation."""
    found = with_constant(node)
    if found is None or not is_op(found[0], "Add") or not single_use(found[0]):
        return None
    inner = with_constant(found[0].node)
    if inner is None or not is_op(inner[0], *WEIGHTED):
        return None
    total = inner[1].astype(np.float64) + found[1]
    if per_channel(total, inner[0]) is None:
        return None
    return make("Add", inner[0], constant(total, node.outputs[0].element_type))


@rewrite(
    "Subtract",
    example=lambda: sample(lambda x: make("Subtract", example_convolution(x), floats(1, 2, 1, 1)), (1, 3, 4, 4)),
)
def subtract_to_add(node: Node) -> Value | None:
    """`y - c` is `y + (-c)` after a weighted operation."""
    data = constant_data(node.inputs[1])
    if data is None or data.dtype.kind != "f" or not is_op(node.inputs[0], *WEIGHTED, "Add", "Multiply"):
        return None
    return make("Add", node.inputs[0], constant(-data, node.outputs[0].element_type))


RULES = (
    expand_batch_normalization,
    multiply_into_weights,
    multiply_before_bias,
    merge_biases,
    subtract_to_add,
)
