"""LoweredConvolution and LoweredMatMul with u8 activations and constant i8 weights, as one INT8 matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import igemm
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.geometry import dense_strides
from lpir.devices.cpu.kernels.product_int8 import Product, as_bytes, igemm_step
from lpir.devices.cpu.kernels.rows import grid_offsets, pad_step, refuse_epilogue, refuse_operands
from lpir.ir.graph import Node
from lpir.ir.types import i8, i16, u8
from lpir.ops.boundary import Constant
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul, expanded

Array = np.ndarray[Any, np.dtype[Any]]


def is_depthwise(node: Node) -> bool:
    """Whether a LoweredConvolution has one input and one output channel a group."""
    op = node.op
    w = node.inputs[1].shape.to_static()
    return isinstance(op, LoweredConvolution) and w[-2] == 1 and w[-1] == op.groups


def refuse_weights(node: Node) -> str | None:
    """Why the inputs are not u8 activations and constant i8 (or wider) weights, or None."""
    if node.inputs[0].element_type != u8:
        return f"the activations are {node.inputs[0].element_type}, not u8"
    if node.inputs[1].element_type not in (i8, i16):
        return f"the weights are {node.inputs[1].element_type}, not i8 or i16"
    if not isinstance(node.inputs[1].node.op, Constant):
        return "the weights are not constant"
    return None


def weights_of(node: Node) -> Array:
    """The constant behind input 1, the weights of an output channel side by side as in a file."""
    op = node.inputs[1].node.op
    assert isinstance(op, Constant)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(op.data, -1, 0)), 0, -1)


class ConvolutionInt8(Kernel):
    """Convolution of any rank, grouped too; a padded copy of the input comes first where there is padding."""

    name = "igemm_convolution"
    ops = (LoweredConvolution,)
    rank = 10
    spreads = True

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        w = node.inputs[1].shape.to_static()
        return (
            refuse_weights(node)
            or ("the channels have different zero points" if not isinstance(op.x_zero_point, int) else None)
            or igemm.applies(w[-2], math.prod(w[:-2]), op.epilogue)
            or refuse_epilogue(expanded(op.epilogue))
            or refuse_operands(node, 2)
            or _refuse_size(math.prod(node.inputs[0].shape.to_static()))
        )

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        assert isinstance(op.x_zero_point, int)
        steps, x, shape = self.padded(node, ctx)
        out = node.outputs[0].shape.to_static()
        strides = dense_strides(shape)
        w = weights_of(node)
        taps, packed = _tap_runs(w, op, strides)
        moves = [s * t for s, t in zip(op.strides, strides[1:-1], strict=True)]
        offsets = grid_offsets(out[:-1], (strides[0], *moves))
        taps, packed = as_bytes(taps, packed)
        product = Product(node, op.x_zero_point, x, offsets, taps, packed, w.shape[-2])
        return [*steps, self.step(product, isa, ctx)]

    def padded(self, node: Node, ctx: BuildContext) -> tuple[list[Step], Ref, tuple[int, ...]]:
        """The steps that pad the input, where it is then, and its shape."""
        op = node.op
        assert isinstance(op, LoweredConvolution)
        assert isinstance(op.x_zero_point, int)
        shape = node.inputs[0].shape.to_static()
        x = ctx.ref(node.inputs[0])
        pads = [b + e for b, e in zip(op.pads_begin, op.pads_end, strict=True)]
        if not any(pads):
            return [], x, shape
        padded = (shape[0], *(n + p for n, p in zip(shape[1:-1], pads, strict=True)), shape[-1])
        copy = ctx.scratch(math.prod(padded))
        return [pad_step(x, copy, shape, op.pads_begin, op.pads_end, op.x_zero_point, ctx)], copy, padded

    def step(self, product: Product, isa: Isa, ctx: BuildContext) -> Step:
        """The product itself."""
        return igemm_step(product, isa, ctx)


class MatMulInt8(Kernel):
    """MatMul of activations with one constant matrix."""

    name = "igemm_matmul"
    ops = (LoweredMatMul,)
    rank = 10
    spreads = True

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredMatMul)
        b = node.inputs[1].shape.to_static()
        if math.prod(b[:-2]) != 1:
            return f"the weights {list(b)} are a batch of matrices"
        if len(b) > len(node.inputs[0].shape.to_static()):
            return "the weights have more dimensions than the activations"
        if op.b_zero_point:
            return "the weights have a zero point"
        return (
            refuse_weights(node)
            or igemm.applies(b[-1] if op.transpose_b else b[-2], 1, op.epilogue)
            or refuse_epilogue(expanded(op.epilogue))
            or refuse_operands(node, 2)
        )

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredMatMul)
        w = weights_of(node).reshape(node.inputs[1].shape.to_static()[-2:])
        w = w.T if op.transpose_b else w
        runs, packed = as_bytes((0,), w.reshape(1, 1, *w.shape))
        offsets = np.arange(math.prod(node.outputs[0].shape.to_static()[:-1]), dtype=np.int64) * w.shape[0]
        product = Product(node, op.a_zero_point, ctx.ref(node.inputs[0]), offsets, runs, packed, w.shape[0])
        return [self.step(product, isa, ctx)]

    def step(self, product: Product, isa: Isa, ctx: BuildContext) -> Step:
        """The product itself."""
        return igemm_step(product, isa, ctx)


def _refuse_size(count: int) -> str | None:
    return "the input is larger than 2 GiB" if count >= 1 << 31 else None


def _tap_runs(w: Array, op: LoweredConvolution, strides: Sequence[int]) -> tuple[tuple[int, ...], Array]:
    """Byte offset of each contiguous run of weights, and `w` [*K, C/g, O] as [G, runs, length, O/g].

    Neighboring taps of the last spatial axis are one run where the channels of one group are the whole pixel.
    """
    *kernel, channels, outputs = w.shape
    moves = [d * s for d, s in zip(op.dilations, strides[1:-1], strict=True)]
    whole = op.groups == 1 and op.dilations[-1] == 1
    length = channels * kernel[-1] if whole else channels
    sizes = kernel[:-1] if whole else kernel
    taps = grid_offsets(sizes, moves[: len(sizes)])
    grouped = w.reshape(-1, length, op.groups, outputs // op.groups).transpose(2, 0, 1, 3)
    return tuple(int(t) for t in taps), grouped


KERNELS: list[Kernel] = [ConvolutionInt8(), MatMulInt8()]
