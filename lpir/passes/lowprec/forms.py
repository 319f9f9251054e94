"""What lowering knows of each public value: as real numbers or as 8-bit codes, channels first or last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.op import Array, Op
from lpir.ir.types import f32, i32, u8
from lpir.ops.boundary import Constant, constant, constant_data
from lpir.ops.lowered import Elementwise
from lpir.ops.reshaping import Reshape, Transpose
from lpir.scalar.expr import Expr, cast, clamp, input_, rint_i32


@dataclass
class Form:
    """One public value in the lowered graph. A layout is True for channels last (axis 1 moved to the end)."""

    real: dict[bool, Value] = field(default_factory=dict)
    codes: dict[bool, Value] = field(default_factory=dict)
    quant: QuantType | None = None

    @property
    def layouts(self) -> set[bool]:
        return {*self.real, *self.codes}


def channels_last(rank: int) -> tuple[int, ...]:
    """The permutation that moves axis 1 to the end."""
    return (0, *range(2, rank), 1)


def channels_first(rank: int) -> tuple[int, ...]:
    """The inverse of `channels_last`."""
    return (0, rank - 1, *range(1, rank - 1))


def physical_axis(axis: int, rank: int, last: bool) -> int:
    """Where public axis `axis` lies in a layout."""
    return channels_last(rank).index(axis) if last else axis


class Lowering:
    """State of one lowering: the forms of all public values, and who wanted INT8 and did not get it."""

    def __init__(self, low_precision: bool) -> None:
        self.low_precision = low_precision
        self.forms: dict[int, Form] = {}
        self.known: set[int] = set()
        self.constants: dict[int, Array] = {}
        self.current: Node | None = None
        self.precision: str = "FP32"
        self.refused: list[str] = []

    def emit(self, op: Op, inputs: Sequence[Value], name: str = "") -> Value:
        """A lowered node for the public node at hand; its first output."""
        return self.emit_node(op, inputs, name).outputs[0]

    def emit_node(self, op: Op, inputs: Sequence[Value], name: str = "") -> Node:
        current = self.current
        node = Node(op, inputs, name or (current.name if current else op.type_name))
        if current is not None:
            node.source.append(current.name)
        return node

    def refuse(self, reason: str) -> None:
        """Says why the node at hand runs in float although the IR asks for INT8."""
        if reason not in self.refused:
            self.refused.append(reason)

    def form(self, value: Value) -> Form:
        return self.forms.setdefault(id(value), Form())

    def set_real(self, value: Value, lowered: Value, last: bool = False) -> None:
        self.form(value).real[last] = lowered

    def set_codes(self, value: Value, lowered: Value, quant: QuantType, last: bool = False) -> None:
        form = self.form(value)
        lowered.quant = quant
        form.codes[last] = lowered
        form.quant = quant

    def constant_of(self, value: Value) -> Array | None:
        """The array of a public value that is known before the model runs, or None."""
        if id(value) not in self.known:
            return self._ready(value)
        stack = [value.node]
        while stack:
            node = stack[-1]
            waiting = [v.node for v in node.inputs if self._ready(v) is None]
            if waiting:
                stack.append(waiting[0])
                continue
            arrays = [a for v in node.inputs if (a := self._ready(v)) is not None]
            for out, array in zip(node.outputs, node.op.eval(*arrays), strict=True):
                self.constants[id(out)] = np.asarray(array)
            stack.pop()
        return self.constants[id(value)]

    def _ready(self, value: Value) -> Array | None:
        found = self.constants.get(id(value))
        return constant_data(value) if found is None else found

    def has_codes(self, value: Value) -> bool:
        return bool(self.form(value).codes)

    def codes(self, value: Value, last: bool | None = None) -> Value | None:
        """The 8-bit codes of `value` in a layout (None: whichever there is), or None when it is not quantized."""
        form = self.form(value)
        if not form.codes:
            return None
        if last is None:
            last = True in form.codes
        if last not in form.codes:
            moved = self._relayout(form.codes[not last], last)
            moved.quant = form.quant
            form.codes[last] = moved
        return form.codes[last]

    def real(self, value: Value, last: bool = False) -> Value:
        """`value` as real numbers (or its own integer type) in a layout."""
        form = self.form(value)
        if last in form.real:
            return form.real[last]
        if not form.layouts:
            array = self.constant_of(value)
            assert array is not None, f"{value} was read before it was lowered"
            type = value.element_type
            form.real[False] = Node(Constant(np.asarray(array, type.dtype), type), (), value.node.name).output
        if last not in form.real and (not last) in form.real:
            form.real[last] = self._relayout(form.real[not last], last)
        elif last not in form.real:
            codes = self.codes(value, last)
            assert codes is not None
            assert form.quant is not None
            form.real[last] = self.emit(*dequantize(codes, form.quant, last))
        return form.real[last]

    def aligned(self, value: Value, shape: tuple[int, ...], rank: int, last: bool) -> Value:
        """`real(value)` as `shape`, with leading ones added or taken off up to `rank` axes, in a layout.

        Constants are reshaped and moved now.
        """
        # limits may have more axes than the data, as long as the additional ones have length 1
        full = (1,) * (rank - len(shape)) + shape if len(shape) < rank else shape[len(shape) - rank :]
        turn = last and rank > 2
        if (array := self.constant_of(value)) is not None:
            moved = array.reshape(full).transpose(channels_last(rank)) if turn else array.reshape(full)
            return constant(np.ascontiguousarray(moved), value.element_type)
        if value.shape.to_static() == full:
            return self.real(value, turn)
        plain = self.emit(Reshape(False), [self.real(value), constant(full, np.int64)])
        return self._relayout(plain, True) if turn else plain

    def prefers_last(self, values: Sequence[Value], rank: int) -> bool:
        """Whether an operation over these values should work channels last."""
        layouts = [f.layouts for v in values if len(v.shape) == rank and (f := self.form(v)).layouts]
        return rank > 2 and any(x == {True} for x in layouts)

    def _relayout(self, value: Value, last: bool) -> Value:
        shape = value.shape.to_static()
        order = channels_last(len(shape)) if last else channels_first(len(shape))
        target = tuple(shape[i] for i in order)
        moving = [i for i in order if shape[i] != 1]
        if moving == sorted(moving):
            return self.emit(Reshape(False), [value, constant(target, np.int64)])
        return self.emit(Transpose(), [value, constant(order, np.int64)])


def quantize_expr(x: Expr, inverse: Expr | float, zero_point: int, levels: int) -> Expr:
    """Codes 0 .. levels - 1 of `x`: FakeQuantize's rounding, half to the even code.

    With an even zero point it is the same to round before adding it. With an odd one, 1 is added before rounding and
    the rest after, so that a tie still goes to the even code.
    """
    scaled = x * inverse
    odd = zero_point % 2
    if odd:
        scaled = scaled + 1.0
    after = zero_point - odd
    rounded = rint_i32(clamp(scaled, float(-after), float(levels - 1 - after)))
    return cast(rounded + after if after else rounded, u8)


def quantize(x: Value, quant: QuantType, levels: int, last: bool) -> tuple[Elementwise, list[Value]]:
    """The operation and inputs that turn real `x` into codes."""
    inverse = (1.0 / quant.scale.astype(np.float64)).astype(np.float32)
    if quant.is_per_tensor:
        return Elementwise(quantize_expr(input_(0), float(inverse.reshape(())), quant.zero_point, levels)), [x]
    vector = constant(along(inverse, quant.axis or 0, len(x.shape), last))
    if quant.zero_points is None:
        return Elementwise(quantize_expr(input_(0), input_(1), quant.zero_point, levels)), [x, vector]
    # zero points are added before rounding, even and odd ones alike: a tie goes to the even code
    code = rint_i32(clamp(input_(0) * input_(1) + input_(2), 0.0, float(levels - 1)))
    zero_points = constant(along(quant.zero_points, quant.axis or 0, len(x.shape), last))
    return Elementwise(cast(code, u8)), [x, vector, zero_points]


def dequantize(codes: Value, quant: QuantType, last: bool) -> tuple[Elementwise, list[Value]]:
    """The operation and inputs that turn codes into real numbers: `(q - zero_point) * scale`."""
    q = cast(input_(0, u8), i32)
    centred = cast(q - quant.zero_point if quant.zero_point else q, f32)
    if quant.is_per_tensor:
        return Elementwise(centred * float(quant.scale.reshape(()))), [codes]
    vector = constant(along(quant.scale, quant.axis or 0, len(codes.shape), last))
    if quant.zero_points is None:
        return Elementwise(centred * input_(1)), [codes, vector]
    zero_points = constant(along(quant.zero_points, quant.axis or 0, len(codes.shape), last))
    return Elementwise((centred - input_(2)) * input_(1)), [codes, vector, zero_points]


def along(vector: Array, axis: int, rank: int, last: bool) -> Array:
    """A vector shaped to broadcast along public axis `axis` of a tensor in a layout."""
    shape = [1] * rank
    shape[physical_axis(axis, rank, last)] = vector.size
    return np.ascontiguousarray(vector.reshape(shape), np.float32)
