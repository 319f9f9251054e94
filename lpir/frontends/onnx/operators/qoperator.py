"""Operators on quantized tensors: each is its float operator between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from lpir.errors import UnsupportedError
from lpir.frontends.onnx.conversion import Call, rank_of
from lpir.frontends.onnx.operators.convolution import grouped, window, with_bias
from lpir.frontends.onnx.operators.quantization import dequantize, known_float, quantize
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value
from lpir.ir.types import f32, i32
from lpir.ops.boundary import constant_data


def real(c: Call, first: int, axis: int = 1) -> Value:
    """The tensor whose codes, scale and zero point are the inputs from `first` on."""
    return dequantize(c, c[first], c[first + 1], c.maybe(first + 2), axis)


@operator("QLinearConv", since=10)
def convolution(c: Call) -> Value:
    """x, scale, zp, w, scale, zp, y scale, y zp, bias (int32 with scale `x_scale * w_scale`)."""
    x, w = real(c, 0), real(c, 3, axis=0)
    return quantize(c, convolved(c, x, w, bias_of(c, c.maybe(8), 1, 4)), c[6], c.maybe(7))


def convolved(c: Call, x: Value, w: Value, bias: Value | None) -> Value:
    rank = rank_of(w)
    groups = c.integer("group", 1)
    kind = "Convolution" if groups == 1 else "GroupConvolution"
    y = c.make(kind, x, w if groups == 1 else grouped(w, groups), **window(c, rank - 2))
    return with_bias(c, y, bias, rank)


def bias_of(c: Call, bias: Value | None, x_scale: int, w_scale: int) -> Value | None:
    """An int32 bias as float32."""
    if bias is None:
        return None
    codes = constant_data(bias)
    if codes is None:
        raise UnsupportedError("the bias must be a constant")
    scale = known_float(c[x_scale], "the scale") * known_float(c[w_scale], "the scale")
    return c.const(codes.astype("float64") * scale.reshape(-1), f32)


@operator("QLinearMatMul", since=10)
def matrix_product(c: Call) -> Value:
    """a, scale, zp, b, scale, zp, y scale, y zp; vectors of `b` go along its columns."""
    y = c.make("MatMul", real(c, 0), real(c, 3, axis=-1), transpose_a=False, transpose_b=False)
    return quantize(c, c.convert(y, f32), c[6], c.maybe(7))


@operator("QGemm", domain=MICROSOFT)
def gemm(c: Call) -> Value:
    """A, scale, zp, B, scale, zp, C (int32), y scale, y zp; without a y scale the result is float."""
    transpose = bool(c.integer("transB", 0))
    a, b = real(c, 0), real(c, 3, axis=0 if transpose else 1)
    y = c.make("MatMul", a, b, transpose_a=bool(c.integer("transA", 0)), transpose_b=transpose)
    alpha = c.real("alpha", 1.0)
    if alpha != 1:
        y = c.make("Multiply", y, c.const(alpha, f32))
    bias = bias_of(c, c.maybe(6), 1, 4)
    if bias is not None:
        y = c.make("Add", y, c.make("Multiply", bias, c.const(alpha, f32)) if alpha != 1 else bias)
    return y if c.maybe(7) is None else quantize(c, y, c[7], c.maybe(8))


BINARY = {"QLinearAdd": "Add", "QLinearMul": "Multiply"}


@operator(*BINARY, domain=MICROSOFT)
def binary(c: Call) -> Value:
    y = c.make(BINARY[c.operator.type], real(c, 0), real(c, 3))
    return quantize(c, y, c[6], c.maybe(7))


@operator("QLinearConcat", domain=MICROSOFT)
def concat(c: Call) -> Value:
    """y scale, y zp, then codes, scale and zp of each input."""
    parts = [real(c, i) for i in range(2, len(c.inputs), 3)]
    return quantize(c, c.make("Concat", *parts, axis=c.axis(0, rank_of(parts[0]))), c[0], c.maybe(1))


@operator("QLinearSigmoid", domain=MICROSOFT)
def sigmoid(c: Call) -> Value:
    return quantize(c, c.make("Sigmoid", real(c, 0)), c[3], c.maybe(4))


@operator("QLinearLeakyRelu", domain=MICROSOFT)
def leaky_relu(c: Call) -> Value:
    y = c.make("PRelu", real(c, 0), c.const(c.real("alpha", 0.01), f32))
    return quantize(c, y, c[3], c.maybe(4))


@operator("QLinearSoftmax", domain=MICROSOFT)
def softmax(c: Call) -> Value:
    if c.integer("opset", 13) < 13 and c.axis(-1) != c.rank() - 1:
        raise UnsupportedError("softmax over several axes is not supported")
    return quantize(c, c.make("Softmax", real(c, 0), axis=c.axis(-1)), c[3], c.maybe(4))


@operator("QLinearGlobalAveragePool", domain=MICROSOFT)
def global_average_pool(c: Call) -> Value:
    if c.integer("channels_last", 0):
        raise UnsupportedError("channels_last=1 is not supported")
    y = c.make("ReduceMean", real(c, 0), c.const(list(range(2, c.rank()))), keep_dims=True)
    return quantize(c, y, c[3], c.maybe(4))


@operator("QLinearAveragePool", domain=MICROSOFT)
def average_pool(c: Call) -> Value:
    if c.integer("channels_last", 0):
        raise UnsupportedError("channels_last=1 is not supported")
    kernel = c.integers("kernel_shape")
    attributes = window(c, len(kernel))
    del attributes["dilations"]
    rounding = "ceil_torch" if c.integer("ceil_mode", 0) else "floor"
    exclude = not c.integer("count_include_pad", 0)
    y = c.make("AvgPool", real(c, 0), kernel=kernel, rounding_type=rounding, exclude_pad=exclude, **attributes)
    return quantize(c, y, c[3], c.maybe(4))


@operator("QLinearReduceMean", domain=MICROSOFT)
def reduce_mean(c: Call) -> Value:
    axes = c.const(c.integers("axes", tuple(range(c.rank()))))
    y = c.make("ReduceMean", real(c, 0), axes, keep_dims=bool(c.integer("keepdims", 1)))
    return quantize(c, y, c[3], c.maybe(4))


@operator("QLinearWhere", domain=MICROSOFT)
def where(c: Call) -> Value:
    return quantize(c, c.make("Select", c[0], real(c, 1), real(c, 4)), c[7], c.maybe(8))


def shifted(c: Call, codes: int, zero_point: int, axis: int) -> Value:
    """Codes minus their zero point (a vector goes along `axis`), as float32: sums are exact below 2^24."""
    x, zero = c.convert(c[codes], f32), c.maybe(zero_point)
    if zero is None:
        return x
    zero = c.convert(zero, f32)
    after = rank_of(x) - 1 - axis % rank_of(x)
    if zero.shape.rank == 1 and after:
        zero = c.make("Unsqueeze", zero, c.const(list(range(1, 1 + after))))
    return c.make("Subtract", x, zero)


@operator("MatMulInteger", since=10)
def matrix_product_integer(c: Call) -> Value:
    a, b = shifted(c, 0, 2, -2), shifted(c, 1, 3, -1)
    return c.convert(c.make("MatMul", a, b, transpose_a=False, transpose_b=False), i32)


@operator("ConvInteger", since=10)
def convolution_integer(c: Call) -> Value:
    return c.convert(convolved(c, shifted(c, 0, 2, 0), shifted(c, 1, 3, 0), None), i32)
