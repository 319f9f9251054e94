"""Convolution and matrix products."""

from __future__ import annotations

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, rank_of
from lpir.frontends.onnx.operators.activation import PLAIN
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value
from lpir.ir.op import Array
from lpir.ops.boundary import constant, constant_data
from lpir.ops.builder import make_node

AUTO_PAD = {"NOTSET": "explicit", "VALID": "valid", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}


def window(c: Call, spatial: int) -> dict[str, object]:
    """The attributes that convolutions and pools share: strides, dilations, pads_begin, pads_end, auto_pad."""
    mode = c.text("auto_pad", "NOTSET")
    if mode not in AUTO_PAD:
        raise ModelError(f"auto_pad must be one of {', '.join(AUTO_PAD)}, not {mode!r}")
    pads = c.integers("pads", (0,) * (2 * spatial))
    strides, dilations = c.integers("strides", (1,) * spatial), c.integers("dilations", (1,) * spatial)
    if len(pads) != 2 * spatial or len(strides) != spatial or len(dilations) != spatial:
        raise ModelError(f"strides {strides}, dilations {dilations}, pads {pads} do not fit {spatial} dimensions")
    if min(strides, default=1) < 1 or min(dilations, default=1) < 1:
        raise ModelError(f"strides {strides} and dilations {dilations} must be positive")
    if AUTO_PAD[mode] != "explicit":
        pads = (0,) * (2 * spatial)
    return {
        "strides": strides,
        "dilations": dilations,
        "pads_begin": pads[:spatial],
        "pads_end": pads[spatial:],
        "auto_pad": AUTO_PAD[mode],
    }


@operator("Conv")
def convolution(c: Call) -> Value:
    """Convolution or GroupConvolution, and Add for the bias."""
    rank = rank_of(c[1])
    if rank < 3:
        raise ModelError(f"weights must have at least 3 dimensions, not {rank}")
    groups = c.integer("group", 1)
    attributes = window(c, rank - 2)
    if groups == 1:
        y = c.make("Convolution", c[0], c[1], **attributes)
    else:
        y = c.make("GroupConvolution", c[0], grouped(c[1], groups), **attributes)
    return with_bias(c, y, c.maybe(2), rank)


def with_bias(c: Call, y: Value, bias: Value | None, rank: int) -> Value:
    """`y + bias` with the bias `[C]` along axis 1."""
    if bias is None:
        return y
    data = constant_data(bias)
    column = [1, -1] + [1] * (rank - 2)
    if data is not None:
        if data.ndim != 1:
            raise ModelError(f"the bias must have 1 dimension, not {data.ndim}")
        return c.make("Add", y, c.const(data.reshape(column), bias.element_type))
    return c.make("Add", y, c.make("Reshape", bias, c.const(column), special_zero=False))


def grouped(weights: Value, groups: int) -> Value:
    """Weights `[C, ...]` as `[G, C/G, ...]`; the constants of a compressed or fake-quantized chain are reshaped instead
    of its end, so that it stays recognisable."""
    shape = weights.shape
    if groups < 1 or not shape[0].is_static or shape[0].length % groups:
        raise ModelError(f"{shape[0]} channels do not divide into {groups} groups")
    return _grouped(weights, groups, len(shape))


def _grouped(value: Value, groups: int, rank: int) -> Value:
    node = value.node
    data = constant_data(value)
    if data is not None:
        if data.ndim != rank:
            return value
        new: Array = data.reshape(_split(data.shape, groups))
        copy = constant(new, value.element_type, node.name)
        copy.names = set(value.names)
        return copy
    chain = ("Convert", "Subtract", "Multiply", "FakeQuantize")
    sources = [v for v in node.inputs if v.shape.rank == rank]
    if node.op.type_name in chain and all(_is_chain(v) for v in sources):
        inputs = [_grouped(v, groups, rank) for v in node.inputs]
        return make_node(node.op.type_name, *inputs, name=node.name, **node.op.attributes()).output
    pattern = constant(np.array(_split(value.shape.to_static(), groups)), np.int64, f"{node.name}/Constant")
    return make_node("Reshape", value, pattern, name=f"{node.name}/Reshape", special_zero=False).output


def _is_chain(value: Value) -> bool:
    return value.node.op.type_name in ("Constant", "Convert", "Subtract", "Multiply", "FakeQuantize")


