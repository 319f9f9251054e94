"""Normalization over channels, groups, layers and windows."""

from __future__ import annotations

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, rank_of
from lpir.frontends.onnx.operators.quantization import dequantize
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value
from lpir.ir.types import f32, i32, i64


@operator("BatchNormalization")
def batch_normalization(c: Call) -> Value:
    """Inference form only; the inputs are x, scale, B, mean, variance."""
    if c.integer("training_mode", 0) or len([o for o in c.operator.outputs if o]) > 1:
        raise UnsupportedError("training mode is not supported; export the model in evaluation mode")
    if not c.integer("spatial", 1):
        raise UnsupportedError("spatial=0 is not supported")
    parameters = [c.convert(c[i], c[0].element_type) for i in range(1, 5)]
    return c.make("BatchNormInference", c[0], *parameters, epsilon=c.real("epsilon", 1e-5))


def mvn(c: Call, x: Value, axes: list[int], eps: float, mode: str = "INSIDE_SQRT") -> Value:
    return c.make("MVN", x, c.const(axes), normalize_variance=True, eps=eps, eps_mode=mode)


@operator("InstanceNormalization")
def instance_normalization(c: Call) -> Value:
    rank = c.rank()
    y = mvn(c, c[0], list(range(2, rank)), c.real("epsilon", 1e-5))
    y = c.make("Multiply", y, column(c, c[1], rank))
    return c.make("Add", y, column(c, c[2], rank))


def column(c: Call, vector: Value, rank: int) -> Value:
    """A vector `[C]` as `[1, C, 1, ...]`."""
    return c.make("Reshape", vector, c.const([1, -1] + [1] * (rank - 2)), special_zero=False)


