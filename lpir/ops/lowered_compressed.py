"""The lowered product with weights that stay codes in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Op, TensorType, lowered_op
from lpir.ir.types import f32
from lpir.ops.lowered import epilogue_output, finish
from lpir.record import record
from lpir.scalar.expr import Expr


@lowered_op
@record
class CompressedMatMul(Op):
    """`a [*B, M, K]` times weights that are codes `[K, N]` (`[N, K]` with transpose_b) of 4 or 8 bits.

    Inputs: a (f32), codes, scale and zero point (both f32 `[G, N]`: group g is rows `g * K / G ...`), operands that
    broadcast to `[*B, M, N]`. A weight is `(f32(code) - zero_point) * scale`, each step rounded to float32. Leaf 0 of
    the epilogue is the float32 sum of `a * weight`: it may be reordered, and a scale may multiply the sum of its group.
    """

    arity: ClassVar[tuple[int, int | None]] = (4, None)
    transpose_b: bool
    epilogue: Expr

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        a, codes, scale, zero = (arg.shape.to_static() for arg in inputs[:4])
        if len(a) < 2 or len(codes) != 2 or len(scale) != 2:
            raise ModelError("the input needs at least two dimensions, the weights and their scales exactly two")
        k, n = codes[::-1] if self.transpose_b else codes
        if a[-1] != k or scale != zero or scale[1] != n or k % max(scale[0], 1):
            raise ModelError(f"a {list(a)}, weights {[k, n]} and scales {list(scale)} do not fit")
        return epilogue_output(self.epilogue, f32, (*a[:-1], n), inputs[4:])

    def weights(self, codes: Array, scale: Array, zero_point: Array) -> Array:
        """The weights `[K, N]` that the codes stand for."""
        rows = (codes.T if self.transpose_b else codes).astype(np.float32)
        groups, n = scale.shape
        grouped = rows.reshape(groups, -1, n) - zero_point[:, None]
        return (grouped * scale[:, None]).reshape(-1, n)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        a, codes, scale, zero_point, *operands = inputs
        sums = a @ self.weights(codes, scale, zero_point)
        return (finish(self.epilogue, sums, operands, sums.shape),)
