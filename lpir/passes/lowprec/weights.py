"""Recognises constant weights that are 8-bit codes: `Constant -> Convert -> [Subtract] -> Multiply -> [Reshape]`."""

from __future__ import annotations

import math

import numpy as np

from lpir.ir.graph import QuantType, Value
from lpir.ir.op import Array
from lpir.ir.types import ElementType
from lpir.ops.boundary import constant_data
from lpir.record import record

# how far from a whole number a code may lie once the zero point is off: float32 arithmetic
WHOLE = 1e-4
INT32_MAX = 2**31 - 1
CODES = ("i8", "u8", "i4", "u4")


@record(eq=False)
class Weights:
    """`real = scale * codes`: codes with the zero point taken off, and a scale that broadcasts to them.

    The codes are int8 where that holds them, else int16 within +-511 (asymmetric weights).
    """

    codes: Array
    scale: Array

    def scale_along(self, axes: tuple[int, ...]) -> Array | None:
        """The scale as a tensor over `axes` of the codes (float32), or None when it varies along another axis."""
        shape = self.codes.shape
        # as small as it is: a copy for every code takes longer than all else here
        scale = self.scale.reshape((1,) * (len(shape) - self.scale.ndim) + self.scale.shape)
        first = scale[tuple(slice(None) if i in axes else slice(0, 1) for i in range(len(shape)))]
        if not np.array_equal(np.broadcast_to(first, scale.shape), scale):
            return None
        others = tuple(i for i in range(len(shape)) if i not in axes)
        full = np.broadcast_to(first, [n if i in axes else 1 for i, n in enumerate(shape)])
        return np.asarray(full, np.float32).squeeze(others)


@record(eq=False)
class Chain:
    """Codes as a file has them: `real = scale * (codes - zero_point)`, reshaped to `shape` where that is not None."""

    codes: Array
    element_type: ElementType
    scale: Array
    zero_point: Array | None
    shape: tuple[int, ...] | None


@record(eq=False)
class Grouped:
    """A matrix of codes whose scale and zero point (float32) vary along one axis and, in groups, along the other.

    `codes` [R, C]; `scale` and `zero_point` [R, G] where groups follow each other along the columns, or [G, C].
    """

    codes: Array
    element_type: ElementType
    scale: Array
    zero_point: Array


def find_chain(value: Value) -> Chain | None:
    """The codes behind `value`, or None if it is no such chain."""
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
    element_type = chain.node.inputs[0].element_type
    return Chain(codes, element_type, scale, zero_point, shape) if element_type.name in CODES else None


def find_weights(value: Value) -> Weights | str | None:
    """The 8-bit weights behind `value`; None if it is no such chain, a reason if the chain cannot be used in INT8."""
    chain = find_chain(value)
    return None if chain is None else _make(chain.codes, chain.scale, chain.zero_point, chain.shape)


def find_grouped(value: Value, axis: int) -> Grouped | str | None:
    """The matrix of codes behind `value`, in groups along `axis` (0 or 1); None if it is no such chain.

    A reason in words if its scales are not constant along groups of equal length.
    """
    chain = find_chain(value)
    if chain is None:
        return None
    shape, codes = value.shape.to_static(), chain.codes
    if len(shape) != 2:
        return f"the weights have {len(shape)} axes, not 2"
    # three axes: the groups and what is inside a group, which are one axis of the matrix
    cut = codes.shape if codes.ndim == 3 else (*codes.shape[:axis], 1, *codes.shape[axis:])
    if (*cut[:axis], cut[axis] * cut[axis + 1], *cut[axis + 2 :]) != shape:
        return f"codes {list(codes.shape)} are no groups of {list(shape)} along axis {axis}"
    zero_point = np.zeros((), np.float32) if chain.zero_point is None else chain.zero_point
    vectors = []
    for x in (chain.scale, zero_point):
        full = x.astype(np.float32).reshape((1,) * (codes.ndim - x.ndim) + x.shape)
        full = full if codes.ndim == 3 else np.expand_dims(full, axis)
        if full.shape[axis + 1] != 1:
            return "the weights' scale or zero point varies inside a group"
        spread = np.broadcast_to(full, (*cut[: axis + 1], 1, *cut[axis + 2 :]))
        vectors.append(np.ascontiguousarray(np.squeeze(spread, axis + 1)))
    return Grouped(codes.reshape(shape), chain.element_type, *vectors)


def max_products(weights: Weights | None, *quants: QuantType) -> int:
    """How many products can be added without leaving int32: of u8 codes with these weights, or with other u8 codes.

    A zero point outside of the codes makes what is multiplied larger than a code.
    """
    largest = [max(255, abs(q.zero_point), abs(255 - q.zero_point)) for q in quants]
    if weights is not None:
        largest.append(max(128, int(weights.codes.max(initial=1)), -int(weights.codes.min(initial=-1))))
    return INT32_MAX // math.prod(largest)


def _make(codes: Array, scale: Array, zero_point: Array | None, shape: tuple[int, ...] | None) -> Weights | str:
    # weights that need nothing done to them stay where they are: in the file
    plain = zero_point is None and codes.dtype == np.int8
    whole = codes if plain else codes.astype(np.int16)
    scale = scale.astype(np.float32)
    if zero_point is not None:
        # a zero point between two codes, as a symmetric range of 2^n levels has it: twice the codes, half the scale
        doubled = np.rint(2 * zero_point.astype(np.float32))
        factor = 2 if np.any(doubled % 2) and np.abs(2 * zero_point - doubled).max() < WHOLE else 1
        moved = factor * codes.astype(np.float32) - (doubled if factor == 2 else zero_point.astype(np.float32))
        whole, scale = np.rint(moved).astype(np.int16), scale / np.float32(factor)
        if np.abs(moved - whole).max(initial=0) > WHOLE:
            return "the weights' zero point is not a whole number"
    if not plain and whole.min(initial=0) >= -128 and whole.max(initial=0) <= 127:
        whole = whole.astype(np.int8)
    if shape is not None and shape != whole.shape:
        if math.prod(shape) != whole.size:
            return "the weights are reshaped in a way that is not understood"
        scale = np.broadcast_to(scale, whole.shape).reshape(shape) if scale.size > 1 else scale.reshape(())
        whole = whole.reshape(shape)
    return Weights(whole, scale)


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
