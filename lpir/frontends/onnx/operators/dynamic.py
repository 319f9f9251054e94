"""Quantization with scales that are computed as the model runs, and products of such codes."""

from __future__ import annotations

import dataclasses

from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.operators.quantization import dequantize
from lpir.frontends.onnx.operators.recurrent import recurrent
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value
from lpir.ir.types import f32, u8


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(c: Call) -> list[Value]:
    """u8 codes over the range of x and 0, their scale, and their zero point."""
    codes, scale, zero_point = quantized(c, c[0])
    return [c.convert(codes, u8), scale, c.convert(zero_point, u8)]


def quantized(c: Call, x: Value) -> tuple[Value, Value, Value]:
    """Codes `saturate(rint(x / scale) + zero point)`, scale and zero point, all in float32; the scale of zeros is 1."""
    axes, zero = c.const(list(range(c.rank()))), c.const(0.0, f32)
    high = c.make("Maximum", c.make("ReduceMax", x, axes, keep_dims=False), zero)
    low = c.make("Minimum", c.make("ReduceMin", x, axes, keep_dims=False), zero)
    step = c.make("Divide", c.make("Subtract", high, low), c.const(255.0, f32))
    scale = c.make("Select", c.make("Equal", step, zero), c.const(1.0, f32), step)
    zero_point = within(c, c.make("Divide", c.make("Subtract", zero, low), scale))
    zero_point = c.make("Round", zero_point, mode="half_to_even")
    steps = c.make("Round", c.make("Divide", x, scale), mode="half_to_even")
    return within(c, c.make("Add", steps, zero_point)), scale, zero_point


def within(c: Call, x: Value) -> Value:
    return c.make("Clamp", x, min=0.0, max=255.0)


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matrix_product(c: Call) -> Value:
    """x, codes of the weights, scale, zero point, bias: x is quantized, the product of codes scaled once."""
    codes, scale, zero_point = quantized(c, c[0])
    weights = dequantize(c, c[1], c[2], c.maybe(3), axis=-1)
    return scaled_product(c, c.make("Subtract", codes, zero_point), weights, scale, c.maybe(4))


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def matrix_product_integer_to_float(c: Call) -> Value:
    """Codes of both sides, their scales, their zero points, bias."""
    codes, zero_point = c.convert(c[0], f32), c.maybe(4)
    if zero_point is not None:
        codes = c.make("Subtract", codes, c.convert(zero_point, f32))
    weights = dequantize(c, c[1], c[3], c.maybe(5), axis=-1)
    return scaled_product(c, codes, weights, c[2], c.maybe(6))


def scaled_product(c: Call, codes: Value, weights: Value, scale: Value, bias: Value | None) -> Value:
    """`codes weights * scale + bias`."""
    y = c.make("MatMul", codes, weights, transpose_a=False, transpose_b=False)
    y = c.make("Multiply", y, scale)
    return y if bias is None else c.make("Add", y, bias)


@operator("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(c: Call) -> list[Value]:
    """LSTM whose weights `[D, I, 4 H]` are codes, with a scale each direction or each column.

    Inputs and states stay real numbers, where ONNX Runtime quantizes them: nearer to the network that was quantized.
    """
    weights = []
    for index, first in ((1, 8), (2, 10)):
        wide = c.convert(c[index], f32)
        scale, zero_point = (columns(c, c.convert(c[first + i], f32)) for i in (0, 1))
        real = c.make("Multiply", c.make("Subtract", wide, zero_point), scale)
        weights.append(c.make("Transpose", real, c.const([0, 2, 1])))
    plain = dataclasses.replace(c.operator, type="LSTM")
    return recurrent(dataclasses.replace(c, operator=plain, inputs=[c[0], *weights, *c.inputs[3:8]]))


def columns(c: Call, vector: Value) -> Value:
    """`[D]` or `[D, 4 H]`, to go with weights `[D, I, 4 H]`."""
    return c.make("Unsqueeze", vector, c.const([1, 2] if vector.shape.rank == 1 else [1]))
