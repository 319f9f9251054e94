"""LoweredConvolution and LoweredMatMul in float32, as matrix products (`fgemm`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import fgemm
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.copy import View, copy
from lpir.devices.cpu.kernels.elementwise import Source, apply, unsupported
from lpir.devices.cpu.kernels.epilogue import Rows
from lpir.devices.cpu.kernels.fgemm import Call, Shape
from lpir.devices.cpu.kernels.fgemm_print import Form
from lpir.devices.cpu.kernels.geometry import broadcast_strides, dense_strides
from lpir.devices.cpu.kernels.rows import (
    bind_operand,
    grid_offsets,
    operand_of,
    pad_step,
    refuse_operands,
)
from lpir.ir.graph import Node
from lpir.ir.types import f32
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul, accumulator_of, expanded
from lpir.record import record
from lpir.scalar.expr import input_

Array = np.ndarray[Any, np.dtype[Any]]


def refuse(node: Node, isa: Isa) -> str | None:
    """Why a product of inputs 0 and 1 is not float32 or has an epilogue that cannot be printed, or None."""
    for number, value in enumerate(node.inputs[:2]):
        if value.element_type != f32:
            return f"input {number} is {value.element_type}, not f32"
        if math.prod(value.shape.to_static()) >= 1 << 29:
            return f"input {number} is larger than 2 GiB"
    op = node.op
    assert isinstance(op, LoweredConvolution | LoweredMatMul)
    shape = node.inputs[0].shape.to_static()
    if isinstance(op, LoweredConvolution):
        pads = zip(shape[1:-1], op.pads_begin, op.pads_end, strict=True)
        shape = (shape[0], *(n + b + e for n, b, e in pads), shape[-1])
    if max(math.prod(shape), math.prod(node.output.shape.to_static())) >= 1 << 29:
        return "the padded input or the output is larger than 2 GiB"
    return unsupported(op.epilogue, isa)


class ConvolutionF32(Kernel):
    """Convolution of any rank, grouped too; a padded copy of the input comes first where there is padding."""

    name = "fgemm_convolution"
    ops = (LoweredConvolution,)
    rank = 10

    def applies(self, node: Node, isa: Isa) -> str | None:
        return refuse(node, isa) or ("the weights are not constant" if constant_data(node.inputs[1]) is None else None)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        x, shape, steps = padded_input(node, op, ctx)
        out = node.output.shape.to_static()
        strides = tuple(4 * s for s in dense_strides(shape))
        taps, w = tap_runs(np.asarray(constant_data(node.inputs[1])), op, strides)
        groups, runs, channels, n = w.shape
        moves = [s * t for s, t in zip(op.strides, strides[1:-1], strict=True)]
        offsets = grid_offsets(out[:-1], (strides[0], *moves))
        sizes = Shape(groups, math.prod(out[:-1]), n, runs, channels)
        product = Product(node, isa, ctx, sizes, packed=True)
        group = np.arange(groups, dtype=np.int64) * (shape[-1] // groups * 4)
        left = Left(x, rows_of(offsets, ctx), group, taps)
        return [*steps, *product.steps(left, product.pack(w.reshape(groups, runs * channels, n)), batched=False)]


def padded_input(node: Node, op: LoweredConvolution, ctx: BuildContext) -> tuple[Ref, tuple[int, ...], list[Step]]:
    """Input 0 with its padding: where it is, its shape, and the step that copies it if there is padding."""
    shape = node.inputs[0].shape.to_static()
    x = ctx.ref(node.inputs[0])
    if not any((*op.pads_begin, *op.pads_end)):
        return x, shape, []
    pads = [b + e for b, e in zip(op.pads_begin, op.pads_end, strict=True)]
    padded = (shape[0], *(n + p for n, p in zip(shape[1:-1], pads, strict=True)), shape[-1])
    copied = ctx.scratch(math.prod(padded) * 4)
    in_bytes = (*shape[:-1], shape[-1] * 4)
    return copied, padded, [pad_step(x, copied, in_bytes, op.pads_begin, op.pads_end, 0, ctx)]


def tap_runs(w: Array, op: LoweredConvolution, strides: Sequence[int]) -> tuple[Array, Array]:
    """Byte offset of each contiguous run of weights, and `w` [*K, C/g, O] as [G, runs, length, O/g].

    Neighboring taps of the last spatial axis are one run where one group has the whole pixel.
    """
    *kernel, channels, outputs = w.shape
    moves = [d * s for d, s in zip(op.dilations, strides[1:-1], strict=True)]
    whole = op.groups == 1 and op.dilations[-1] == 1
    length = channels * kernel[-1] if whole else channels
    sizes = kernel[:-1] if whole else kernel
    grouped = w.reshape(-1, length, op.groups, outputs // op.groups).transpose(2, 0, 1, 3)
    return grid_offsets(sizes, moves[: len(sizes)]), np.ascontiguousarray(grouped)


def cut_runs(shape: Shape, taps: Array, length: int) -> tuple[Shape, Array]:
    """A product whose runs of channels, `taps` bytes behind the rows, are cut into runs of `length`."""
    pieces = np.arange(0, shape.channels, length, dtype=np.int64) * 4
    cut = (taps[:, None] + pieces).reshape(-1)
    return replace(shape, taps=len(cut), channels=length), cut


def rows_of(offsets: Array, ctx: BuildContext) -> Rows:
    """A stride where rows follow each other at one distance, a table otherwise."""
    stride = int(offsets[1]) if len(offsets) > 1 else 0
    if np.array_equal(offsets, np.arange(len(offsets)) * stride):
        return Rows(stride)
    return Rows(table=ctx.constant(offsets.astype(np.int32)))


class MatMulF32(Kernel):
    """MatMul of any two operands, batched too. A constant right one is packed, others are transposed if need be."""

    name = "fgemm_matmul"
    ops = (LoweredMatMul,)
    rank = 10

    def applies(self, node: Node, isa: Isa) -> str | None:
        return refuse(node, isa)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredMatMul)
        a, b = (v.shape.to_static() for v in node.inputs[:2])
        out = node.output.shape.to_static()
        k, n = a[-1], out[-1]
        shared = math.prod(b[:-2]) == 1
        # one matrix for the whole batch: all rows are one product
        groups, m = (1, math.prod(out[:-1])) if shared and a[:-1] == out[:-1] else (math.prod(out[:-2]), out[-2])
        sizes = Shape(groups, m, n, 1, k)
        left = Left(ctx.ref(node.inputs[0]), Rows(k * 4), batch_offsets(a, out, groups, m * k * 4), ONE_RUN)
        w = constant_data(node.inputs[1])
        if w is not None and shared:
            matrix = w.reshape(b[-2:]).T if op.transpose_b else w.reshape(b[-2:])
            product = Product(node, isa, ctx, sizes, packed=True)
            return product.steps(left, product.pack(matrix[None]), batched=True)
        steps: list[Step] = []
        at = ctx.ref(node.inputs[1])
        if op.transpose_b:
            batch = math.prod(b[:-2])
            turned = ctx.scratch(batch * k * n * 4)
            view = View(turned, (k * n, n, 1))
            steps = copy(isa, 4, (batch, k, n), View(at, (k * n, 1, k)), view, ctx.threads)
            at = turned
        right = Right(at, ctx.constant(batch_offsets(b, out, groups, k * n * 4)), packed=False)
        return [*steps, *Product(node, isa, ctx, sizes, packed=False).steps(left, right, batched=True)]


# the byte offsets of the runs of channels where there is only one
ONE_RUN = np.zeros(1, np.int64)


def batch_offsets(shape: Sequence[int], out: Sequence[int], groups: int, matrix: int) -> Array:
    """Where the matrix of an operand `[*B, _, _]` for each matrix of the output starts; `matrix`: its size."""
    if groups == 1:
        return np.zeros(1, np.int64)
    return grid_offsets(out[:-2], [s * matrix for s in broadcast_strides(shape[:-2], out[:-2])])


@record
class Right:
    """The right operand of a product: a pointer, byte offsets of its groups, and whether it is packed for the tile."""

    at: Ref
    groups: Ref
    packed: bool


@record
class Left:
    """The left operand of a product: a pointer, its rows, byte offsets (int64) of groups and of runs of channels."""

    at: Ref
    rows: Rows
    groups: Array
    taps: Array


class Product:
    """One product with the epilogue and the operands (from input 2) of `node`."""

    def __init__(self, node: Node, isa: Isa, ctx: BuildContext, shape: Shape, packed: bool) -> None:
        self.node, self.isa, self.ctx, self.shape = node, isa, ctx, shape
        op = node.op
        assert isinstance(op, LoweredConvolution | LoweredMatMul)
        self.type = accumulator_of(node.inputs[0].element_type)
        # operands that cannot be read along rows get an elementwise step of their own
        self.fused = refuse_operands(node, 2) is None
        self.whole = op.epilogue
        self.epilogue = op.epilogue if self.fused else input_(0, self.type)
        self.operations = sum(1 for e in expanded(self.epilogue).walk() if e.args)
        question = f"fgemm {shape.groups} x {shape.m} x {shape.n} x {shape.taps} x {shape.channels} {packed}"
        self.tile = ctx.pick(question, fgemm.tiles(isa, shape, packed, self.operations))

    def pack(self, w: Array) -> Right:
        """Constant weights [G, K, N], in the order of the tile. One matrix serves every group of a batch."""
        packed = fgemm.pack(w, self.isa, self.tile)
        each = packed[0].nbytes if len(packed) > 1 else 0
        groups = np.arange(self.shape.groups, dtype=np.int64) * each
        return Right(self.ctx.constant(packed), self.ctx.constant(groups), packed=True)

    def steps(
        self,
        left: Left,
        right: Right,
        batched: bool,
        arithmetic: str = "float",
        sums: Mapping[str, int | Ref] | None = None,
    ) -> list[Step]:
        """The product; `batched`, `sums`: see `fgemm.Call`."""
        node, ctx = self.node, self.ctx
        out = node.output.shape.to_static()
        values = node.inputs[2:] if self.fused else ()
        known = sums or {}
        packed = right.packed and arithmetic == "float"
        order = fgemm.schedule(self.isa, self.shape, self.tile, ctx.threads, packed, self._left_bytes())
        shape, taps = cut_runs(self.shape, left.taps, order.cut.length)
        unroll = fgemm.unroll_of(self.tile, shape.channels, self.operations)
        parts = order.cut.parts > 1
        form = Form(
            packed=right.packed,
            taps=len(taps) > 1,
            narrow=shape.n < self.isa.lanes(),
            x_table=left.rows.table is not None,
            unroll=unroll,
            arithmetic=arithmetic,
            row_sums="row_sums" in known,
            column_sums="column_sums" in known,
            parts=parts,
            prefetch=fgemm.weights_ahead(self.isa, self.tile, unroll, order.chunk_tiles)[1] if order.streams else 0,
        )
        call = Call(
            x=left.at,
            x_rows=left.rows,
            x_groups=ctx.constant(left.groups),
            w=right.at,
            w_groups=right.groups,
            taps=ctx.constant(taps),
            out=ctx.ref(node.output) if self.fused else ctx.scratch(4 * math.prod(out)),
            operands=[bind_operand(v, out, ctx) for v in values],
            batched=batched,
            sums=known,
            zeros=ctx.constant(np.zeros(self.tile.rows * self.tile.vectors * self.isa.lanes(), np.float32))
            if parts
            else 0,
            kept=ctx.scratch(order.kept_bytes(self.isa, self.tile) * ctx.threads) if parts else 0,
        )
        operands = [operand_of(v, out) for v in values]
        step = fgemm.step(self.isa, shape, self.tile, form, self.epilogue, operands, call, order)
        return [step] if self.fused else [step, self._rest(call.out)]

    def _left_bytes(self) -> int:
        """Bytes of the left operand that a group reads: taps of a convolution overlap, strides leave some out."""
        whole = 4 * math.prod(self.node.inputs[0].shape.to_static()) // self.shape.groups
        return min(whole, 4 * self.shape.m * self.shape.taps * self.shape.channels)

    def _rest(self, sums: Ref) -> Step:
        """The epilogue as an elementwise step."""
        ctx, out = self.ctx, self.node.output.shape.to_static()
        sources = [Source(sums, out, self.type)]
        sources += [Source(ctx.ref(v), v.shape.to_static(), v.element_type) for v in self.node.inputs[2:]]
        return apply(self.isa, self.whole, sources, ctx.ref(self.node.output), out, ctx.threads)


KERNELS: list[Kernel] = [ConvolutionF32(), MatMulF32()]
