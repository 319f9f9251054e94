"""Attention of the lowered dialect: two products and the softmax between them, a head at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Op, TensorType, lowered_op
from lpir.ir.shape import PartialShape
from lpir.ir.types import f32
from lpir.ops.lowered import LoweredMatMul, LoweredSoftmax, accumulator_of, epilogue_output, finish
from lpir.record import record
from lpir.scalar.expr import Expr, input_

IDENTITY = input_(0, f32)


@lowered_op
@record
class LoweredAttention(Op):
    """`softmax(scores(q k^T)) v`, then the epilogue; for every head of every batch.

    q `[B, H, M, D]`, k `[B, H, N, D]`, v `[B, H, N, E]`, result `[B, H, M, E]`; where `head_axes` (of q, k, v, result)
    is 2 instead of 1, axes 1 and 2 of that tensor are exchanged. q and k are u8 codes or float32, v is float32.

    `scores`: leaf 0 is the sum of products, as LoweredMatMul's; leaves 1 .. score_operands are inputs 3 .., broadcast
    to `[B, H, M, N]`. `epilogue`: leaf 0 is the float32 result, leaves 1 .. are the inputs behind those, broadcast to
    the result. Sums of the softmax and of its product with v may be reordered, and the quotient taken last.
    """

    arity: ClassVar[tuple[int, int | None]] = (3, None)
    head_axes: tuple[int, ...]
    q_zero_point: int
    k_zero_point: int
    score_operands: int
    scores: Expr
    epilogue: Expr

    def heads_first(self, index: int, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of q, k, v or the result (`index` 0 .. 3) as `[B, H, rows, columns]`, or back from it."""
        if self.head_axes[index] == 1:
            return tuple(shape)
        return shape[0], shape[2], shape[1], shape[3]

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        q, k, v = (self.heads_first(i, a.shape.to_static()) for i, a in enumerate(inputs[:3]))
        if q[:2] != k[:2] or k[:3] != v[:3] or q[3] != k[3]:
            raise ModelError(f"q {list(q)}, k {list(k)} and v {list(v)} do not fit each other")
        last = 3 + self.score_operands
        epilogue_output(self.scores, accumulator_of(inputs[0].type), (*q[:3], k[2]), inputs[3:last])
        shape = self.heads_first(3, (*q[:3], v[3]))
        epilogue_output(self.epilogue, f32, shape, inputs[last:])
        return [TensorType(self.epilogue.type, PartialShape.of(shape))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        q, k, v = (self._turned(i, x) for i, x in enumerate(inputs[:3]))
        last = 3 + self.score_operands
        product = LoweredMatMul(True, self.q_zero_point, self.k_zero_point, self.scores)
        (weights,) = LoweredSoftmax(IDENTITY).eval(*product.eval(q, k, *inputs[3:last]))
        result = self._turned(3, weights @ v)
        return (finish(self.epilogue, result, inputs[last:], result.shape),)

    def _turned(self, index: int, x: Array) -> Array:
        return x if self.head_axes[index] == 1 else np.ascontiguousarray(x.swapaxes(1, 2))
