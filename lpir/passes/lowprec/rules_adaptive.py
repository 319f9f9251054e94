"""Lowering of adaptive pooling: windows of unequal length become windows of one length, of elements that are gathered.

Output i of `m` reads elements `floor(i * n / m)` to `ceil((i + 1) * n / m)` of an axis of n. Shorter windows are filled
up with their own first element for a maximum, which that does not change, and with a zero for a sum.
"""

from __future__ import annotations

import math

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.op import Array
from lpir.ir.types import f32, i32
from lpir.ops.boundary import constant
from lpir.ops.builder import make_node
from lpir.ops.lowered import Elementwise, Pool
from lpir.passes.lowprec.forms import Lowering
from lpir.passes.lowprec.rules import copy_node, rule
from lpir.passes.lowprec.rules_move import data_codes, give
from lpir.record import record
from lpir.scalar.expr import Expr, cast, input_

X, Y = input_(0, f32), input_(1, f32)


@record(eq=False)
class _Windows:
    """The windows of one axis: `places` [m, longest] of the elements (-1: filled up), and how long each window is."""

    places: Array
    lengths: Array

    @property
    def are_equal(self) -> bool:
        """Whether they lie side by side as they are."""
        return bool(np.array_equal(self.places.reshape(-1), np.arange(self.places.size)))


def _windows(n: int, m: int) -> _Windows:
    begin, end = np.arange(m) * n // m, -(-np.arange(1, m + 1) * n // m)
    places = begin[:, None] + np.arange((end - begin).max())
    return _Windows(np.where(places < end[:, None], places, -1), end - begin)


@rule("AdaptiveAvgPool")
def adaptive_average(state: Lowering, node: Node) -> None:
    """A sum over windows, on codes where there are some, divided by their lengths."""
    axes = _axes(node)
    if axes is None:
        copy_node(state, node)
        return
    source, quant = data_codes(state, node.inputs[0], True)
    if quant is not None and not 0 <= quant.zero_point <= 255:
        source, quant = state.real(node.inputs[0], True), None
    zero = 0 if quant is None else quant.zero_point
    for axis, windows in enumerate(axes, 1):
        if not windows.are_equal:
            source = _gathered(state, _with_zero(state, source, axis, zero), windows.places, axis)
    lengths = _product([w.lengths.astype(np.float32) for w in axes])
    equal = all(w.are_equal for w in axes)
    total = X if quant is None else cast(input_(0, i32), f32) * float(quant.scale.reshape(()))
    value = state.emit(_pool(axes, "avg", zero, total / Y if equal else total), [source])
    if not equal:
        value = state.emit(Elementwise(X / Y), [value, constant(lengths)])
    state.set_real(node.outputs[0], value, True)
    state.precision = "FP32" if quant is None else "INT8"


@rule("AdaptiveMaxPool")
def adaptive_maximum(state: Lowering, node: Node) -> None:
    """A maximum over windows, of codes where there are some. Where positions are read, the operation itself."""
    axes = _axes(node)
    if axes is None or node.outputs[1].uses:
        copy_node(state, node)
        return
    source, quant = data_codes(state, node.inputs[0], True)
    for axis, windows in enumerate(axes, 1):
        if not windows.are_equal:
            source = _gathered(state, source, np.where(windows.places < 0, windows.places[:, :1], windows.places), axis)
    code = X if quant is None else cast(input_(0, i32), source.element_type)
    give(state, node.outputs[0], state.emit(_pool(axes, "max", 0, code), [source]), quant, True)


def _axes(node: Node) -> list[_Windows] | None:
    """The windows of each spatial axis; None for what only the operation itself can do."""
    spatial, wanted = (v.shape.to_static()[2:] for v in (node.inputs[0], node.outputs[0]))
    if node.inputs[0].element_type != f32 or 0 in node.inputs[0].shape.to_static() or 0 in wanted:
        return None
    return [_windows(n, m) for n, m in zip(spatial, wanted, strict=True)]


def _pool(axes: list[_Windows], kind: str, zero: int, epilogue: Expr) -> Pool:
    window, none = tuple(w.places.shape[1] for w in axes), (0,) * len(axes)
    return Pool(window, (1,) * len(axes), none, none, kind, window, True, zero, epilogue)


def _with_zero(state: Lowering, x: Value, axis: int, zero: int) -> Value:
    """`x` with one element more at the end of an axis, which place -1 means."""
    more = np.zeros(len(x.shape), np.int64)
    fill = constant(np.full((), zero, x.element_type.dtype), x.element_type)
    inputs = [x, constant(more), constant(np.where(np.arange(more.size) == axis, 1, 0).astype(np.int64)), fill]
    return state.emit(make_node("Pad", *inputs, pad_mode="constant").op, inputs)


def _gathered(state: Lowering, x: Value, places: Array, axis: int) -> Value:
    flat = places.reshape(-1).astype(np.int64)
    inputs = [x, constant(flat % x.shape[axis].length), constant(np.int64(axis))]
    return state.emit(make_node("Gather", *inputs).op, inputs)


def _product(lengths: list[Array]) -> Array:
    """How many elements each window has: [1, *m, 1]."""
    shape = tuple(v.size for v in lengths)
    grid = [v.reshape([-1 if i == axis else 1 for i in range(len(shape))]) for axis, v in enumerate(lengths)]
    return np.ascontiguousarray(np.broadcast_to(math.prod(grid), shape)[None, ..., None], np.float32)
