"""LoweredConvolution and LoweredMatMul with u8 activations and constant weights, in AMX's tile registers."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import amx_gemm, amx_stream, amx_wide
from lpir.devices.cpu.kernels.amx_blocks import DEPTH, LANES, Array, computes_once
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.channel_parts import parts_of
from lpir.devices.cpu.kernels.convolution_int8 import ConvolutionInt8, MatMulInt8, weights_of
from lpir.devices.cpu.kernels.epilogue import Bound, Rows
from lpir.devices.cpu.kernels.interleaved_rows import Interleaving
from lpir.devices.cpu.kernels.product_int8 import Product
from lpir.devices.cpu.kernels.rounding import MAGIC_BITS, by_additions, starts_from_magic
from lpir.devices.cpu.kernels.rows import bind_operand, operand_of, row_bytes, row_offsets
from lpir.ir.graph import Node, Value
from lpir.ir.types import u8
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul


def refuse_tiles(isa: Isa, channels: int, out: Value) -> str | None:
    """Why tiles cannot hold `channels` output channels a group, or tables the rows of `out`, or None."""
    if not isa.tiles:
        return f"{isa.name} has no tile registers"
    if channels < LANES:
        return f"{channels} output channels a group are fewer than the {LANES} of a tile"
    if math.prod(out.shape.to_static()[:-1]) * row_bytes(out) >= 1 << 31:
        return "the output is larger than 2 GiB"
    return None


def amx_step(product: Product, isa: Isa, ctx: BuildContext) -> Step:
    """The product by tiles."""
    if refuse_wide(product) is None:
        return wide_step(product, isa, ctx)
    groups, _, length, n = product.w.shape
    epilogue = product.finish(by_additions)
    start = MAGIC_BITS if starts_from_magic(epilogue.expr) else 0
    zero = start == product.zero_point == 0
    gemm = amx_gemm.build(isa, product.offsets, n, product.runs, length, epilogue, groups, zero)
    rows = gemm.rows
    pixels = rows.block_pixels()
    pitch = ctx.pitch(product.node.outputs[0])
    weights, sums = gemm.pack(product.w)
    call = amx_gemm.Call(
        x=product.x,
        weights=ctx.constant(weights),
        init=ctx.constant((start - product.zero_point * sums.astype(np.int64)).astype(np.int32)),
        config=ctx.constant(gemm.config()),
        out=ctx.ref(product.node.outputs[0]),
        out_stride=pitch,
        operands=[_bind(v, product.out, pixels, ctx) for v in product.node.inputs[2:]],
        starts=ctx.constant(rows.tile_starts(gemm.m)),
        outs=ctx.constant((pixels.astype(np.int64) * pitch).astype(np.int32)),
        offsets=ctx.constant(gemm.offsets),
        x_group=product.group_bytes,
    )
    return Step(gemm.kernel, tuple(gemm.params(call, ctx.threads)))


def _bind(value: Value, out: Sequence[int], pixels: Array, ctx: BuildContext) -> Bound:
    """The buffer of an operand; a tensor's rows beside `pixels`, and between those of neighbors."""
    if operand_of(value, out).kind != "tensor":
        return bind_operand(value, out, ctx)
    table = row_offsets(value, out)[pixels].astype(np.int32)
    return Bound(ctx.ref(value), Rows(row_bytes(value), ctx.constant(table)))


def refuse_wide(product: Product) -> str | None:
    """Why `amx_wide` is not for a product, or None."""
    groups, runs, length, n = product.w.shape
    if groups > 1 or runs > 1:
        return "more than one run of channels"
    if any(constant_data(v) is None for v in product.node.inputs[2:]):
        return "an operand is not constant"
    return amx_wide.refuse(product.offsets, n, length, product.finish())


def wide_step(product: Product, isa: Isa, ctx: BuildContext) -> Step:
    """The product by blocks of 64 channels."""
    finish = product.finish(functools.partial(by_additions, packing=amx_wide.PACKING))
    start = MAGIC_BITS if starts_from_magic(finish.expr) else 0
    _, _, length, n = product.w.shape
    gemm = amx_wide.build(isa, product.offsets, n, length, finish)
    weights, sums = gemm.pack_wide(product.w[0, 0])
    operands = []
    for operand, value in zip(finish.operands, product.node.inputs[2:], strict=True):
        data = np.asarray(constant_data(value)).reshape(-1)
        operands.append(Bound(ctx.constant(data[gemm.order] if operand.kind == "vector" else data)))
    call = amx_gemm.Call(
        x=product.x,
        weights=ctx.constant(weights),
        init=ctx.constant((start - product.zero_point * sums.astype(np.int64)).astype(np.int32)),
        config=ctx.constant(gemm.config()),
        out=ctx.ref(product.node.outputs[0]),
        out_stride=ctx.pitch(product.node.outputs[0]),
        operands=operands,
        starts=0 if gemm.rows.starts is None else ctx.constant(gemm.starts),
    )
    return Step(gemm.kernel, tuple(gemm.params(call, ctx.threads)))


