"""QuantizeLinear and DequantizeLinear.

A pair of them around a real tensor becomes one FakeQuantize with equal input and output ranges
`((qmin - zp) * s, (qmax - zp) * s)`. ONNX quantizes as `saturate(rint(x / s) + zp)`, FakeQuantize as
`rint((x - low) / step)`: they may differ by one step where `x / s` lies at a tie (always when the zero point is odd,
and within float rounding of a tie otherwise). A dequantized constant becomes the compressed form
`Constant -> Convert -> [Subtract] -> Multiply`, which is exact.
"""

from __future__ import annotations

import math

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, Quantized, front, rank_of
from lpir.frontends.onnx.records import element_type
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value, known_value
from lpir.ir.op import Array
from lpir.ir.types import ElementType, f32, i32, u8
from lpir.ops.boundary import Constant, constant_data


@operator("QuantizeLinear", since=10)
@operator("QuantizeLinear", domain=MICROSOFT)
def quantize_linear(c: Call) -> Value:
    """FakeQuantize onto the integers, then Convert. A DequantizeLinear that follows reads around it."""
    x, scale, zero_point = c[0], c[1], c.maybe(2)
    kind = _code_type(c, zero_point)
    if c.integer("block_size", 0):
        raise UnsupportedError("blocked QuantizeLinear of activations is not supported")
    axis = _axis(c, x, scale)
    real = c.convert(x, f32)
    low, high = (c.const(v, f32) for v in _limits(c, real, kind, axis))
    codes = [c.const(float(v), f32) for v in kind.limits]
    q = c.make("FakeQuantize", real, low, high, *codes, levels=1 << kind.bits)
    q = c.make("Convert", q, destination_type=kind)
    c.converter.quantized[id(q)] = (q, Quantized(x, scale, zero_point, kind, axis))
    return q


def _code_type(c: Call, zero_point: Value | None) -> ElementType:
    kind = u8 if zero_point is None else zero_point.element_type
    if zero_point is None and c.integer("output_dtype", 0):
        kind = element_type(c.integer("output_dtype"))
    if not kind.is_integer or kind.bits > 16:
        raise UnsupportedError(f"quantization to {kind} is not supported")
    return kind


def _axis(c: Call, x: Value, scale: Value) -> int:
    """The axis of a vector of scales; 0 for a scalar."""
    if scale.shape.is_static and math.prod(scale.shape.to_static()) == 1:
        return 0
    return front(c.integer("axis", 1), rank_of(x))


def _limits(c: Call, x: Value, kind: ElementType, axis: int) -> tuple[Array, Array]:
    """`(qmin - zp) * s` and `(qmax - zp) * s`, in float32, shaped to broadcast against `x`."""
    scale = c.known(1, "the scale").astype(np.float32)
    zero_point = np.zeros_like(scale) if c.maybe(2) is None else c.known(2, "the zero point").astype(np.float32)
    low, high = ((np.float32(v) - zero_point) * scale for v in kind.limits)
    return aligned(low, rank_of(x), axis) if low.size > 1 else low.reshape(()), (
        aligned(high, rank_of(x), axis) if high.size > 1 else high.reshape(())
    )


def aligned(vector: Array, rank: int, axis: int) -> Array:
    """A vector as `[1, ..., C, ..., 1]` along `axis`."""
    if vector.ndim != 1:
        raise ModelError(f"scales and zero points must be scalars or vectors, not of shape {vector.shape}")
    shape = [1] * rank
    shape[axis] = vector.size
    return vector.reshape(shape)


@operator("DequantizeLinear", since=10)
@operator("DequantizeLinear", domain=MICROSOFT)
def dequantize_linear(c: Call) -> Value:
    x, scale = c[0], c[1]
    entry = c.converter.quantized.get(id(x))
    if entry is not None and _same(entry[1], c):
        return _fake_quantize(c, entry[1])
    to = scale.element_type
    if constant_data(x) is not None:
        return c.convert(_dequantize_constant(c), to)
    axis = _axis(c, x, scale)
    y = c.convert(x, f32)
    step = c.known(1, "the scale").astype(np.float32)
    zero = c.known(2, "the zero point").astype(np.float32) if c.maybe(2) is not None else np.zeros(())
    if np.any(zero):
        y = c.make("Subtract", y, c.const(_shaped(zero, rank_of(x), axis), f32))
    return c.convert(c.make("Multiply", y, c.const(_shaped(step, rank_of(x), axis), f32)), to)


def _shaped(values: Array, rank: int, axis: int) -> Array:
    return values.reshape(()) if values.size == 1 else aligned(values, rank, axis)


def _same(quantized: Quantized, c: Call) -> bool:
    """Whether DequantizeLinear undoes just this QuantizeLinear."""
    pairs = [(quantized.scale, c[1]), (quantized.zero_point, c.maybe(2))]
    for a, b in pairs:
        if a is b:
            continue
        left = np.zeros(()) if a is None else known_value(a)
        right = np.zeros(()) if b is None else known_value(b)
        if left is None or right is None or not np.array_equal(left.reshape(-1), right.reshape(-1)):
            return False
    return quantized.axis == _axis(c, c[0], c[1])


def _fake_quantize(c: Call, quantized: Quantized) -> Value:
    real = c.convert(quantized.real, f32)
    kind = quantized.element_type
    low, high = (c.const(v, f32) for v in _limits(c, real, kind, quantized.axis))
    y = c.make("FakeQuantize", real, low, high, low, high, levels=1 << kind.bits)
    return c.convert(y, c[1].element_type)


def _dequantize_constant(c: Call) -> Value:
    """The compressed form of a constant; 32-bit codes (biases) are dequantized now."""
    op = c[0].node.op
    assert isinstance(op, Constant)
    codes, kind = op.data, op.element_type
    scale = c.known(1, "the scale").astype(np.float32)
    zero = np.zeros((), np.float32) if c.maybe(2) is None else c.known(2, "the zero point").astype(np.float32)
    block, rank = c.integer("block_size", 0), codes.ndim
    if block:
        return _blocked(c, scale, zero, block)
    axis = _axis(c, c[0], c[1])
    scale, zero = _shaped(scale, rank, axis), _shaped(zero, rank, axis)
    if kind == i32:
        return c.const((codes.astype(np.float64) * scale).astype(np.float32), f32)
    return _chain(c, c[0], scale, zero)


def _chain(c: Call, codes: Value, scale: Array, zero: Array) -> Value:
    y = c.make("Convert", codes, destination_type=f32)
    if np.any(zero):
        y = c.make("Subtract", y, c.const(zero, f32))
    return c.make("Multiply", y, c.const(scale, f32))


def _blocked(c: Call, scale: Array, zero: Array, block: int) -> Value:
    """Blocks of `block` codes along an axis share a scale: `[.., n, ..]` is split to `[.., n / block, block, ..]`."""
    op = c[0].node.op
    assert isinstance(op, Constant)
    shape, axis = op.data.shape, front(c.integer("axis", 1), op.data.ndim)
    if shape[axis] % block or scale.shape != (*shape[:axis], shape[axis] // block, *shape[axis + 1 :]):
        raise UnsupportedError(f"blocks of {block} with scales {scale.shape} do not divide codes of shape {shape}")
    split = (*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])
    codes = c.const(op.data.reshape(split), op.element_type)
    scale = np.expand_dims(scale, axis + 1)
    zero = np.expand_dims(zero, axis + 1) if zero.ndim else zero
    return c.make("Reshape", _chain(c, codes, scale, zero), c.const(shape), special_zero=False)
