"""Fits each quantized layer's output to the float one's: a gain and an offset for each output channel.

Layers are taken in order, each fed with what the layers before it really give once quantized and corrected, so errors
do not add up. The gain goes into the weight's output limits and the offset into the bias: free at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ops.boundary import Constant, constant, constant_data
from lpir.ops.builder import make_node
from lpir.quantize.execute import Lockstep
from lpir.quantize.observers import PositionObserver, pick
from lpir.quantize.traits import CONVOLUTIONS

# a gain is fitted only from so many output positions, and never further from 1 than this
FEWEST_POSITIONS = 256
LARGEST_GAIN = 1.25


def correct(
    quantized: Model,
    expected: Mapping[str, PositionObserver],
    samples: Sequence[list[Array]],
    *,
    gain: bool,
    report: Callable[[int, int], None],
) -> int:
    """Corrects `quantized` (with FakeQuantize on its weights) in place; the number of corrected layers.

    `expected`: by layer name, what the float layer gives for `samples`. All live tensors of all samples are in memory.
    """
    layers = [n for n in quantized.nodes() if n.name in expected and is_correctable(n)]
    biases = [own_bias(layer) for layer in layers]
    run = Lockstep(quantized, samples)
    for done, (layer, bias) in enumerate(zip(layers, biases, strict=True)):
        actual = run.run_to(layer)
        axis = channel_axis(layer)
        factor, offset = fit(expected[layer.name].picks, [pick(y, axis) for y in actual], gain)
        scale_weights(layer, factor)
        shape = [1] * actual[0].ndim
        shape[axis] = -1
        scaled = factor.reshape(shape).astype(actual[0].dtype)
        run.replace(layer.output, [y * scaled for y in actual])
        run.replace(bias, [add_offset(bias, offset.reshape(shape))])
        report(done + 1, len(layers))
    quantized.validate()
    return len(layers)


def is_correctable(node: Node) -> bool:
    """A layer with a weight of its own that is quantized, or will be: a convolution, or a MatMul by a weight."""
    if node.op.type_name not in CONVOLUTIONS and node.op.type_name != "MatMul":
        return False
    weight = node.inputs[1]
    source = weight.node.inputs[0] if weight.node.op.type_name == "FakeQuantize" else weight
    # a weight that several layers read, or a vector that gives no channels, cannot be scaled for one of them
    return constant_data(source) is not None and len(weight.uses) == 1 and len(weight.shape) >= 2


def channel_axis(node: Node) -> int:
    """The axis of the output channels in the layer's output."""
    return 1 if node.op.type_name in CONVOLUTIONS else len(node.output.shape) - 1


def fit(expected: Sequence[Array], actual: Sequence[Array], gain: bool) -> tuple[Array, Array]:
    """(a, b) for each channel with the least squares of `expected - (a * actual + b)`; a = 1 without `gain`.

    Arrays of [channels, positions], one a sample.
    """
    channels = actual[0].shape[0]
    sums = np.zeros((4, channels))
    count = 0
    for target, value in zip(expected, actual, strict=True):
        t, v = target.astype(np.float64), value.astype(np.float64)
        sums += np.stack([t.sum(1), v.sum(1), (v * v).sum(1), (t * v).sum(1)])
        count += t.shape[1]
    mean_t, mean_v, mean_vv, mean_tv = sums / max(count, 1)
    factor = np.ones(channels)
    if gain and count >= FEWEST_POSITIONS:
        variance = mean_vv - mean_v * mean_v
        covariance = mean_tv - mean_t * mean_v
        useful = variance > 1e-8 * np.maximum(mean_vv, 1e-30)
        factor[useful] = np.clip(covariance[useful] / variance[useful], 1 / LARGEST_GAIN, LARGEST_GAIN)
    return factor, mean_t - factor * mean_v


def scale_weights(layer: Node, factor: Array) -> None:
    """Multiplies the output limits of the layer's weight FakeQuantize by one factor for each output channel."""
    node = layer.inputs[1].node
    shape = _limits_shape(layer, node.inputs[3].shape.to_static())
    for port in (3, 4):
        limits = constant_data(node.inputs[port])
        if limits is not None:
            name = f"{node.name}/{'output_low' if port == 3 else 'output_high'}"
            scaled = (limits.astype(np.float64) * factor.reshape(shape)).astype(limits.dtype)
            node.set_input(port, constant(scaled, name=name))
    node.infer()


def _limits_shape(layer: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """How one number for each output channel is laid out like the weight's limits."""
    if layer.op.type_name == "GroupConvolutionBackpropData":
        return (shape[0], 1, shape[2], *(1 for _ in shape[3:]))
    if layer.op.type_name == "MatMul":
        own = len(shape) - (2 if getattr(layer.op, "transpose_b", False) else 1)
        return tuple(-1 if a == own else 1 for a in range(len(shape)))
    return shape


def own_bias(layer: Node) -> Value:
    """The constant that is added to the layer's output and to nothing else; a zero is added where there is none."""
    users = layer.output.uses
    if len(users) == 1 and users[0].node.op.type_name == "Add":
        add, port = users[0].node, 1 - users[0].index
        bias = add.inputs[port]
        data = constant_data(bias)
        if data is not None:
            if len(bias.uses) > 1:
                bias = constant(data, name=f"{add.name}/own_bias")
                add.set_input(port, bias)
            return bias
    shape = [1] * len(layer.output.shape)
    bias = constant(np.zeros(shape, layer.output.element_type.dtype), name=f"{layer.name}/offset")
    add = make_node("Add", layer.output, bias, name=f"{layer.name}/add_offset")
    for use in users:
        use.node.set_input(use.index, add.output)
    add.output.names, layer.output.names = layer.output.names, set()
    return bias


def add_offset(bias: Value, offset: Array) -> Array:
    """Adds `offset` to a bias constant, in place; the new data."""
    data = constant_data(bias)
    if data is None:
        return offset
    changed = data.astype(np.float64) + offset.reshape(_aligned(offset.shape, data.ndim))
    bias.node.op = Constant(changed.astype(data.dtype), bias.element_type)
    bias.node.infer()
    return changed.astype(data.dtype)


def _aligned(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """`shape` with leading ones dropped or added so that it broadcasts against an array of `rank`."""
    while len(shape) > max(rank, 1) and shape[0] == 1:
        shape = shape[1:]
    return shape
