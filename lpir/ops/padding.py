"""Pad: a border around a tensor, or a crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import InputError, ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ops.bases import integers
from lpir.ops.windows import LARGEST, checked
from lpir.record import record

MODES = ("constant", "edge", "reflect", "symmetric")


@op
@record
class Pad(Op):
    """`y[i] = x[i - pads_begin]`, and outside of `x` what pad_mode says (OpenVINO opset12 Pad).

    "constant": the pad value; "edge": the nearest element; "reflect": mirrored about the edge element; "symmetric":
    mirrored with the edge element doubled. Negative pads crop. Inputs: x, pads_begin, pads_end, pad value (default 0).
    """

    version: ClassVar[str] = "opset12"
    arity: ClassVar[tuple[int, int | None]] = (3, 4)
    pad_mode: str

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, begin_arg, end_arg = inputs[:3]
        if self.pad_mode not in MODES:
            raise ModelError(f"pad_mode must be one of {', '.join(MODES)}, not {self.pad_mode!r}")
        if len(inputs) > 3 and inputs[3].type != x.type:
            raise ModelError(f"the input is {x.type} and the pad value {inputs[3].type}; they must be of one type")
        if x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        if begin_arg.value is None or end_arg.value is None:
            return [TensorType(x.type, PartialShape((ANY,) * len(x.shape)))]
        begin, end = integers(begin_arg, "pads_begin"), integers(end_arg, "pads_end")
        if len(begin) != len(x.shape) or len(end) != len(x.shape):
            raise ModelError(f"{len(begin)} and {len(end)} pads for the {len(x.shape)} axes of {x.shape}")
        dims = [self._dimension(d, b, e) for d, b, e in zip(x.shape, begin, end, strict=True)]
        return [TensorType(x.type, checked(dims))]

    def _dimension(self, dim: Dimension, begin: int, end: int) -> Dimension:
        if max(abs(begin), abs(end)) > LARGEST:
            raise ModelError(f"padding {begin} and {end} is too large")
        if dim.hi is not None:
            if dim.hi + begin + end < 0:
                raise ModelError(f"padding {begin} and {end} crops more than the length {dim}")
            most = max(begin, end, 0)
            room = {"reflect": dim.hi - 1, "symmetric": dim.hi, "edge": most if dim.hi else 0}.get(self.pad_mode, most)
            if most > max(room, 0):
                raise ModelError(f"padding {begin} and {end} is too much for pad_mode {self.pad_mode} and length {dim}")
        return Dimension(max(dim.lo + begin + end, 0), None if dim.hi is None else dim.hi + begin + end)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        begin, end = ([int(v) for v in a.reshape(-1)] for a in inputs[1:3])
        y = x
        outside: Array = np.zeros((1,) * x.ndim, bool)
        for axis, (b, e, n) in enumerate(zip(begin, end, x.shape, strict=True)):
            if b == 0 and e == 0:
                continue
            places = np.arange(-b, n + e)
            mask = ((places < 0) | (places >= n)).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
            if self.pad_mode == "constant":
                outside = outside | mask
            elif n == 0 and mask.any():
                raise InputError(f"pad_mode {self.pad_mode} finds no element along the empty axis {axis}")
            places = _inside(places, n, self.pad_mode)
            y = (
                np.take(y, places, axis)
                if n
                else np.zeros((*y.shape[:axis], len(places), *y.shape[axis + 1 :]), x.dtype)
            )
        if outside.any():
            value = inputs[3].reshape(()) if len(inputs) > 3 else np.zeros((), x.dtype)
            y = np.where(outside, value, y)
        return (y.astype(x.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)

        def case(name: str, mode: str, begin: list[int], end: list[int], *value: float) -> Case:
            values = tuple(np.array(v, np.float32) for v in value)
            return Case(cls(mode), (x, np.array(begin), np.array(end), *values), name)

        return [
            case("constant", "constant", [0, 1, 2], [1, 0, 3], 7.5),
            case("constant_default", "constant", [0, 1, 2], [1, 0, 3]),
            case("edge", "edge", [1, 0, 2], [0, 4, 1]),
            case("reflect", "reflect", [1, 2, 0], [0, 1, 3]),
            case("symmetric", "symmetric", [2, 0, 1], [1, 3, 4]),
            case("crop", "constant", [0, -1, 1], [0, 0, -2], 1.0),
            case("crop_edge", "edge", [0, 1, -1], [0, -2, 2]),
            case("crop_reflect", "reflect", [0, -1, 1], [0, 1, -1]),
            case("nothing", "constant", [0, 0, 0], [0, 0, 0], 1.0),
        ]


def _inside(places: Array, length: int, mode: str) -> Array:
    """Which element each place, in or outside of 0 .. length - 1, shows."""
    if mode == "reflect":
        places = np.abs(places)
        places = (length - 1) - np.abs(length - 1 - places)
    elif mode == "symmetric":
        places = np.where(places < 0, -places - 1, places)
        places = np.where(places >= length, 2 * length - 1 - places, places)
    return np.clip(places, 0, max(length - 1, 0))