def _split(shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    return (1, 1, *shape[1:]) if shape[0] == 1 and groups > 1 else (groups, shape[0] // groups, *shape[1:])


@operator("ConvTranspose")
def convolution_transpose(c: Call) -> Value:
    """ConvolutionBackpropData with explicit padding."""
    rank = rank_of(c[1])
    spatial, groups = rank - 2, c.integer("group", 1)
    attributes = window(c, spatial)
    output_padding = c.integers("output_padding", (0,) * spatial)
    attributes["output_padding"] = output_padding
    if c.has("output_shape") or attributes["auto_pad"] in ("same_upper", "same_lower"):
        _pads_for_output_shape(c, attributes, output_padding)
    if attributes["auto_pad"] == "valid":
        attributes["auto_pad"] = "explicit"
    if groups == 1:
        y = c.make("ConvolutionBackpropData", c[0], c[1], **attributes)
    else:
        y = c.make("GroupConvolutionBackpropData", c[0], grouped(c[1], groups), **attributes)
    return with_bias(c, y, c.maybe(2), rank)


def _pads_for_output_shape(c: Call, attributes: dict[str, object], output_padding: tuple[int, ...]) -> None:
    """Sets the pads that give the wanted output; ONNX's formula."""
    x, w = c[0].shape, c[1].shape
    spatial = len(w) - 2
    lengths = [x[2 + i] for i in range(spatial)]
    if not all(d.is_static for d in lengths):
        raise UnsupportedError("output_shape and SAME padding need static spatial dimensions")
    strides, dilations = c.integers("strides", (1,) * spatial), c.integers("dilations", (1,) * spatial)
    kernel = [w[2 + i].length for i in range(spatial)]
    default = tuple(d.length * s for d, s in zip(lengths, strides, strict=True))
    wanted = c.integers("output_shape", default)[-spatial:]
    begin, end, extra = [], [], list(output_padding)
    for i, (length, stride) in enumerate(zip(lengths, strides, strict=True)):
        full = stride * (length.length - 1) + output_padding[i] + (kernel[i] - 1) * dilations[i] + 1
        total = max(full - wanted[i], 0)
        extra[i] += max(wanted[i] - full, 0)
        small, large = total // 2, total - total // 2
        lower = attributes["auto_pad"] == "same_upper"
        begin.append(small if lower else large)
        end.append(large if lower else small)
    attributes.update(pads_begin=tuple(begin), pads_end=tuple(end), auto_pad="explicit", output_padding=tuple(extra))


@operator("MatMul")
def matrix_product(c: Call) -> Value:
    return c.make("MatMul", c[0], c[1], transpose_a=False, transpose_b=False)


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matrix_product(c: Call) -> Value:
    """`alpha * A B`; transBatch: the first dimension is that of the rows, batches lie behind it."""
    inputs = [batches_first(c, i) if c.integer(f"transBatch{side}", 0) else c[i] for i, side in enumerate("AB")]
    y = c.make("MatMul", *inputs, **transposes(c))
    return scaled(c, y, c.real("alpha", 1.0))


def transposes(c: Call) -> dict[str, bool]:
    """The attributes of MatMul for transA and transB."""
    return {"transpose_a": bool(c.integer("transA", 0)), "transpose_b": bool(c.integer("transB", 0))}


def batches_first(c: Call, index: int) -> Value:
    rank = c.rank(index)
    return c.make("Transpose", c[index], c.const([*range(1, rank - 1), 0, rank - 1]))


def scaled(c: Call, x: Value, factor: float) -> Value:
    return x if factor == 1 else c.make("Multiply", x, c.like(x, factor))


@operator("Gemm")
def gemm(c: Call) -> Value:
    """`alpha * A' B' + beta * C`."""
    y = c.make("MatMul", c[0], c[1], **transposes(c))
    y = scaled(c, y, c.real("alpha", 1.0))
    bias = c.maybe(2)
    return y if bias is None else c.make("Add", y, scaled(c, bias, c.real("beta", 1.0)))


@operator("FusedConv", domain=MICROSOFT)
def fused_convolution(c: Call) -> Value:
    """Conv, a summand, and an activation whose numbers are in activation_params."""
    y, summand = convolution(c), c.maybe(3)
    if summand is not None:
        y = c.make("Add", y, summand)
    return activated(c, y, [float(v) for v in c.get("activation_params", tuple, ())])


@operator("FusedGemm", domain=MICROSOFT)
def fused_gemm(c: Call) -> Value:
    """Gemm and an activation whose numbers are attributes."""
    names = ("activation_alpha", "activation_beta")
    return activated(c, gemm(c), [c.real(name) for name in names if c.has(name)])


def activated(c: Call, y: Value, numbers: list[float]) -> Value:
    """An activation that ONNX Runtime fuses, with the numbers that the file states for it."""
    kind = c.text("activation", "")
    if kind in PLAIN:
        return c.make(PLAIN[kind], y)
    if kind == "Tanh":
        return c.make("Tanh", y)
    if kind == "LeakyRelu":
        return c.make("PRelu", y, c.like(y, numbers[0] if numbers else 0.01))
    if kind == "Clip" and len(numbers) == 2:
        return c.make("Clamp", y, min=numbers[0], max=numbers[1])
    if kind == "HardSigmoid" and len(numbers) == 2:
        return c.make("HardSigmoid", y, c.like(y, numbers[0]), c.like(y, numbers[1]))
    raise UnsupportedError(f"the activation {kind!r} with the numbers {numbers} is not supported")
