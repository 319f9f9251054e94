"""LoweredConvolution of u8 activations with one input and one output channel a group."""

from __future__ import annotations

import math

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import idepthwise
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.convolution_int8 import is_depthwise, refuse_weights, weights_of
from lpir.devices.cpu.kernels.depthwise_weights import Array, Blocks, Shape, choose_blocks, pack_depthwise
from lpir.devices.cpu.kernels.epilogue import Bound, Operand
from lpir.devices.cpu.kernels.ranges import sums_range
from lpir.devices.cpu.kernels.rows import bind_operand, epilogue_of, operand_of, refuse_epilogue, refuse_operands
from lpir.ir.graph import Node, Value
from lpir.ir.types import i8
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import LoweredConvolution, expanded

MAX_TAPS = 81  # taps are unrolled
# threads share the channels of an image of so few rows, as those of the product before it did
FEW_ROWS = 8
# one thread takes all rows of a block in turn up to here, and reads lines of the input from the second cache once
FEW_ROWS_ALONE = 16


class DepthwiseInt8(Kernel):
    """Depthwise convolution of any rank, padding handled inside."""

    name = "idepthwise"
    ops = (LoweredConvolution,)
    rank = 5

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        if not is_depthwise(node):
            return "not one channel a group"
        if math.prod(node.inputs[1].shape.to_static()[:-2]) > MAX_TAPS:
            return f"more than {MAX_TAPS} taps"
        if math.prod(node.inputs[0].shape.to_static()) >= 1 << 31:
            return "the input is larger than 2 GiB"
        return (
            refuse_weights(node)
            or ("the weights need more than 8 bits" if node.inputs[1].element_type != i8 else None)
            or idepthwise.applies(op.epilogue)
            or refuse_epilogue(expanded(op.epilogue))
            or refuse_operands(node, 2)
        )

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        x, out = node.inputs[0].shape.to_static(), node.outputs[0].shape.to_static()
        w = weights_of(node)
        kernel, channels = w.shape[:-2], w.shape[-1]
        taps = w.reshape(math.prod(kernel[:-1]), kernel[-1], channels)
        pad = op.pads_begin[-1]
        shape = Shape.of(*taps.shape[:2], op.strides[-1], op.dilations[-1], not isa.exact, pad)
        operands = node.inputs[2:]
        kinds = [operand_of(v, out) for v in operands]
        known = {i: a for i, v in enumerate(operands, 1) if (a := _lanes_of(v, kinds[i - 1])) is not None}
        finish = epilogue_of(expanded(op.epilogue), kinds, operands, sums_range(taps, np.asarray(op.x_zero_point)))
        table = idepthwise.row_table(x, out, kernel, op.strides, op.dilations, op.pads_begin)
        row = x[-2] * channels if (table < 0).any() else 0
        zero_points = np.broadcast_to(np.asarray(op.x_zero_point, np.int64), (channels,))
        init = (isa.shift - zero_points) * taps.sum(axis=(0, 1), dtype=np.int64)
        unseen = [(taps * shape.unseen(i)[..., None]).sum(axis=(0, 1), dtype=np.int64) for i in range(shape.carried)]
        waiting = init - (isa.shift - zero_points) * np.reshape(unseen, (shape.carried, channels))
        by_blocks = math.prod(x[:-2]) <= (FEW_ROWS_ALONE if ctx.threads == 1 else FEW_ROWS)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": ctx.ref(node.inputs[0]), "out": ctx.ref(node.outputs[0]), "table": ctx.constant(table)},
            **{"channels": channels, "rows": len(table), "columns": out[-2]},
            **{"in_columns": x[-2], "pad": pad, "by_blocks": int(by_blocks)},
        }
        steps = []
        for blocks in self._blocks(choose_blocks(isa, channels, len(table)), op.x_zero_point):
            code = idepthwise.build(isa, shape, blocks.fold, blocks.narrow, finish, frozenset(known))
            own: dict[str, int | float | F32 | Ref] = {
                "w": ctx.constant(pack_depthwise(shape, taps, blocks)),
                "init": ctx.constant(blocks.spread(init).astype(np.int32)),
                "waiting": ctx.constant(blocks.spread(waiting).astype(np.int32)),
                "zeros": ctx.constant(_padding(zero_points, blocks, row)),
                **{"first": blocks.first, "last": blocks.last, "blocks": blocks.count},
            }
            bound = [
                Bound(ctx.constant(blocks.spread(known[i]))) if i in known else bind_operand(v, out, ctx)
                for i, v in enumerate(operands, 1)
            ]
            steps.append(Step.of(code, {**values, **own, **finish.values(bound)}))
        return steps

    @staticmethod
    def _blocks(chosen: list[Blocks], zero_point: int | tuple[int, ...]) -> list[Blocks]:
        """Blocks of channels that share a step: with zero points of their own they do not share a row of padding."""
        return chosen if isinstance(zero_point, int) else [one for blocks in chosen for one in blocks.apart()]


def _padding(zero_points: Array, blocks: Blocks, row: int) -> Array:
    """What stands for a row of padding, and for a column of it: the zero points, as a block of channels reads them."""
    channels = zero_points.size
    line = np.resize(np.roll(zero_points, -blocks.first), row + max(64, channels))
    return (line & 255).astype(np.uint8)


def _lanes_of(value: Value, kind: Operand) -> Array | None:
    """The elements of a constant that has one a channel, or None."""
    data = constant_data(value)
    return None if data is None or kind.kind != "vector" else np.asarray(data).reshape(-1)


KERNELS: list[Kernel] = [DepthwiseInt8()]
