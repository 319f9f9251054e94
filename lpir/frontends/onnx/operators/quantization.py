"""QuantizeLinear and DequantizeLinear.

A pair of them around a real tensor becomes one FakeQuantize with equal input and output ranges
`((qmin - zp) * s, (qmax - zp) * s)`. ONNX quantizes as `saturate(rint(x / s) + zp)`, FakeQuantize as
`rint((x - low) / step)`: they may differ by one step where `x / s` lies at a tie (always when the zero point is odd,
and within float rounding of a tie otherwise). A dequantized constant becomes the compressed form
`Constant -> Convert -> [Subtract] -> Multiply`, which is exact.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TypeVar

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, Quantized, front, rank_of
from lpir.frontends.onnx.records import element_type
from lpir.frontends.onnx.table import MICROSOFT, Converter, operator
from lpir.ir.graph import Value, known_value
from lpir.ir.op import Array
from lpir.ir.types import ElementType, f32, i32, u8
from lpir.ops.boundary import constant_data


@operator("QuantizeLinear", since=10)
@operator("QuantizeLinear", domain=MICROSOFT)
def quantize_linear(c: Call) -> Value:
    return quantize(c, c[0], c[1], c.maybe(2), c.integer("axis", 1), c.integer("block_size", 0))


@operator("DequantizeLinear", since=10)
@operator("DequantizeLinear", domain=MICROSOFT)
def dequantize_linear(c: Call) -> Value:
    y = dequantize(c, c[0], c[1], c.maybe(2), c.integer("axis", 1), c.integer("block_size", 0))
    return c.convert(y, element_type(c.integer("output_dtype")) if c.integer("output_dtype", 0) else c[1].element_type)


def quantize(c: Call, x: Value, scale: Value, zero_point: Value | None, axis: int = 1, block: int = 0) -> Value:
    """Codes of a real tensor: FakeQuantize onto the integers, then Convert. `dequantize` reads around both."""
    kind = code_type(c, zero_point)
    x = c.convert(x, f32)
    axis = axis_of(x, scale, axis)
    if known_value(scale) is None and not block:
        return quantize_with(c, x, scale, zero_point, kind)
    step, zero = spread(scale, zero_point, x, axis, block)
    low, high = (c.const((np.float32(v) - zero) * step, f32) for v in kind.limits)
    codes = [c.const(float(v), f32) for v in kind.limits]
    real = in_blocks(c, x, axis, block)
    q = c.make("FakeQuantize", real, low, high, *codes, levels=1 << kind.bits)
    q = whole(c, c.make("Convert", q, destination_type=kind), x, block)
    c.converter.quantized[id(q)] = (q, Quantized(x, scale, zero_point, kind, axis))
    return q


def quantize_with(c: Call, x: Value, scale: Value, zero_point: Value | None, kind: ElementType) -> Value:
    """Codes with a scale that is computed as the model runs: `saturate(rint(x / s) + zp)` spelled out."""
    if scale.shape.rank != 0 and scale.shape != (1,):
        raise UnsupportedError("a vector of scales must be a constant")
    y = c.make("Round", c.make("Divide", x, c.convert(scale, f32)), mode="half_to_even")
    if zero_point is not None:
        y = c.make("Add", y, c.convert(zero_point, f32))
    low, high = kind.limits
    return c.make("Convert", c.make("Clamp", y, min=float(low), max=float(high)), destination_type=kind)


def dequantize_with(c: Call, x: Value, scale: Value, zero_point: Value | None) -> Value:
    """Codes to real numbers with a scale that is computed as the model runs."""
    if scale.shape.rank != 0 and scale.shape != (1,):
        raise UnsupportedError("a vector of scales must be a constant")
    y = c.convert(x, f32)
    if zero_point is not None:
        y = c.make("Subtract", y, c.convert(zero_point, f32))
    return c.make("Multiply", y, c.convert(scale, f32))


def dequantize(c: Call, x: Value, scale: Value, zero_point: Value | None, axis: int = 1, block: int = 0) -> Value:
    """The real tensor (float32) that codes stand for."""
    axis = axis_of(x, scale, axis)
    if known_value(scale) is None and not block:
        return dequantize_with(c, x, scale, zero_point)
    step, zero = spread(scale, zero_point, x, axis, block)
    entry = c.converter.quantized.get(id(x))
    if entry is not None and same(entry[1], scale, zero_point, axis):
        if entry[1].rounded:
            return entry[1].real
        kind, real = entry[1].element_type, in_blocks(c, entry[1].real, axis, block)
        low, high = (c.const((np.float32(v) - zero) * step, f32) for v in kind.limits)
        y = c.make("FakeQuantize", real, low, high, low, high, levels=1 << kind.bits)
        return whole(c, y, x, block)
    codes = constant_data(x)
    if codes is not None and x.element_type == i32 and not block:
        return c.const(((codes.astype(np.float64) - zero) * step).astype(np.float32), f32)
    if codes is not None and block:
        y = c.const(codes.reshape(split_shape(x, axis, block)), x.element_type)
    else:
        y = in_blocks(c, x, axis, block)
    y = c.make("Convert", y, destination_type=f32)
    if np.any(zero):
        y = c.make("Subtract", y, c.const(zero, f32))
    return whole(c, c.make("Multiply", y, c.const(step, f32)), x, block)


Moving = TypeVar("Moving", bound=Converter)


def moves_codes(convert: Moving) -> Moving:
    """Decorator of a converter whose operator only moves elements: moved codes are dequantized before the move.

    So a QuantizeLinear and a DequantizeLinear find each other through it.
    """

    @functools.wraps(convert)
    def wrapped(c: Call) -> Value | list[Value]:
        return moved(c, convert)

    return wrapped  # type: ignore[return-value]


def moved(c: Call, convert: Converter) -> Value | list[Value]:
    outputs = convert(c)
    entry = c.converter.quantized.get(id(c[0]))
    if entry is None or (scale := known_value(entry[1].scale)) is None or scale.size != 1:
        return outputs
    codes = entry[1]
    real = dequantize(c, c[0], codes.scale, codes.zero_point)
    copy = dataclasses.replace(c, inputs=[real, *c.inputs[1:]], made=[])
    twin = convert(copy)
    for code, value in zip(as_list(outputs), as_list(twin), strict=True):
        if code.element_type == codes.element_type:
            found = Quantized(value, codes.scale, codes.zero_point, codes.element_type, 0, rounded=True)
            c.converter.quantized[id(code)] = (code, found)
            if value.node in copy.made:
                value.node.name = c.name
    return outputs


def as_list(values: Value | list[Value]) -> list[Value]:
    return [values] if isinstance(values, Value) else values


def code_type(c: Call, zero_point: Value | None) -> ElementType:
    kind = u8 if zero_point is None else zero_point.element_type
    if zero_point is None and c.integer("output_dtype", 0):
        kind = element_type(c.integer("output_dtype"))
    if not kind.is_integer or kind.bits > 16:
        raise UnsupportedError(f"quantization to {kind} is not supported")
    return kind


def axis_of(x: Value, scale: Value, axis: int) -> int:
    """The axis of a vector of scales; 0 for a scalar."""
    if scale.shape.is_static and math.prod(scale.shape.to_static()) == 1:
        return 0
    return front(axis, rank_of(x))


def known_float(value: Value, what: str) -> Array:
    data = known_value(value)
    if data is None:
        raise UnsupportedError(f"{what} '{value.name}' must be a constant")
    return data.astype(np.float32)


def spread(scale: Value, zero_point: Value | None, x: Value, axis: int, block: int) -> tuple[Array, Array]:
    """Scale and zero point in float32, shaped to broadcast against `x` (in blocks)."""
    step = known_float(scale, "the scale")
    zero = np.zeros((), np.float32) if zero_point is None else known_float(zero_point, "the zero point")
    if not np.all(np.isfinite(step)):
        raise ModelError("a scale is not finite")
    if block:
        wanted = tuple(n for i, n in enumerate(split_shape(x, axis, block)) if i != axis + 1)
        if step.shape != wanted:
            raise ModelError(f"scales of shape {list(step.shape)}, but blocks of {block} need {list(wanted)}")
        return np.expand_dims(step, axis + 1), np.expand_dims(zero, axis + 1) if zero.ndim else zero
    return aligned(step, x, axis), aligned(zero, x, axis)


def aligned(values: Array, x: Value, axis: int) -> Array:
    """A vector as `[1, ..., C, ..., 1]` along `axis` of `x`; a single number as a scalar."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim != 1:
        raise ModelError(f"scales and zero points must be scalars or vectors, not of shape {list(values.shape)}")
    shape = [1] * rank_of(x)
    shape[axis] = values.size
    return values.reshape(shape)


def split_shape(x: Value, axis: int, block: int) -> tuple[int, ...]:
    """`[.., n, ..]` as `[.., n / block, block, ..]`."""
    shape = x.shape.to_static()
    if block < 1 or shape[axis] % block:
        raise UnsupportedError(f"blocks of {block} do not divide {shape[axis]}")
    return (*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])


def in_blocks(c: Call, x: Value, axis: int, block: int) -> Value:
    return c.make("Reshape", x, c.const(split_shape(x, axis, block)), special_zero=False) if block else x


def whole(c: Call, y: Value, x: Value, block: int) -> Value:
    return c.make("Reshape", y, c.const(x.shape.to_static()), special_zero=False) if block else y


def same(quantized: Quantized, scale: Value, zero_point: Value | None, axis: int) -> bool:
    """Whether a dequantization undoes just this quantization."""
    for a, b in ((quantized.scale, scale), (quantized.zero_point, zero_point)):
        if a is b:
            continue
        left = np.zeros(()) if a is None else known_value(a)
        right = np.zeros(()) if b is None else known_value(b)
        if left is None or right is None or not np.array_equal(left.reshape(-1), right.reshape(-1)):
            return False
    return quantized.axis == axis
