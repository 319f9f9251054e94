"""Softmax and attention, computed in float64 and rounded once.

Source: the OpenVINO operation set specification of the version that each class names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import PartialShape, broadcast
from lpir.ir.types import boolean
from lpir.ops.bases import normalize_axis
from lpir.record import record


def softmax(x: Array, axis: int) -> Array:
    """`e^(x - max) / sum(e^(x - max))` along `axis`."""
    if x.size == 0:
        return x
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(axis, keepdims=True))
        return np.asarray(e / e.sum(axis, keepdims=True))


@record
class AlongAxis(Op):
    """A floating point operation along one axis that keeps the shape."""

    axis: int = 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        if not x.type.is_float:
            raise ModelError(f"the data must be floating point, not {x.type}")
        if x.shape.rank is not None:
            normalize_axis(self.axis, x.shape.rank)
        return [TensorType(x.type, x.shape)]

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(8).normal(0, 3, (2, 3, 4, 5)).astype(np.float32)
        return [
            Case(cls(-1), (x,), "last"),
            Case(cls(1), (x,), "channels"),
            Case(cls(-2), (x[0],), "negative"),
            Case(cls(0), (x[0, 0, 0] * 100,), "vector, large"),
        ]


@op
class Softmax(AlongAxis):
    """`e^x / sum(e^x)` along `axis` (opset8)."""

    version: ClassVar[str] = "opset8"

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        return (softmax(x.astype(np.float64), self.axis).astype(x.dtype),)


@op
class LogSoftmax(AlongAxis):
    """`x - ln(sum(e^x))` along `axis` (opset5)."""

    version: ClassVar[str] = "opset5"

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        if x.size == 0:
            return (x,)
        shifted = x.astype(np.float64) - x.astype(np.float64).max(self.axis, keepdims=True)
        return ((shifted - np.log(np.exp(shifted).sum(self.axis, keepdims=True))).astype(x.dtype),)


@op
@record
class ScaledDotProductAttention(Op):
    """`softmax(query key^T * scale + mask) value` (opset13).

    Inputs: query `[..., L, E]`, key `[..., S, E]`, value `[..., S, Ev]`, optionally a mask that broadcasts to
    `[..., L, S]` (boolean: False is left out; float: added), optionally a scalar scale (default `1 / sqrt(E)`).
    causal: position i sees positions 0..i, and the mask input is not read.
    """

    version: ClassVar[str] = "opset13"
    arity: ClassVar[tuple[int, int | None]] = (3, 5)
    causal: bool = False

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        query, key, value = inputs[:3]
        for x in inputs[:3]:
            if not x.type.is_float or x.type != query.type:
                raise ModelError(f"query, key and value must share one float type, not {query.type} and {x.type}")
        if len(inputs) > 3 and inputs[3].type not in (boolean, query.type):
            raise ModelError(f"the mask must be boolean or {query.type}, not {inputs[3].type}")
        if any(x.shape.rank is None for x in inputs[:3]):
            return [TensorType(query.type, PartialShape(None))]
        for x in inputs[:3]:
            if len(x.shape) < 2:
                raise ModelError(f"query, key and value need at least two dimensions, not {x.shape}")
        if query.shape[-1].merge(key.shape[-1]) is None:
            raise ModelError(f"query {query.shape} and key {key.shape} differ in the last dimension")
        if key.shape[-2].merge(value.shape[-2]) is None:
            raise ModelError(f"key {key.shape} and value {value.shape} differ in length")
        batch = broadcast(*(PartialShape(tuple(x.shape)[:-2]) for x in inputs[:3]))
        return [TensorType(query.type, PartialShape((*batch, query.shape[-2], value.shape[-1])))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        query, key, value = (x.astype(np.float64) for x in inputs[:3])
        scale = inputs[4].astype(np.float64).reshape(()) if len(inputs) > 4 else query.shape[-1] ** -0.5
        scores = query @ np.swapaxes(key, -1, -2) * scale
        length, width = scores.shape[-2:]
        if self.causal:
            scores = np.where(np.tri(length, width, dtype=bool), scores, -np.inf)
        elif len(inputs) > 3:
            mask = inputs[3]
            scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
        return ((softmax(scores, -1) @ value).astype(inputs[0].dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(9)
        q, k, v = (rng.normal(0, 1, (2, 3, n, e)).astype(np.float32) for n, e in ((4, 8), (5, 8), (5, 6)))
        mask = rng.normal(0, 1, (4, 5)).astype(np.float32)
        keep = np.tri(4, 5, 1, dtype=bool)
        return [
            Case(cls(), (q, k, v), "plain"),
            Case(cls(), (q, k, v, mask), "float mask"),
            Case(cls(), (q, k, v, keep), "boolean mask"),
            Case(cls(), (q, k, v, mask, np.array(0.3, np.float32)), "scale"),
            Case(cls(True), (q, k, v), "causal"),
        ]