@operator("GroupNormalization", since=18)
def group_normalization_per_group(c: Call) -> Value:
    """Operator sets 18 to 20: one scale and bias a group."""
    groups, channels = c.integer("num_groups"), c[0].shape[1]
    if groups < 1 or not channels.is_static or channels.length % groups:
        raise ModelError(f"{channels} channels do not divide into {groups} groups")
    spread = np.repeat(np.arange(groups), channels.length // groups)
    scale, bias = (c.make("Gather", c[i], c.const(spread), c.const(0), batch_dims=0) for i in (1, 2))
    return c.make("GroupNormalization", c[0], scale, bias, num_groups=groups, epsilon=c.real("epsilon", 1e-5))


@operator("GroupNormalization", since=21)
def group_normalization(c: Call) -> Value:
    groups, eps = c.integer("num_groups"), c.real("epsilon", 1e-5)
    return c.make("GroupNormalization", c[0], c[1], c[2], num_groups=groups, epsilon=eps)


@operator("LayerNormalization")
def layer_normalization(c: Call) -> list[Value]:
    """MVN over the dimensions from `axis` on, then scale and bias; also mean and 1/deviation when asked for."""
    x, rank = c[0], c.rank()
    axes, eps = list(range(c.axis(-1), rank)), c.real("epsilon", 1e-5)
    y = c.make("Multiply", mvn(c, x, axes, eps), c[1])
    bias = c.maybe(2)
    outputs = [y if bias is None else c.make("Add", y, bias)]
    if any(c.operator.outputs[1:]):
        wide = c.convert(x, f32)
        mean = c.make("ReduceMean", wide, c.const(axes), keep_dims=True)
        centered = c.make("Subtract", wide, mean)
        variance = c.make("ReduceMean", c.make("Multiply", centered, centered), c.const(axes), keep_dims=True)
        deviation = c.make("Sqrt", c.make("Add", variance, c.like(wide, eps)))
        outputs += [mean, c.make("Divide", c.like(wide, 1), deviation)]
    return outputs


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(c: Call) -> list[Value]:
    """LayerNormalization of `input + skip [+ bias]`; output 3 is that sum."""
    total = c.make("Add", c[0], c[1])
    extra = c.maybe(4)
    if extra is not None:
        total = c.make("Add", total, extra)
    if any(c.operator.outputs[1:3]):
        raise UnsupportedError("the outputs mean and inv_std_var are not supported")
    y = c.make("Multiply", mvn(c, total, [c.rank() - 1], c.real("epsilon", 1e-12)), c[2])
    beta = c.maybe(3)
    return [y if beta is None else c.make("Add", y, beta), total, total, total]


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(c: Call) -> list[Value]:
    """Words, segments, their tables and that of positions, gamma, beta, mask, positions.

    Outputs: LayerNormalization of the sum of embeddings, how many words a mask leaves, and that sum.
    """
    return embedded(c, *(c.maybe(i) for i in range(2, 7)))


@operator("QEmbedLayerNormalization", domain=MICROSOFT)
def quantized_embed_layer_normalization(c: Call) -> list[Value]:
    """As EmbedLayerNormalization, with codes in tables, gamma and beta; their scales and zero points follow."""
    tables = (dequantize(c, c[i], c[i + 6], c[i + 11]) if c.maybe(i) is not None else None for i in range(2, 7))
    return embedded(c, *tables)


def embedded(
    c: Call, words: Value | None, places: Value | None, segments: Value | None, gamma: Value | None, beta: Value | None
) -> list[Value]:
    if words is None or places is None or gamma is None or beta is None:
        raise ModelError("a table is missing")
    shape = c.make("ShapeOf", c[0], output_type=i64)
    positions = c.maybe(8) if c.operator.type == "EmbedLayerNormalization" else None
    if positions is None:
        length = c.make("Gather", shape, c.const(1), c.const(0), batch_dims=0)
        positions = c.make("Range", c.const(0), length, c.const(1), output_type=i64)
    total = c.make("Add", picked(c, words, c[0]), picked(c, places, positions))
    if segments is not None and c.maybe(1) is not None:
        total = c.make("Add", total, picked(c, segments, c[1]))
    y = c.make("Multiply", mvn(c, total, [2], c.real("epsilon", 1e-12)), gamma)
    if c.maybe(7) is not None:
        count = c.make("ReduceSum", c.convert(c[7], i32), c.const([1]), keep_dims=False)
    else:
        batch = c.make("Gather", shape, c.const([0]), c.const(0), batch_dims=0)
        count = c.make("Broadcast", c.const(0, i32), batch, mode="numpy")
    return [c.make("Add", y, beta), count, total]


def picked(c: Call, table: Value, rows: Value) -> Value:
    return c.make("Gather", table, rows, c.const(0), batch_dims=0)


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_root_mean_square_normalization(c: Call) -> list[Value]:
    """RMSNormalization of `input + skip [+ bias]`; output 3 is that sum."""
    total = c.make("Add", c[0], c[1])
    bias = c.maybe(3)
    if bias is not None:
        total = c.make("Add", total, bias)
    if any(c.operator.outputs[1:3]):
        raise UnsupportedError("the outputs mean and inv_std_var are not supported")
    return [root_mean_square(c, total, [c.rank() - 1], c[2], c.real("epsilon", 1e-12)), total, total, total]


@operator("SimplifiedLayerNormalization")
@operator("RMSNormalization", since=23)
def root_mean_square_normalization(c: Call) -> Value:
    """`x / sqrt(mean(x^2) + epsilon) * scale` over the dimensions from `axis` on."""
    return root_mean_square(c, c[0], list(range(c.axis(-1), c.rank())), c[1], c.real("epsilon", 1e-5))


def root_mean_square(c: Call, x: Value, axes: list[int], scale: Value, eps: float) -> Value:
    mean = c.make("ReduceMean", c.make("Multiply", x, x), c.const(axes), keep_dims=True)
    deviation = c.make("Sqrt", c.make("Add", mean, c.like(x, eps)))
    return c.make("Multiply", c.make("Divide", x, deviation), scale)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(c: Call) -> Value:
    return mvn(c, c[0], list(c.integers("axes", (0, 2, 3))), 1e-9, "OUTSIDE_SQRT")


@operator("LpNormalization")
def lp_normalization(c: Call) -> Value:
    """`x / norm`; 0 where the norm is 0."""
    p, axis = c.integer("p", 2), c.axis(-1)
    if p not in (1, 2):
        raise ModelError(f"p must be 1 or 2, not {p}")
    norm = c.make(f"ReduceL{p}", c[0], c.const([axis]), keep_dims=True)
    safe = c.make("Select", c.make("Equal", norm, c.like(norm, 0)), c.like(norm, 1), norm)
    return c.make("Divide", c[0], safe)


@operator("LRN")
def local_response_normalization(c: Call) -> Value:
    if rank_of(c[0]) < 2:
        raise ModelError("the input must have a channel dimension")
    alpha, beta = c.real("alpha", 1e-4), c.real("beta", 0.75)
    return c.make("LRN", c[0], c.const([1]), alpha=alpha, beta=beta, bias=c.real("bias", 1.0), size=c.integer("size"))
