"""Lowering of convolutions, pooling, reductions, softmax and normalization."""

from __future__ import annotations

import math

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.op import Array
from lpir.ir.types import f32, i32, i64
from lpir.ops.bases import normalize_axis
from lpir.ops.boundary import constant, constant_data
from lpir.ops.lowered import (
    Elementwise,
    LoweredConvolution,
    LoweredNormalize,
    LoweredSoftmax,
    Pool,
    Reduce,
    window_counts,
)
from lpir.ops.reshaping import Transpose
from lpir.passes.lowprec.computed_weights import convolve
from lpir.passes.lowprec.forms import Lowering, physical_axis
from lpir.passes.lowprec.rules import attrs, copy_node, rule
from lpir.passes.lowprec.weights import Weights, find_weights, max_products
from lpir.scalar.expr import Expr, apply, cast, input_

# kernels of depthwise convolutions with a zero point a channel unroll their taps
MAX_TAPS = 81
IDENTITY = input_(0, f32)
EXP = Elementwise(apply("exp", IDENTITY))
SCALED = cast(input_(0, i32), f32) * input_(1, f32)


@rule("Convolution", "GroupConvolution")
def convolution(state: Lowering, node: Node) -> None:
    """Channels last; in INT8 when the input is codes and the weights are 8-bit with a scale an output channel."""
    x, w = node.inputs
    grouped = node.op.type_name == "GroupConvolution"
    groups = w.shape.to_static()[0] if grouped else 1
    begin, end = resolved_pads(node)
    op = LoweredConvolution(
        tuple(attrs(node).strides),
        tuple(attrs(node).dilations),
        begin,
        end,
        groups,
        0,
        IDENTITY,
    )
    if id(w) not in state.known and constant_data(w) is None:
        convolve(state, node, op)
        return
    found = _int8_convolution(state, node, groups)
    if found is None:
        weights = state.constant_of(w)
        assert weights is not None
        kernel = constant(_kernel_last(np.asarray(weights, np.float32), grouped))
        state.set_real(node.outputs[0], state.emit(op, [state.real(x, True), kernel]), True)
        return
    codes, weights8, scale = found
    quant = state.form(x).quant
    assert quant is not None
    op = LoweredConvolution(op.strides, op.dilations, begin, end, groups, each_zero_point(quant), SCALED)
    kernel = constant(_kernel_last(weights8, grouped))
    state.precision = "INT8"
    state.set_real(node.outputs[0], state.emit(op, [codes, kernel, constant(scale)]), True)


