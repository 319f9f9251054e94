"""Lowering of matrix products: of codes and codes, of codes and 8-bit weights on either side, of compressed weights."""

from __future__ import annotations

import dataclasses

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.op import Array
from lpir.ir.types import f32, i32
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.ops.lowered import LoweredMatMul
from lpir.ops.lowered_compressed import CompressedMatMul
from lpir.ops.reshaping import Reshape, Transpose
from lpir.passes.lowprec.forms import Lowering
from lpir.passes.lowprec.rules import RULES, attrs, copy_node, rule
from lpir.passes.lowprec.rules_compute import IDENTITY, SCALED
from lpir.passes.lowprec.weights import Grouped, Weights, find_chain, find_grouped, find_weights, max_products
from lpir.record import record
from lpir.scalar.expr import Expr, cast, input_


@rule("MatMul")
def matmul(state: Lowering, node: Node) -> None:
    """In INT8 when both inputs are 8-bit: codes, or constant weights with scales that do not vary along the sums."""
    a, b = node.inputs
    if len(a.shape) < 2 or len(b.shape) < 2:
        _with_vector(state, node)
        return
    turn, flip = bool(attrs(node).transpose_a), bool(attrs(node).transpose_b)
    state.set_real(node.outputs[0], _product(state, a, b, turn, flip))


def _product(state: Lowering, a: Value, b: Value, turn: bool, flip: bool) -> Value:
    """The product of two matrices of real numbers, transposed first where the flags say so."""
    found = int8_product(state, a, b, turn, flip)
    if found is not None:
        return state.emit(*found)
    left = _transposed(state, state.real(a)) if turn else state.real(a)
    compressed = compressed_operands(state, b, flip)
    if compressed is not None:
        return state.emit(CompressedMatMul(flip, IDENTITY), [left, *compressed])
    array = state.constant_of(b)
    if array is None:
        right = state.real(b)
    else:
        right = constant(np.asarray(np.swapaxes(array, -1, -2) if flip else array, np.float32))
        flip = False
    return state.emit(LoweredMatMul(flip, 0, 0, IDENTITY), [left, right])


def _with_vector(state: Lowering, node: Node) -> None:
    """A product with a vector, which is a row on the left and a column on the right, whatever the flags."""
    a, b = node.inputs
    shapes = [v.shape.to_static() for v in (a, b)]
    if {a.element_type, b.element_type} != {f32} or 0 in shapes[0] + shapes[1]:
        copy_node(state, node)
        return
    left, right = _matrix(state, a, (1, -1)), _matrix(state, b, (-1, 1))
    turn, flip = left is a and bool(attrs(node).transpose_a), right is b and bool(attrs(node).transpose_b)
    product = _product(state, left, right, turn, flip)
    for made in {left, right} - {a, b}:
        made.node.detach()
    shape = constant(node.outputs[0].shape.to_static(), np.int64)
    state.set_real(node.outputs[0], state.emit(Reshape(False), [product, shape]))


def _matrix(state: Lowering, vector: Value, shape: tuple[int, int]) -> Value:
    """A public value that is `vector` as a matrix; matrices stay what they are."""
    if len(vector.shape) > 1:
        return vector
    node = make_node("Reshape", vector, constant(shape, np.int64), special_zero=False, name=vector.name)
    precision = state.precision
    if state.constant_of(vector) is None:
        RULES["Reshape"](state, node)
    else:
        state.known.add(id(node.outputs[0]))
    state.precision = precision
    return node.outputs[0]


def compressed_operands(state: Lowering, b: Value, flip: bool) -> list[Value] | None:
    """Codes, scale and zero point of weights that stay compressed, or None; says why where they are decompressed."""
    found = find_grouped(b, 1 if flip else 0) if b.element_type == f32 else None
    if isinstance(found, str):
        state.refuse(f"{found}: decoded when the model is compiled")
    if not isinstance(found, Grouped):
        return None
    state.refuse(f"the weights stay {found.element_type} codes in memory and are decoded where they are multiplied")
    vectors = [np.ascontiguousarray(x.T) if flip else x for x in (found.scale, found.zero_point)]
    return [constant(found.codes, found.element_type), *(constant(v) for v in vectors)]


def _transposed(state: Lowering, value: Value) -> Value:
    rank = len(value.shape)
    return state.emit(Transpose(), [value, constant((*range(rank - 2), rank - 1, rank - 2), np.int64)])


def int8_product(
    state: Lowering, a: Value, b: Value, turn: bool, flip: bool, factor: float = 1.0
) -> tuple[LoweredMatMul, list[Value]] | None:
    """The product of `a` (with `turn` transposed), `b` (with `flip` transposed) and `factor` in codes, with its inputs.

    None where an operand has no codes; the reason, if the IR asks for INT8, is noted.
    """
    if not state.low_precision:
        return None
    found = [None if state.has_codes(v) else find_weights(v) for v in (a, b)]
    refusal = _refuse_operands(state, (a, b), found)
    if refusal is not None:
        if refusal:
            state.refuse(refusal)
        return None
    weights = [w if isinstance(w, Weights) else None for w in found]
    limit = max_products(weights[0] or weights[1], *(q for v in (a, b) if (q := state.form(v).quant) is not None))
    if a.shape[-2 if turn else -1].length > limit:
        state.refuse(f"more than {limit} products in one sum could leave int32")
        return None
    rank = max(len(a.shape), len(b.shape))
    left = _left_codes(state, a, weights[0], turn, rank)
    right = _right_codes(state, b, weights[1], flip, rank)
    for side in (left, right):
        if isinstance(side, str):
            state.refuse(side)
    if isinstance(left, str) or isinstance(right, str):
        return None
    columns = b.shape[-2 if flip else -1].length
    epilogue, operands = _scaled(left.scale * factor, right.scale, columns)
    op = LoweredMatMul(right.turned, left.zero_point, right.zero_point, epilogue)
    state.precision = "INT8"
    return op, [left.codes, right.codes, *operands]


