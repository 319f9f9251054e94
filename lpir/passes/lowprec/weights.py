"""Recognises constant weights that are 8-bit codes: `Constant -> Convert -> [Subtract] -> Multiply -> [Reshape]`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lpir.ir.graph import Value
from lpir.ir.op import Array
from lpir.ops.boundary import constant_data

# how far from a whole number a code may lie once the zero point is off: float32 arithmetic
WHOLE = 1e-4
CODES = ("i8", "u8", "i4", "u4")


@dataclass(frozen=True, eq=False)
class Weights:
    """`real = scale * codes`: codes with the zero point taken off, and a scale that broadcasts to them.

    The codes are int8 where that holds them, else int16 within +-511 (asymmetric weights).
    """

    codes: Array
    scale: Array

    def scale_along(self, axes: tuple[int, ...]) -> Array | None:
        """The scale as a tensor over `axes` of the codes (float32), or None when it varies along another axis."""
        full = np.broadcast_to(self.scale, self.codes.shape)
        others = tuple(i for i in range(full.ndim) if i not in axes)
        first = full[tuple(slice(None) if i in axes else slice(0, 1) for i in range(full.ndim))]
        if self.scale.size > 1 and not np.array_equal(np.broadcast_to(first, full.shape), full):
            return None
        return np.asarray(first, np.float32).squeeze(others) if others else np.asarray(first, np.float32)


def find_weights(value: Value) -> Weights | str | None:
    """The 8-bit weights behind `value`; None if it is no such chain, a reason if the chain cannot be used in INT8."""
    shape: tuple[int, ...] | None = None
    node = value.node
    while node.op.type_name in ("Reshape", "Convert") and constant_data(node.inputs[0]) is None:
        if node.op.type_name == "Reshape" and shape is None:
            shape = node.outputs[0].shape.to_static()
        node = node.inputs[0].node
    if node.op.type_name != "Multiply":
        return None
    chain, scale = _chain_and_constant(node.inputs)
    if chain is None or scale is None:
        return None
    zero_point: Array | None = None
    if chain.node.op.type_name == "Subtract":
        chain, zero_point = chain.node.inputs[0], _constant_behind_convert(chain.node.inputs[1])
        if zero_point is None:
            return None
    if chain.node.op.type_name != "Convert" or (codes := constant_data(chain.node.inputs[0])) is None:
        return None
    if chain.node.inputs[0].element_type.name not in CODES:
        return None
    return _make(codes, scale, zero_point, shape)


def _make(codes: Array, scale: Array, zero_point: Array | None, shape: tuple[int, ...] | None) -> Weights | str:
    whole = codes.astype(np.int16)
    scale = scale.astype(np.float32)
    if zero_point is not None:
        # a zero point between two codes, as a symmetric range of 256 levels has it: twice the codes, half the scale
        factor = 2 if np.array_equal(np.rint(2 * zero_point), 2 * zero_point) and zero_point.max() % 1 else 1
        moved = factor * (codes.astype(np.float32) - zero_point.astype(np.float32))
        whole, scale = np.rint(moved).astype(np.int16), scale / np.float32(factor)
        if np.abs(moved - whole).max(initial=0) > WHOLE:
            return "the weights' zero point is not a whole number"
    if whole.min(initial=0) >= -128 and whole.max(initial=0) <= 127:
        whole = whole.astype(np.int8)
    if shape is not None and shape != whole.shape:
        if math.prod(shape) != whole.size:
            return "the weights are reshaped in a way that is not understood"
        scale = np.broadcast_to(scale, whole.shape).reshape(shape) if scale.size > 1 else scale.reshape(())
        whole = whole.reshape(shape)
    return Weights(np.ascontiguousarray(whole), scale)


def _constant_behind_convert(value: Value) -> Array | None:
    while value.node.op.type_name in ("Convert", "Reshape") and constant_data(value) is None:
        inner = constant_data(value.node.inputs[0])
        if inner is not None:
            return np.asarray(inner, np.float32).reshape(value.shape.to_static())
        value = value.node.inputs[0]
    return constant_data(value)


def _chain_and_constant(inputs: tuple[Value, ...]) -> tuple[Value | None, Array | None]:
    for chain, scale in (inputs, inputs[::-1]):
        found = _constant_behind_convert(scale)
        if found is not None and chain.node.op.type_name in ("Convert", "Subtract"):
            return chain, found
    return None, None
