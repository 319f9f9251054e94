"""LoweredMatMul of u8 activations with u8 activations: attention on codes, exact in int32.

The right operand is brought into the order of the dot product first, `[K / 4, N, 4]` bytes; where the dot product of
bytes is not exact for all bytes, both operands become int16 and the right one `[K / 2, N, 2]`. Positions behind K hold
what multiplies to 0. Sums of rows and columns for the zero points are reductions of their own, left out where they do
not count: codes with zero point 128 on the right, 0 on the left.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import reduce
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.convolution_f32 import ONE_RUN, Left, Product, Right, batch_offsets
from lpir.devices.cpu.kernels.copy import View, copy
from lpir.devices.cpu.kernels.elementwise import Source, apply, unsupported
from lpir.devices.cpu.kernels.epilogue import Rows
from lpir.devices.cpu.kernels.fgemm import Shape
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import i8, i16, i32, u8
from lpir.ops.lowered import LoweredMatMul
from lpir.scalar.expr import cast, input_

# the largest K whose sums stay in int32
MAX_K = (2**31 - 1) // (255 * 255)


class MatMulCodes(Kernel):
    """Batched product of two operands that are codes; the right one may be int8 too."""

    name: ClassVar[str] = "gemm_codes"
    ops: ClassVar[tuple[type[Op], ...]] = (LoweredMatMul,)
    rank = 20

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredMatMul)
        a, b = node.inputs[:2]
        if a.element_type != u8 or b.element_type not in (u8, i8):
            return f"the inputs are {a.element_type} and {b.element_type}, not codes"
        if a.shape.to_static()[-1] > MAX_K:
            return f"{a.shape.to_static()[-1]} products can overflow an int32 sum"
        return unsupported(op.epilogue, isa)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        return _Codes(node, isa, ctx).steps()


class _Codes:
    """Builds one product: collects the steps that come before it."""

    def __init__(self, node: Node, isa: Isa, ctx: BuildContext) -> None:
        self.node, self.isa, self.ctx = node, isa, ctx
        op = node.op
        assert isinstance(op, LoweredMatMul)
        self.op = op
        self.a, self.b = (v.shape.to_static() for v in node.inputs[:2])
        self.out = node.output.shape.to_static()
        self.k, self.n = self.a[-1], self.out[-1]
        # codes a step of the inner loop, and bytes a code
        self.per, self.size = (4, 1) if isa.exact else (2, 2)
        self.before: list[Step] = []

    def steps(self) -> list[Step]:
        node, ctx, out, b = self.node, self.ctx, self.out, self.b
        shared = math.prod(b[:-2]) == 1 and self.a[:-1] == out[:-1]
        groups, m = (1, math.prod(out[:-1])) if shared else (math.prod(out[:-2]), out[-2])
        inner = -(-self.k // self.per)
        codes = self._as_u8()
        sums = self._sums(codes, groups, m)
        left = Left(
            self._left(), Rows(self.k * self.size), self._offsets(self.a, groups, m * self.k * self.size), ONE_RUN
        )
        matrix = inner * self.n * 4
        right = Right(self._right(codes, inner), ctx.constant(self._offsets(b, groups, matrix)), packed=False)
        product = Product(node, self.isa, ctx, Shape(groups, m, self.n, 1, inner), packed=False)
        arithmetic = "bytes" if self.per == 4 else "words"
        return [*self.before, *product.steps(left, right, True, arithmetic, sums)]

    def _offsets(
        self, shape: tuple[int, ...], groups: int, matrix: int
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return batch_offsets(shape, self.out, groups, matrix)

    def _as_u8(self) -> Ref:
        """The right operand as u8 codes; int8 ones become 128 more."""
        value = self.node.inputs[1]
        at = self.ctx.ref(value)
        if value.element_type == u8:
            return at
        moved = self.ctx.scratch(math.prod(self.b))
        expr = cast(cast(input_(0, i8), i32) + 128, u8)
        self.before.append(apply(self.isa, expr, [Source(at, self.b, i8)], moved, self.b, self.ctx.threads))
        return moved

    def _left(self) -> Ref:
        """The left operand, as int16 where words are multiplied."""
        at = self.ctx.ref(self.node.inputs[0])
        if self.size == 1:
            return at
        wide = self.ctx.scratch(2 * math.prod(self.a))
        expr = cast(input_(0, u8), i16)
        self.before.append(apply(self.isa, expr, [Source(at, self.a, u8)], wide, self.a, self.ctx.threads))
        return wide

    def _right(self, codes: Ref, inner: int) -> Ref:
        """The right operand as `[batch, inner, N, per]`."""
        isa, ctx, k, n, per, size = self.isa, self.ctx, self.k, self.n, self.per, self.size
        batch, turned = math.prod(self.b[:-2]), self.op.transpose_b
        at = codes
        if size == 2:
            at = ctx.scratch(2 * math.prod(self.b))
            expr = cast(cast(input_(0, u8), i32) - 128, i16)
            self.before.append(apply(isa, expr, [Source(codes, self.b, u8)], at, self.b, ctx.threads))
        out = ctx.scratch(batch * inner * n * 4)
        whole, rest = divmod(k, per)
        if turned and not rest:
            # whole groups of codes move as elements of 4 bytes
            source, to = View(at, (n * whole, 1, whole)), View(out, (inner * n, n, 1))
            self.before += copy(isa, 4, (batch, whole, n), source, to, ctx.threads)
            return out
        row, column = (1, k) if turned else (n, 1)
        to_strides = (inner * n * per, n * per, per, 1)
        source = View(at, (k * n, per * row, column, row))
        self.before += copy(isa, size, (batch, whole, n, per), source, View(out, to_strides), ctx.threads)
        if rest:
            last = out + whole * n * per * size
            source = View(at + whole * per * row * size, (k * n, column, row))
            strides = (to_strides[0], per, 1)
            self.before += copy(isa, size, (batch, n, rest), source, View(last, strides), ctx.threads)
            neutral = ctx.constant(np.full(64, 128, np.uint8) if size == 1 else np.zeros(64, np.uint8))
            end = View(last + rest * size, strides)
            self.before += copy(isa, size, (batch, n, per - rest), View(neutral, (0, 0, 0)), end, ctx.threads)
        return out

    def _sums(self, codes: Ref, groups: int, m: int) -> dict[str, int | Ref]:
        """Parameters for the sums of codes that the zero points need."""
        ctx, op, k, n = self.ctx, self.op, self.k, self.n
        # the codes that are multiplied are 128 less; int8 codes were raised by as much
        right = op.b_zero_point - (128 if self.node.inputs[1].element_type == u8 else 0)
        found: dict[str, int | Ref] = {}
        if op.a_zero_point:
            batch = math.prod(self.b[:-2])
            sums = ctx.scratch(4 * batch * n)
            sizes = (batch * n, k, 1) if op.transpose_b else (batch, k, n)
            self._reduce(codes, sums, sizes, 128, "reduced" if op.transpose_b else "inner")
            found |= {"column_sums": sums, "column_groups": ctx.constant(self._offsets(self.b, groups, n))}
            found |= {"column_factor": -op.a_zero_point, "base": k * op.a_zero_point * right}
        if right:
            rows = math.prod(self.a[:-1])
            sums = ctx.scratch(4 * rows)
            self._reduce(ctx.ref(self.node.inputs[0]), sums, (rows, k, 1), 0, "reduced")
            found |= {"row_sums": sums, "row_groups": ctx.constant(self._offsets(self.a, groups, m))}
            found |= {"row_factor": -right}
        return found

    def _reduce(self, x: Ref, out: Ref, sizes: tuple[int, int, int], zero_point: int, along: str) -> None:
        code = reduce.kernel(self.isa, "sum", "u8", along)
        names = dict(zip(("outer", "reduced", "inner"), sizes, strict=True))
        self.before.append(Step.of(code, {"x": x, "out": out, "zero_point": zero_point, **names}))


KERNELS: list[Kernel] = [MatMulCodes()]