def _refuse_operands(state: Lowering, values: tuple[Value, Value], found: list[Weights | str | None]) -> str | None:
    """Why two operands, of which some are weights (or a reason why not), do not multiply in INT8; None if they do.

    No words where the IR does not ask for it.
    """
    if any(state.has_codes(v) for v in values):
        for weights in found:
            if isinstance(weights, str):
                return weights
    plain = [v for v, w in zip(values, found, strict=True) if not isinstance(w, Weights) and not state.has_codes(v)]
    if not plain and any(state.has_codes(v) for v in values):
        return None
    asked = any(state.has_codes(v) or find_chain(v) is not None for v in values)
    return f"the input '{plain[0].name}' is not quantized: it has no FakeQuantize" if asked and plain else ""


@record(eq=False)
class _Side:
    """An operand of a product in codes; `scale` (float64) broadcasts to the output. `turned`: columns come first."""

    codes: Value
    scale: Array
    zero_point: int
    turned: bool = False


def _activation_codes(state: Lowering, value: Value, turned: bool, rank: int, place: int) -> _Side | str | None:
    """Codes of an activation as they are, for axis `place` of the output; see `_scale_over_product` for `turned`.

    A reason where zero points differ, None where the scale varies along the axis of the sums.
    """
    quant, codes = state.form(value).quant, state.codes(value, False)
    assert quant is not None
    assert codes is not None
    if quant.zero_points is not None:
        return "an input's channels have different zero points"
    scale = _scale_over_product(quant, len(value.shape), turned, rank, place)
    return None if scale is None else _Side(codes, scale, quant.zero_point)


def _left_codes(state: Lowering, a: Value, weights: Weights | None, turn: bool, rank: int) -> _Side | str:
    """Codes of an activation, or constant weights as u8; a reason where the scale varies along the axis of the sums."""
    if weights is None:
        found = _activation_codes(state, a, turn, rank, rank - 2)
        if found is None:
            return "the input's scale varies along the axis that is summed"
        if isinstance(found, _Side) and turn:
            return dataclasses.replace(found, codes=_transposed(state, found.codes))
        return found
    if weights.codes.dtype != np.int8:
        return "weights on the left need more than 8 bits"
    array, scales = _oriented(weights, turn)
    rows = _scale_beside(scales, -1)
    if rows is None:
        return "the weights' scale varies along the axis that is summed"
    return _Side(constant((array.astype(np.int16) + 128).astype(np.uint8)), rows, 128)


def _right_codes(state: Lowering, b: Value, weights: Weights | None, flip: bool, rank: int) -> _Side | str:
    """Constant weights, or codes of an activation; a reason where the scale varies along the axis that is summed."""
    if weights is None:
        found = _activation_codes(state, b, not flip, rank, rank - 1)
        if found is None:
            return "the second input's scale varies along the axis that is summed"
        return dataclasses.replace(found, turned=flip) if isinstance(found, _Side) else found
    array, scales = _oriented(weights, flip)
    columns = _scale_beside(scales, -2)
    if columns is None:
        return "the weights' scale varies along the axis that is summed"
    return _Side(constant(array), np.broadcast_to(columns, (*columns.shape[:-1], array.shape[-1])), 0)


def _oriented(weights: Weights, turned: bool) -> tuple[Array, Array]:
    """Codes and scales (with as many axes), the last two axes exchanged where `turned`."""
    codes, scale = weights.codes, weights.scale
    scale = scale.reshape((1,) * (codes.ndim - scale.ndim) + scale.shape)
    return (np.swapaxes(codes, -1, -2), np.swapaxes(scale, -1, -2)) if turned else (codes, scale)


def _scale_beside(scales: Array, axis: int) -> Array | None:
    """Scales (float64) that do not vary along `axis`, without leading axes along which none varies; None if they do."""
    first = scales.take([0], axis)
    if scales.shape[axis] > 1 and not np.array_equal(np.broadcast_to(first, scales.shape), scales):
        return None
    while first.ndim > 1 and np.array_equal(np.broadcast_to(first[:1], first.shape), first):
        first = first[0]
    return first.astype(np.float64)


def _scale_over_product(quant: QuantType, rank: int, turned: bool, out_rank: int, place: int) -> Array | None:
    """The scale of one input of a product as it broadcasts to the output; None if it varies along the axis of the sums.

    `turned`: the axis that is summed is the last but one; the other one is axis `place` of the output.
    """
    scale = quant.scale.astype(np.float64)
    if quant.is_per_tensor:
        return scale.reshape(())
    axis = quant.axis or 0
    if axis == rank - (2 if turned else 1):
        return None
    shape = [1] * out_rank
    shape[place if axis >= rank - 2 else axis + out_rank - rank] = scale.size
    return scale.reshape(shape)


def _scaled(left: Array, right: Array, columns: int) -> tuple[Expr, list[Value]]:
    """The epilogue that multiplies a sum once by both scales, and its operands."""
    combined = (left * right).astype(np.float32)
    if combined.ndim == 0:
        return cast(input_(0, i32), f32) * float(combined), []
    # kernels read operands channel by channel
    return SCALED, [constant(np.ascontiguousarray(np.broadcast_to(combined, (*combined.shape[:-1], columns))))]
