"""ResNet-50 with random weights: an architecture to time, not to believe."""

from __future__ import annotations

import numpy as np

from lpir.demo.blocks import finish, image_input
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ops.boundary import constant
from lpir.ops.builder import make, make_node


class ResNet:
    """Makes layers with weights that keep the variance of what flows through them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def convolution(self, x: Value, out: int, kernel: int, stride: int, gain: float = 1.0) -> Value:
        self.count += 1
        channels = x.shape.to_static()[1]
        deviation = gain * np.sqrt(2.0 / (channels * kernel * kernel))
        weight = self.rng.normal(0, deviation, (out, channels, kernel, kernel)).astype(np.float32)
        pad = kernel // 2
        name = f"conv{self.count}"
        y = make(
            "Convolution",
            x,
            constant(weight, name=f"{name}.weight"),
            name=name,
            strides=(stride, stride),
            pads_begin=(pad, pad),
            pads_end=(pad, pad),
            dilations=(1, 1),
            auto_pad="explicit",
        )
        bias = self.rng.normal(0, 0.05, (1, out, 1, 1)).astype(np.float32)
        return make("Add", y, constant(bias, name=f"{name}.bias"), name=f"{name}/bias")

    def relu(self, x: Value) -> Value:
        return make("Relu", x, name=f"{x.node.name}/relu")

    def bottleneck(self, x: Value, width: int, stride: int) -> Value:
        y = self.relu(self.convolution(x, width, 1, 1))
        y = self.relu(self.convolution(y, width, 3, stride))
        y = self.convolution(y, 4 * width, 1, 1, gain=0.25)
        if stride != 1 or x.shape.to_static()[1] != 4 * width:
            x = self.convolution(x, 4 * width, 1, stride, gain=0.7)
        return self.relu(make("Add", y, x, name=f"add{self.count}"))


def resnet50(seed: int = 0) -> Model:
    """float32 [1, 3, 224, 224] -> logits [1, 1000]; batch normalization folded. Source: arXiv 1512.03385, table 1."""
    net, image = ResNet(seed), image_input(1)
    x = net.relu(net.convolution(image.output, 64, 7, 2))
    geometry = {"strides": (2, 2), "dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1), "kernel": (3, 3)}
    x = make_node("MaxPool", x, name="maxpool", **geometry).outputs[0]
    for width, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for repeat in range(repeats):
            x = net.bottleneck(x, width, stride if repeat == 0 else 1)
    mean = make("ReduceMean", x, constant(np.array([2, 3], np.int64), name="axes"), name="mean", keep_dims=False)
    weight = net.rng.normal(0, 0.02, (1000, 2048)).astype(np.float32)
    y = make("MatMul", mean, constant(weight, name="fc.weight"), name="fc", transpose_a=False, transpose_b=True)
    return finish(y, image, "resnet50")
