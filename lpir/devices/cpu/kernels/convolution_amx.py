"""LoweredConvolution and LoweredMatMul with u8 activations and constant weights, in AMX's tile registers."""

from __future__ import annotations

import numpy as np

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import amx_gemm, amx_wide
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.convolution_int8 import ConvolutionInt8, MatMulInt8
from lpir.devices.cpu.kernels.epilogue import Bound
from lpir.devices.cpu.kernels.product_int8 import Product
from lpir.ir.graph import Node
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul


def refuse_tiles(isa: Isa, channels: int) -> str | None:
    """Why tiles cannot hold `channels` output channels a group, or None."""
    if not isa.tiles:
        return f"{isa.name} has no tile registers"
    if channels < amx_gemm.LANES:
        return f"{channels} output channels a group are fewer than the {amx_gemm.LANES} of a tile"
    return None


def amx_step(product: Product, isa: Isa, ctx: BuildContext) -> Step:
    """The product by tiles."""
    if refuse_wide(product) is None:
        return wide_step(product, isa, ctx)
    groups, _, length, n = product.w.shape
    gemm = amx_gemm.build(isa, product.offsets, n, product.runs, length, product.finish(), groups)
    rows = gemm.rows
    weights, sums = gemm.pack(product.w)
    call = amx_gemm.Call(
        x=product.x,
        weights=ctx.constant(weights),
        init=ctx.constant((-product.zero_point * sums.astype(np.int64)).astype(np.int32)),
        config=ctx.constant(gemm.config()),
        out=ctx.ref(product.node.outputs[0]),
        out_stride=ctx.pitch(product.node.outputs[0]),
        operands=product.bound(ctx),
        x_group=product.group_bytes,
        offsets=0 if gemm.form.affine else ctx.constant(gemm.offsets),
        starts=0 if rows.starts is None else ctx.constant(rows.starts),
        pixels=0 if rows.pixels is None else ctx.constant(rows.pixels),
    )
    return Step(gemm.kernel, tuple(gemm.params(call, ctx.threads)))


def refuse_wide(product: Product) -> str | None:
    """Why `amx_wide` is not for a product, or None."""
    groups, runs, length, n = product.w.shape
    if groups > 1 or runs > 1:
        return "more than one run of channels"
    m = len(product.offsets)
    if not np.array_equal(product.offsets, np.arange(m) * length):
        return "rows are not at one distance"
    if any(constant_data(v) is None for v in product.node.inputs[2:]):
        return "an operand is not constant"
    return amx_wide.refuse(m, n, length, product.finish())


def wide_step(product: Product, isa: Isa, ctx: BuildContext) -> Step:
    """The product by blocks of 64 channels."""
    finish = product.finish()
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
        init=ctx.constant((-product.zero_point * sums.astype(np.int64)).astype(np.int32)),
        config=ctx.constant(gemm.config()),
        out=ctx.ref(product.node.outputs[0]),
        out_stride=ctx.pitch(product.node.outputs[0]),
        operands=operands,
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
        return refuse_tiles(isa, outputs // op.groups) or super().applies(node, isa)

    def step(self, product: Product, isa: Isa, ctx: BuildContext) -> Step:
        return amx_step(product, isa, ctx)


class MatMulAmx(MatMulInt8):
    """MatMul of activations with one constant matrix."""

    name = "amx_matmul"
    rank = 8

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredMatMul)
        b = node.inputs[1].shape.to_static()
        return refuse_tiles(isa, b[-2] if op.transpose_b else b[-1]) or super().applies(node, isa)

    def step(self, product: Product, isa: Isa, ctx: BuildContext) -> Step:
        return amx_step(product, isa, ctx)


KERNELS: list[Kernel] = [ConvolutionAmx(), MatMulAmx()]
