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
from lpir.devices.cpu.kernels.epilogue import Rows, element_bytes
from lpir.devices.cpu.kernels.geometry import dense_strides
from lpir.devices.cpu.kernels.pack import PackedWeights
from lpir.devices.cpu.kernels.ranges import sums_range
from lpir.devices.cpu.kernels.rows import (
    bind_operand,
    epilogue_of,
    grid_offsets,
    operand_of,
    pad_step,
    refuse_epilogue,
    refuse_operands,
)
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
    """The constant behind input 1."""
    op = node.inputs[1].node.op
    assert isinstance(op, Constant)
    return np.asarray(op.data)


def byte_parts(w: Array) -> list[Array]:
    """int8 arrays that add up to `w`: asymmetric weights take two or three passes over the same activations."""
    if w.dtype == np.int8:
        return [w]
    parts: list[Array] = []
    rest = w.astype(np.int32)
    while not parts or rest.any():
        parts.append(np.clip(rest, -128, 127).astype(np.int8))
        rest = rest - parts[-1]
    return parts


class ConvolutionInt8(Kernel):
    """Convolution of any rank, grouped too; a padded copy of the input comes first where there is padding."""

    name = "igemm_convolution"
    ops = (LoweredConvolution,)
    rank = 10

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        w = node.inputs[1].shape.to_static()
        return (
            refuse_weights(node)
            or igemm.applies(w[-2], math.prod(w[:-2]), op.epilogue)
            or refuse_epilogue(expanded(op.epilogue))
            or refuse_operands(node, 2)
            or _refuse_size(math.prod(node.inputs[0].shape.to_static()))
        )

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        steps: list[Step] = []
        shape = node.inputs[0].shape.to_static()
        x = ctx.ref(node.inputs[0])
        if any((*op.pads_begin, *op.pads_end)):
            pads = [b + e for b, e in zip(op.pads_begin, op.pads_end, strict=True)]
            padded = (shape[0], *(n + p for n, p in zip(shape[1:-1], pads, strict=True)), shape[-1])
            copy = ctx.scratch(math.prod(padded))
            steps.append(pad_step(x, copy, shape, op.pads_begin, op.pads_end, op.x_zero_point, ctx))
            x, shape = copy, padded
        out = node.outputs[0].shape.to_static()
        strides = dense_strides(shape)
        w = weights_of(node)
        taps, channels, packed = _tap_runs(w, op, strides)
        gemm = _Product(node, isa, ctx, op.x_zero_point, 2)
        moves = [s * t for s, t in zip(op.strides, strides[1:-1], strict=True)]
        rows = _row_addresses((out[0], *out[1:-1]), (strides[0], *moves), shape[-1], ctx)
        steps.append(gemm.step(x, rows, packed, taps, channels, w.shape[-2]))
        return steps


class MatMulInt8(Kernel):
    """MatMul of activations with one constant matrix."""

    name = "igemm_matmul"
    ops = (LoweredMatMul,)
    rank = 10

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
        product = _Product(node, isa, ctx, op.a_zero_point, 2)
        x = ctx.ref(node.inputs[0])
        return [product.step(x, Rows(w.shape[0]), w.reshape(1, 1, *w.shape), (0,), w.shape[0], w.shape[0])]


class _Product:
    """One product with the epilogue and the operands of `node`."""

    def __init__(self, node: Node, isa: Isa, ctx: BuildContext, zero_point: int, first: int) -> None:
        self.node, self.isa, self.ctx = node, isa, ctx
        self.zero_point, self.first = zero_point, first

    def step(self, x: Ref, rows: Rows, w: Array, taps: tuple[int, ...], channels: int, group_bytes: int) -> Step:
        """`w` [G, taps, channels, N]; group `g` reads `x` from byte `g * group_bytes`."""
        node, ctx = self.node, self.ctx
        op = node.op
        assert isinstance(op, LoweredConvolution | LoweredMatMul)
        out = node.outputs[0].shape.to_static()
        epilogue = expanded(op.epilogue)
        operands = node.inputs[self.first :]
        parts = byte_parts(w)
        taps, w = taps * len(parts), np.concatenate(parts, axis=1)
        sums = sums_range(np.concatenate(list(w), axis=-1), self.zero_point)
        gemm = igemm.build(
            self.isa,
            m=math.prod(out[:-1]),
            n=w.shape[-1],
            channels=channels,
            taps=taps,
            epilogue=epilogue_of(self.isa, epilogue, [operand_of(v, out) for v in operands], operands, sums),
            groups=w.shape[0],
            x_table=rows.table is not None,
        )
        packed = gemm.pack(w)
        call = igemm.Call(
            x=x,
            x_rows=rows,
            weights=ctx.constant(packed.weights),
            init=ctx.constant(igemm.init_vector(self.isa, packed, self.zero_point)),
            out=ctx.ref(node.outputs[0]),
            out_rows=Rows(out[-1] * element_bytes(epilogue.type)),
            operands=[bind_operand(v, out, ctx) for v in operands],
            offsets=ctx.constant(packed.offsets) if gemm.needs_offsets else 0,
            **self._wide(packed),
            x_group=group_bytes,
        )
        return Step(gemm.kernel, tuple(gemm.params(call, ctx.threads)))

    def _wide(self, packed: PackedWeights) -> dict[str, Ref]:
        """What a kernel needs whose dot product of bytes is not always exact."""
        if self.isa.exact:
            return {}
        parts = {"ranges": packed.ranges, "wide": packed.wide, "wide_offsets": packed.wide_offsets}
        return {name: self.ctx.constant(array) for name, array in parts.items()}


def _refuse_size(count: int) -> str | None:
    return "the input is larger than 2 GiB" if count >= 1 << 31 else None


def _tap_runs(w: Array, op: LoweredConvolution, strides: Sequence[int]) -> tuple[tuple[int, ...], int, Array]:
    """Byte offset of each contiguous run of weights, its length, and `w` [*K, C/g, O] as [G, runs, length, O/g].

    Neighboring taps of the last spatial axis are one run where the channels of one group are the whole pixel.
    """
    *kernel, channels, outputs = w.shape
    moves = [d * s for d, s in zip(op.dilations, strides[1:-1], strict=True)]
    whole = op.groups == 1 and op.dilations[-1] == 1
    length = channels * kernel[-1] if whole else channels
    sizes = kernel[:-1] if whole else kernel
    taps = grid_offsets(sizes, moves[: len(sizes)])
    grouped = w.reshape(-1, length, op.groups, outputs // op.groups).transpose(2, 0, 1, 3)
    return tuple(int(t) for t in taps), length, np.ascontiguousarray(grouped)


def _row_addresses(out: Sequence[int], moves: Sequence[int], channels: int, ctx: BuildContext) -> Rows:
    """A stride where output pixels follow each other at one distance in the input, a table otherwise."""
    offsets = grid_offsets(out, moves)
    stride = int(offsets[1]) if len(offsets) > 1 else channels
    if np.array_equal(offsets, np.arange(len(offsets)) * stride):
        return Rows(stride)
    return Rows(table=ctx.constant(offsets.astype(np.int32)))


KERNELS: list[Kernel] = [ConvolutionInt8(), MatMulInt8()]
