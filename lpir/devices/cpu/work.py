"""What an operation of a lowered model takes at least: products, and bytes to read and to write."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ops.boundary import Constant
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul
from lpir.ops.lowered_attention import LoweredAttention
from lpir.ops.lowered_compressed import CompressedMatMul
from lpir.ops.lowered_image import ImageConvolution
from lpir.ops.lowered_recurrent import Recurrence
from lpir.record import record

# work of a model that one thread does alone: about 10 us
ONE_THREAD = 300_000


@record
class Work:
    """Multiply-adds of 8-bit codes and of floats; bytes of constants, and of other inputs and outputs, each once.

    depthwise: each output channel is of one input channel, which matrix instructions cannot do.
    """

    int8: int
    float32: int
    constants: int
    tensors: int
    depthwise: bool = False

    @property
    def nbytes(self) -> int:
        return self.constants + self.tensors

    @property
    def macs(self) -> int:
        return self.int8 + self.float32


def work_of(node: Node) -> Work:
    """The work of a node of static shapes. Operations other than products count by their bytes alone."""
    inputs = list({id(v): v for v in node.inputs}.values())
    constants = _nbytes(v for v in inputs if isinstance(v.node.op, Constant))
    tensors = _nbytes(inputs) + _nbytes(node.outputs) - constants
    # products are of codes where the first input is
    int8, float32, depthwise = 0, 0, False
    match node.op:
        case LoweredConvolution():
            *taps, outputs = node.inputs[1].shape.to_static()
            int8 = _size(node.outputs[0]) * math.prod(taps)
            depthwise = taps[-1] == 1 and node.op.groups == outputs > 1
        case LoweredMatMul() | CompressedMatMul():
            int8 = _size(node.outputs[0]) * node.inputs[0].shape.to_static()[-1]
        case Recurrence():
            int8 = math.prod(node.inputs[0].shape.to_static()) * node.inputs[1].shape.to_static()[0]
        case LoweredAttention():
            q, k, v = (node.op.heads_first(i, x.shape.to_static()) for i, x in enumerate(node.inputs[:3]))
            int8, float32 = math.prod(q) * k[2], math.prod(q[:3]) * math.prod(v[2:])
        case ImageConvolution():
            int8 = _size(node.outputs[0]) * math.prod(node.inputs[1].shape.to_static()[:-1])
    if node.inputs and not node.inputs[0].element_type.is_integer and not isinstance(node.op, ImageConvolution):
        int8, float32 = 0, int8 + float32
    return Work(int8, float32, constants, tensors, depthwise)


def work(model: Model) -> int:
    """About how many multiplications or element accesses an inference of a lowered model takes."""
    computing = [n for n in model.nodes() if n.op.type_name not in ("Parameter", "Constant", "Result")]
    return sum(work_of(n).macs or max(_size(v) for v in (*n.inputs, *n.outputs)) for n in computing)


def threads_for(model: Model, threads: int) -> int:
    """How many of `threads` work on a lowered model: waking others takes longer than all of a tiny one."""
    return threads if work(model) > ONE_THREAD else 1


def _size(value: Value) -> int:
    return math.prod(value.shape.to_static())


def _nbytes(values: Iterable[Value]) -> int:
    return sum(_size(v) * v.element_type.dtype.itemsize for v in values)
