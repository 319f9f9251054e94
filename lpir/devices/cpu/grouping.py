"""Hidden channels in an order that suits sums in int16.

Where products of bytes are added in int16 (`kernels/pack_int16.py`), two heavy weights side by side in one channel cost
all channels of its block a window. So channels whose heavy weights are at the same places should share a block. The
channels between two convolutions may have any order: outputs of the first, all of depthwise convolutions between them,
and inputs of the last move together, and no value that anybody else reads changes. It pays where a convolution grows
from few channels: of 16 to 96, instructions of the products fall by a fifth, of 64 to 384 by a twentieth.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.convolution_int8 import is_depthwise, refuse_weights, weights_of
from lpir.devices.cpu.kernels.pack_int16 import limits, magnitudes
from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.model import Model
from lpir.ir.types import i8
from lpir.ops.boundary import Constant, constant, constant_data
from lpir.ops.lowered import LoweredConvolution

Array = np.ndarray[Any, np.dtype[Any]]

# longer sums have few heavy weights, and gain less than looking at them takes
MAX_K = 128
LARGEST_CODE = 255


def group_channels(model: Model, isa: Isa) -> int:
    """Orders the hidden channels of a lowered model for `isa`; says of how many convolutions."""
    if isa.exact:
        return 0
    chains = [chain for node in model.nodes() if (chain := chain_from(node)) is not None]
    for chain in chains:
        move_channels(chain, channel_order(weights_of(chain[0]), isa.lanes()))
    return len(chains)


def channel_order(w: Array, lanes: int) -> Array:
    """An order of the channels (last axis) of `w` in which `lanes` neighbors are alike in where they are heavy.

    A block begins with the channel that has most heavy places among those that are left, and takes those that add
    fewest: half of them are chosen beside the first, the others beside this half.
    """
    heavy = _heavy_places(w)
    left, found = np.arange(len(heavy)), []
    while len(left):
        places, count = heavy[left], heavy[left].sum(1)
        chosen = np.asarray([np.argmax(count)])
        for size in (lanes // 2, lanes):
            cost = (places & ~places[chosen].any(0)).sum(1) * places.shape[1] - count
            cost[chosen] = np.iinfo(cost.dtype).min
            chosen = np.argsort(cost, kind="stable")[:size]
        found.append(left[chosen])
        left = np.delete(left, chosen)
    return np.concatenate(found)


def _heavy_places(w: Array) -> Array:
    """Where neighbors along the last axis but one are unsafe in one int16 sum: [channels, places]."""
    sides = zip(magnitudes(w), limits(LARGEST_CODE), strict=True)
    unsafe = [part[..., :-1, :].astype(np.int16) + part[..., 1:, :] > limit for part, limit in sides]
    return (unsafe[0] | unsafe[1]).reshape(-1, w.shape[-1]).T


def chain_from(first: Node) -> list[Node] | None:
    """A convolution, depthwise ones behind it and one that reads the last, if nobody else sees the channels."""
    op = first.op
    if not isinstance(op, LoweredConvolution) or op.groups != 1 or not _is_movable(first):
        return None
    shape = first.inputs[1].shape.to_static()
    if first.inputs[1].element_type != i8 or np.prod(shape[:-1]) > MAX_K:
        return None
    chain = [first]
    while len(chain) == 1 or is_depthwise(chain[-1]):
        value = chain[-1].output
        if len(value.uses) != 1:
            return None
        use = value.uses[0]
        if use.index != 0 or not isinstance(use.node.op, LoweredConvolution) or refuse_weights(use.node):
            return None
        if is_depthwise(use.node) and not _is_movable(use.node):
            return None
        chain.append(use.node)
    last = chain[-1].op
    return chain if isinstance(last, LoweredConvolution) and last.groups == 1 else None


def _is_movable(node: Node) -> bool:
    """Whether all that a convolution reads for each output channel is constant."""
    return refuse_weights(node) is None and all(constant_data(v) is not None for v in node.inputs[2:])


def move_channels(chain: list[Node], order: Array) -> None:
    """Puts the hidden channels of a chain into `order`."""
    for node in chain[:-1]:
        for index in range(1, len(node.inputs)):
            node.set_input(index, _taken(node.inputs[index], order, -1))
        op = node.op
        assert isinstance(op, LoweredConvolution)
        if node is not chain[0] and not isinstance(op.x_zero_point, int):
            node.op = dataclasses.replace(op, x_zero_point=tuple(op.x_zero_point[i] for i in order))
        node.output.quant = _moved(node.output.quant, order)
    chain[-1].set_input(1, _taken(chain[-1].inputs[1], order, -2))


def _moved(quant: QuantType | None, order: Array) -> QuantType | None:
    """What codes stand for, with its channels in another order."""
    if quant is None or quant.axis is None:
        return quant
    points = quant.zero_points
    return dataclasses.replace(
        quant, scale=quant.scale.reshape(-1)[order], zero_points=None if points is None else points.reshape(-1)[order]
    )


def _taken(value: Value, order: Array, axis: int) -> Value:
    """A constant with its elements along `axis` in another order; as it is where there is one for all."""
    op = value.node.op
    assert isinstance(op, Constant)
    if op.data.ndim == 0 or op.data.shape[axis] != len(order):
        return value
    return constant(np.take(op.data, order, axis), op.element_type, value.node.name)
