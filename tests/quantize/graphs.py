"""Small float networks for the quantizer's tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make, make_node

Array = np.ndarray[Any, np.dtype[Any]]


class Net:
    """Builds one network; every weight comes from one seeded generator."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.input = parameter(shape, f32, "image")

    def weight(self, *shape: int, name: str = "") -> Value:
        data = self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return constant(data.astype(np.float32), name=name)

    def convolution(self, x: Value, channels: int, name: str, kernel: int = 3) -> Value:
        """Convolution with bias, same size."""
        weight = self.weight(channels, x.shape[1].lo, kernel, kernel, name=f"{name}.weight")
        pad = kernel // 2
        y = make("Convolution", x, weight, name=name, **window(pad))
        return make("Add", y, self.weight(1, channels, 1, 1, name=f"{name}.bias"), name=f"{name}.add")

    def depthwise(self, x: Value, name: str) -> Value:
        channels = x.shape[1].lo
        weight = self.weight(channels, 1, 1, 3, 3, name=f"{name}.weight")
        y = make("GroupConvolution", x, weight, name=name, **window(1))
        return make("Add", y, self.weight(1, channels, 1, 1, name=f"{name}.bias"), name=f"{name}.add")

    def linear(self, x: Value, outputs: int, name: str) -> Value:
        weight = self.weight(outputs, x.shape[-1].lo, name=f"{name}.weight")
        y = make("MatMul", x, weight, name=name, transpose_b=True)
        return make("Add", y, self.weight(1, outputs, name=f"{name}.bias"), name=f"{name}.add")

    def model(self, *outputs: Value) -> Model:
        results = [Node(Result(), [v], f"result{i}") for i, v in enumerate(outputs)]
        return Model(results, [self.input], "net")

    def samples(self, count: int) -> list[Array]:
        shape = self.input.output.shape.to_static()
        return [self.random.standard_normal(shape).astype(np.float32) for _ in range(count)]


def window(pad: int) -> dict[str, Any]:
    return {"strides": (1, 1), "pads_begin": (pad, pad), "pads_end": (pad, pad), "dilations": (1, 1)}


def ints(values: Sequence[int]) -> Value:
    return constant(np.array(values, np.int64), name="ints")


def relu(x: Value, name: str) -> Value:
    return make("Relu", x, name=name)


def residual() -> Model:
    """conv -> relu -> (conv -> +) -> conv: both inputs of the addition and its sum are quantized."""
    net = Net(1, 3, 8, 8)
    x = relu(net.convolution(net.input.output, 8, "stem"), "stem.relu")
    total = make("Add", net.convolution(x, 8, "branch"), x, name="sum")
    return net.model(net.convolution(total, 4, "head"))


def concat() -> Model:
    """Two convolutions joined, then a convolution: one range for both inputs of the Concat."""
    net = Net(1, 3, 8, 8)
    a = relu(net.convolution(net.input.output, 4, "a"), "a.relu")
    b = net.convolution(net.input.output, 4, "b")
    joined = make("Concat", a, b, name="joined", axis=1)
    return net.model(net.convolution(joined, 4, "head"))


def depthwise() -> Model:
    """conv -> relu6 -> pad-free depthwise -> pointwise."""
    net = Net(1, 3, 8, 8)
    x = make("Clamp", net.convolution(net.input.output, 8, "expand", 1), name="expand.relu6", min=0.0, max=6.0)
    x = make("Clamp", net.depthwise(x, "depthwise"), name="depthwise.relu6", min=0.0, max=6.0)
    return net.model(net.convolution(x, 4, "project", 1))


def squeeze_and_excite() -> Model:
    """x * sigmoid(conv(swish(conv(mean(x))))) between two convolutions."""
    net = Net(1, 3, 8, 8)
    x = relu(net.convolution(net.input.output, 8, "stem"), "stem.relu")
    pooled = make("ReduceMean", x, ints([2, 3]), name="pool", keep_dims=True)
    squeezed = net.convolution(pooled, 4, "squeeze", 1)
    squeezed = make("Multiply", squeezed, make("Sigmoid", squeezed, name="inner.sigmoid"), name="inner.swish")
    gate = make("Sigmoid", net.convolution(squeezed, 8, "excite", 1), name="gate")
    return net.model(net.convolution(make("Multiply", x, gate, name="scale"), 4, "head"))


def attention() -> Model:
    """One attention head and a residual addition on [1, 6, 16]."""
    net = Net(1, 6, 16)
    x = net.input.output
    q, k, v = (net.linear(x, 16, name) for name in ("query", "key", "value"))
    heads = [
        make("Reshape", t, ints([1, 6, 2, 8]), name=f"split{i}", special_zero=False) for i, t in enumerate((q, k, v))
    ]
    q, k, v = (make("Transpose", t, ints([0, 2, 1, 3]), name=f"heads{i}") for i, t in enumerate(heads))
    scores = make("MatMul", q, k, name="scores", transpose_b=True)
    scores = make("Multiply", scores, constant(np.float32(8**-0.5), name="scale"), name="scaled")
    weights = make("Softmax", scores, name="softmax", axis=-1)
    mixed = make("Transpose", make("MatMul", weights, v, name="mix"), ints([0, 2, 1, 3]), name="join")
    mixed = make("Reshape", mixed, ints([1, 6, 16]), name="flat", special_zero=False)
    out = make("Add", net.linear(mixed, 16, "output"), x, name="residual")
    return net.model(net.linear(out, 4, "head"))


def preprocessing() -> Model:
    """(x - mean) * scale -> conv: no quantizer inside the preprocessing."""
    net = Net(1, 3, 8, 8)
    x = make("Subtract", net.input.output, constant(np.float32(0.5), name="mean"), name="minus")
    x = make("Multiply", x, constant(np.float32(4), name="four"), name="times")
    return net.model(net.convolution(x, 4, "conv"))


def detection() -> Model:
    """A head whose scores go through TopK."""
    net = Net(1, 3, 8, 8)
    x = relu(net.convolution(net.input.output, 4, "stem"), "stem.relu")
    scores = make("Reshape", net.convolution(x, 2, "scores", 1), ints([1, -1]), name="flat", special_zero=False)
    doubled = make("Add", scores, scores, name="doubled")
    best = make_node("TopK", doubled, constant(np.int64(5), name="k"), name="best", axis=1, mode="max", sort="value")
    return net.model(best.outputs[0])


GRAPHS = (residual, concat, depthwise, squeeze_and_excite, attention, preprocessing, detection)
