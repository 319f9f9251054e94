"""Lowered selection of boxes: as many rows as there can be, and how many of them count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.ir.op import Arg, Array, Op, TensorType, lowered_op
from lpir.ir.shape import Dimension, PartialShape
from lpir.ops.sorting import NonMaxSuppression
from lpir.record import record


@lowered_op
@record
class PaddedSuppression(Op):
    """NonMaxSuppression whose outputs have `rows` rows, those behind the selected ones 0."""

    arity: ClassVar[tuple[int, int | None]] = (2, 6)
    suppression: NonMaxSuppression
    rows: int

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        indices, scores, count = self.suppression.infer(inputs)
        shape = PartialShape.of((self.rows, 3))
        return [TensorType(indices.element_type, shape), TensorType(scores.element_type, shape), count]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        indices, scores, count = self.suppression.eval(*inputs)
        padding = ((0, self.rows - len(indices)), (0, 0))
        return np.pad(indices, padding), np.pad(scores, padding), count


@lowered_op
@record
class FirstRows(Op):
    """The first rows of input 0; input 1 `[1]` says how many."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        rows, *rest = inputs[0].shape.to_static()
        return [TensorType(inputs[0].type, PartialShape((Dimension(0, rows), *(Dimension(n, n) for n in rest))))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[0][: int(inputs[1][0])],)