def _int8_convolution(state: Lowering, node: Node, groups: int) -> tuple[Value, Array, Array] | None:
    """Codes, int8 weights and the combined scale of each output channel, or None (with the reason noted)."""
    x, w = node.inputs
    weights = find_weights(w) if state.low_precision else None
    quantized = state.has_codes(x)
    if not state.low_precision or (weights is None and not quantized):
        return None
    if not isinstance(weights, Weights):
        state.refuse(weights or "the weights are not 8-bit constants")
        return None
    if not quantized:
        state.refuse(f"the input '{x.name}' is not quantized: it has no FakeQuantize")
        return None
    quant = state.form(x).quant
    assert quant is not None
    axes = (0, 1) if node.op.type_name == "GroupConvolution" else (0,)
    scale = weights.scale_along(axes)
    if scale is None:
        state.refuse("the weights' scale varies inside an output channel")
        return None
    outputs = math.prod(weights.codes.shape[: len(axes)])
    if quant.zero_points is not None and (refusal := _refuse_zero_points(weights, groups, outputs)):
        state.refuse(refusal)
        return None
    if not quant.is_per_tensor and not (quant.axis == 1 and groups == x.shape[1].length):
        state.refuse("the input's scale varies along the channels that are summed")
        return None
    if any(any(p) for p in resolved_pads(node)) and not 0 <= quant.zero_point <= 255:
        state.refuse(f"padding has no code: the zero point is {quant.zero_point}")
        return None
    limit = max_products(weights, quant)
    if weights.codes[0].size // (weights.codes.shape[1] if len(axes) == 2 else 1) > limit:
        state.refuse(f"more than {limit} products in one sum could leave int32")
        return None
    per_input = np.repeat(quant.scale, outputs // groups) if not quant.is_per_tensor else quant.scale.reshape(())
    combined = np.broadcast_to(scale.reshape(-1), (outputs,)).astype(np.float64) * per_input.astype(np.float64)
    codes = state.codes(x, True)
    assert codes is not None
    return codes, weights.codes, combined.astype(np.float32)


def each_zero_point(quant: QuantType) -> int | tuple[int, ...]:
    """The zero point, or those of the channels."""
    return quant.zero_point if quant.zero_points is None else tuple(int(z) for z in quant.zero_points)


def _refuse_zero_points(weights: Weights, groups: int, outputs: int) -> str | None:
    """Why a convolution cannot have a zero point for each channel, or None."""
    if outputs != groups:
        return "the channels have different zero points, and each has several outputs"
    if weights.codes.dtype != np.int8:
        return "the channels have different zero points, and the weights need more than 8 bits"
    if weights.codes.size // outputs > MAX_TAPS:
        return f"the channels have different zero points, and more than {MAX_TAPS} taps"
    return None


def _kernel_last(w: Array, grouped: bool) -> Array:
    """`[O, C/g, *K]` or `[g, O/g, C/g, *K]` as `[*K, C/g, O]`; a view: kernels bring weights into their own order."""
    if grouped:
        w = w.reshape(w.shape[0] * w.shape[1], *w.shape[2:])
    return np.moveaxis(w, (1, 0), (-2, -1))


def resolved_pads(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The pads that auto_pad stands for."""
    op, spatial = attrs(node), node.inputs[0].shape.to_static()[2:]
    begin, end = tuple(op.pads_begin), tuple(op.pads_end)
    mode = op.auto_pad
    if mode == "valid":
        return (0,) * len(spatial), (0,) * len(spatial)
    if mode not in ("same_upper", "same_lower"):
        return begin, end
    kernel = getattr(op, "kernel", None) or node.inputs[1].shape.to_static()[-len(spatial) :]
    dilations = getattr(op, "dilations", None) or (1,) * len(spatial)
    pads = []
    for size, k, s, d in zip(spatial, kernel, op.strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small = total // 2
        pads.append((small, total - small) if mode == "same_upper" else (total - small, small))
    return tuple(p[0] for p in pads), tuple(p[1] for p in pads)


@rule("MaxPool", "AvgPool")
def pool(state: Lowering, node: Node) -> None:
    """Channels last, on codes where there are some: the maximum of codes is the code of the maximum."""
    (x,), op = node.inputs, attrs(node)
    if len(node.outputs) > 1 and node.outputs[1].uses:
        copy_node(state, node)
        return
    is_max = op.type_name == "MaxPool"
    begin, end = resolved_pads(node)
    kernel, strides = tuple(op.kernel), tuple(op.strides)
    dilations = tuple(getattr(op, "dilations", None) or (1,) * len(kernel))
    # AvgPool divides by what is there when only rounding up makes windows hang over
    unpadded = not any(begin) and not any(end)
    end = _ceil_pads(node, kernel, strides, dilations, begin, end)
    quant = state.form(x).quant
    exclude = bool(getattr(op, "exclude_pad", True)) or is_max or (unpadded and any(end))
    geometry = (strides, dilations, begin, end, "max" if is_max else "avg", kernel, exclude)
    by_channel = quant is not None and not quant.is_per_tensor
    # zero points of each channel are taken off as often as a window has elements inside
    apart = quant is not None and quant.zero_points is not None
    counted = is_max or exclude or not (any(begin) or any(end))
    by_code = quant is not None and (not by_channel or quant.axis == 1) and (not apart or counted)
    codes = state.codes(x, True) if by_code else None
    if codes is None or quant is None:
        epilogue = IDENTITY if is_max else input_(0, f32) / input_(1, f32)
        state.set_real(node.outputs[0], state.emit(Pool(*geometry, 0, epilogue), [state.real(x, True)]), True)
    elif is_max:
        state.precision = "INT8"
        lowered = state.emit(Pool(*geometry, 0, cast(input_(0, i32), codes.element_type)), [codes])
        state.set_codes(node.outputs[0], lowered, quant, True)
    else:
        state.precision = "INT8"
        scale = input_(2, f32) if by_channel else float(quant.scale.reshape(()))
        total = cast(input_(0, i32), f32)
        vectors = [constant(quant.scale)] if by_channel else []
        if quant.zero_points is not None:
            total = total - input_(3, f32) * input_(1, f32)
            vectors.append(constant(quant.zero_points.astype(np.float32)))
        epilogue = total * scale / input_(1, f32)
        lowered = state.emit(Pool(*geometry, quant.zero_point, epilogue), [codes, *vectors])
        state.set_real(node.outputs[0], lowered, True)


def _ceil_pads(
    node: Node,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    begin: tuple[int, ...],
    end: tuple[int, ...],
) -> tuple[int, ...]:
    """End pads that give as many positions as the public operation has (rounding_type ceil adds some)."""
    wanted = node.outputs[0].shape.to_static()[2:]
    out = []
    for size, k, s, d, b, e, n in zip(
        node.inputs[0].shape.to_static()[2:], kernel, strides, dilations, begin, end, wanted, strict=True
    ):
        missing = n - window_counts(size, k, s, d, b, e)
        out.append(e if missing <= 0 else (n - 1) * s + d * (k - 1) + 1 - size - b)
    return tuple(out)


REDUCTIONS = {"ReduceMean": "sum", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}


@rule(*REDUCTIONS)
def reduce(state: Lowering, node: Node) -> None:
    """Any axes; on codes where there are some."""
    x, axes_value = node.inputs
    rank, quant, name = len(x.shape), state.form(x).quant, node.op.type_name
    found = state.constant_of(axes_value)
    whole = x.element_type in (i32, i64) and name != "ReduceMean"
    # the mean of nothing is a NaN
    if found is None or rank == 0 or not (x.element_type == f32 or whole) or 0 in x.shape.to_static():
        copy_node(state, node)
        return
    axes = sorted({normalize_axis(int(a), rank) for a in np.asarray(found).reshape(-1)})
    keep = bool(attrs(node).keep_dims)
    last = keep and state.prefers_last([x], rank)
    if not keep and state.prefers_last([x], rank) and set(axes) >= set(range(2, rank)):
        # with the spatial axes gone the layout no longer matters
        last = True
    kept_last = last and keep
    physical = tuple(sorted(physical_axis(a, rank, last) for a in axes))
    count = math.prod(x.shape[a].length for a in axes)
    inverse = float(np.float32(1.0 / count))
    on_codes = quant is not None and quant.is_per_tensor and name != "ReduceProd" and count * 255 < 2**31
    codes = state.codes(x, last) if on_codes else None
    if codes is not None and quant is not None:
        state.precision = "INT8"
        scale = float(np.float32(float(quant.scale.reshape(())) / (count if name == "ReduceMean" else 1)))
        epilogue: Expr = cast(input_(0, i32), f32) * scale
        op = Reduce(REDUCTIONS[name], physical, keep, quant.zero_point, epilogue)
        state.set_real(node.outputs[0], state.emit(op, [codes]), kept_last)
        return
    epilogue = IDENTITY * inverse if name == "ReduceMean" else input_(0, x.element_type)
    op = Reduce(REDUCTIONS[name], physical, keep, 0, epilogue)
    state.set_real(node.outputs[0], state.emit(op, [state.real(x, last)]), kept_last)


@rule("Softmax", "LogSoftmax")
def softmax(state: Lowering, node: Node) -> None:
    """Over the last axis; another axis is moved there and back."""
    x = node.inputs[0]
    rank = len(x.shape)
    if rank == 0 or x.element_type != f32:
        copy_node(state, node)
        return
    axis = normalize_axis(int(attrs(node).axis), rank)
    apply_rows = _log_softmax_rows if node.op.type_name == "LogSoftmax" else _softmax_rows
    # channels last, axis 1 is the last one already
    last = axis == 1 and state.prefers_last([x], rank)
    if last or axis == rank - 1:
        state.set_real(node.outputs[0], apply_rows(state, state.real(x, last)), last)
        return
    order = [*(i for i in range(rank) if i != axis), axis]
    moved = apply_rows(state, state.emit(Transpose(), [state.real(x), constant(order, np.int64)]))
    state.set_real(node.outputs[0], state.emit(Transpose(), [moved, constant(np.argsort(order), np.int64)]))


def _softmax_rows(state: Lowering, x: Value) -> Value:
    return state.emit(LoweredSoftmax(IDENTITY), [x])


def _log_softmax_rows(state: Lowering, x: Value) -> Value:
    """`x - max - log(sum(exp(x - max)))`: never the logarithm of an underflow."""
    axes = (len(x.shape) - 1,)
    largest = state.emit(Reduce("max", axes, True, 0, IDENTITY), [x])
    shifted = state.emit(Elementwise(input_(0) - input_(1)), [x, largest])
    total = state.emit(Reduce("sum", axes, True, 0, apply("log", IDENTITY)), [state.emit(EXP, [shifted])])
    return state.emit(Elementwise(input_(0) - input_(1)), [shifted, total])


@rule("MVN")
def mvn(state: Lowering, node: Node) -> None:
    """Over trailing axes natively (LayerNorm); others are moved to the end and back."""
    x, axes_value = node.inputs
    rank = len(x.shape)
    axes = sorted({normalize_axis(int(a), rank) for a in np.asarray(state.constant_of(axes_value)).reshape(-1)})
    op = LoweredNormalize(
        len(axes),
        bool(attrs(node).normalize_variance),
        float(attrs(node).eps),
        str(attrs(node).eps_mode).upper(),
        IDENTITY,
    )
    real = state.real(x)
    order = [*(i for i in range(rank) if i not in axes), *axes]
    if order == list(range(rank)):
        state.set_real(node.outputs[0], state.emit(op, [real]))
        return
    moved = state.emit(op, [state.emit(Transpose(), [real, constant(order, np.int64)])])
    state.set_real(node.outputs[0], state.emit(Transpose(), [moved, constant(np.argsort(order), np.int64)]))