class ConvolutionAmx(ConvolutionInt8):
    """Convolution of any rank, grouped too; a padded copy of the input comes first where there is padding."""

    name = "amx_convolution"
    rank = 8

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        outputs = node.inputs[1].shape.to_static()[-1]
        return refuse_tiles(isa, outputs // op.groups, node.outputs[0]) or super().applies(node, isa)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        return _interleaved(node, isa, ctx) or _streamed(node, isa, ctx) or super().build(node, isa, ctx)

    def reuses(self, node: Node) -> tuple[int, ...]:
        """A tensor that is added, where each result is computed once, right behind what it is added to."""
        op = node.op
        assert isinstance(op, LoweredConvolution)
        *kernel, _, n = node.inputs[1].shape.to_static()
        out = node.outputs[0].shape.to_static()
        if math.prod(kernel) > 1 or math.prod(op.strides) > 1 or op.groups > 1 or any((*op.pads_begin, *op.pads_end)):
            return ()
        if not computes_once(math.prod(out[:-1]), n):
            return ()
        added = [v for v in node.inputs[2:] if v.element_type == u8 and v.shape == out and v is not node.inputs[0]]
        return tuple(node.inputs.index(v) for v in added)

    def step(self, product: Product, isa: Isa, ctx: BuildContext) -> Step:
        return amx_step(product, isa, ctx)


def _interleaved(node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
    """The steps of an image's first layer, whose windows become one run of bytes; none where that is no gain."""
    op = node.op
    assert isinstance(op, LoweredConvolution)
    assert isinstance(op.x_zero_point, int)
    w = weights_of(node)
    image = Interleaving(op, node.inputs[0].shape.to_static(), w.shape[:-2], node.outputs[0].shape.to_static())
    if w.dtype != np.int8 or image.refuse() is not None:
        return []
    copy = ctx.scratch(image.nbytes) + image.lead
    product = Product(node, op.x_zero_point, copy, image.offsets, (0,), image.weights(w)[None, None], 0)
    if refuse_wide(product) is not None:
        return []
    return [image.step(ctx.ref(node.inputs[0]), copy, isa, ctx), wide_step(product, isa, ctx)]


def _streamed(node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
    """The steps of a convolution with few rows and many weights; none where that is no gain."""
    op = node.op
    assert isinstance(op, LoweredConvolution)
    assert isinstance(op.x_zero_point, int)
    w, out = weights_of(node), node.outputs[0].shape.to_static()
    if w.dtype != np.int8 or op.groups > 1 or w.nbytes < amx_stream.LEAST_WEIGHTS:
        return []
    image = parts_of(op, node.inputs[0].shape.to_static(), out, w.shape[:-2])
    if image is None:
        return []
    x = ctx.ref(node.inputs[0])
    taps, steps = image.taps(), image.step_offsets(DEPTH)
    packed = w.reshape(1, len(taps), *w.shape[-2:])
    offsets = image.offsets(out[:-1])
    product = Product(node, op.x_zero_point, x, offsets, tuple(taps.tolist()), packed, 0)
    epilogue = product.finish(by_additions)
    start = MAGIC_BITS if starts_from_magic(epilogue.expr) else 0
    gemm = amx_stream.build(isa, offsets, steps, image.parts, w.shape[-1], epilogue, start == product.zero_point == 0)
    if gemm is None:
        return []
    copies: list[Step] = []
    if image.is_copy:
        x = ctx.scratch(image.nbytes)
        copies = image.steps(product.x, x, op.x_zero_point & 255, ctx)
    weights, sums = gemm.pack(packed[0])
    assert gemm.rows.starts is not None
    assert gemm.rows.pixels is not None
    call = amx_gemm.Call(
        x=x,
        weights=ctx.constant(weights),
        init=ctx.constant((start - product.zero_point * sums.astype(np.int64)).astype(np.int32)),
        config=ctx.constant(gemm.config()),
        out=ctx.ref(node.outputs[0]),
        out_stride=ctx.pitch(node.outputs[0]),
        operands=product.bound(ctx),
        offsets=ctx.constant(steps),
        starts=ctx.constant(gemm.rows.starts),
        pixels=ctx.constant(gemm.rows.pixels),
    )
    waiting = ctx.scratch(gemm.waiting_bytes) if gemm.waiting_bytes else 0
    return [*copies, Step(gemm.kernel, tuple(gemm.params(call, waiting)))]


class MatMulAmx(MatMulInt8):
    """MatMul of activations with one constant matrix."""

    name = "amx_matmul"
    rank = 8

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredMatMul)
        b = node.inputs[1].shape.to_static()
        outputs = b[-2] if op.transpose_b else b[-1]
        return refuse_tiles(isa, outputs, node.outputs[0]) or super().applies(node, isa)

    def step(self, product: Product, isa: Isa, ctx: BuildContext) -> Step:
        return amx_step(product, isa, ctx)


KERNELS: list[Kernel] = [ConvolutionAmx(), MatMulAmx()]
