"""The lowered convolution of an image as callers have it: float32, its channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.ir.op import Arg, Array, Op, TensorType, lowered_op
from lpir.ir.shape import PartialShape
from lpir.ops.lowered import LoweredConvolution, expanded
from lpir.record import record
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr


@lowered_op
@record
class ImageConvolution(Op):
    """`convolution` of the codes of an image `x [N, C, *S]`, which it reads as `[N, *S, C]`; inputs behind x are its.

    `codes`: the u8 code of an element of x, leaf 0.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, None)
    codes: Expr
    convolution: LoweredConvolution

    @property
    def epilogue(self) -> Expr:
        """What becomes of a sum."""
        return self.convolution.epilogue

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        batch, channels, *spatial = inputs[0].shape.to_static()
        moved = Arg(self.codes.type, PartialShape.of((batch, *spatial, channels)))
        return self.convolution.infer([moved, *inputs[1:]])

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        codes = evaluate(expanded(self.codes), inputs[:1])
        return self.convolution.eval(np.moveaxis(codes, 1, -1), *inputs[1:])
