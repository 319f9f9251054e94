"""Layers of mobile networks as graph nodes, with batch normalization folded into the convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lpir.errors import FileError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make

Array = np.ndarray[Any, np.dtype[Any]]


class Blocks:
    """Makes layers from the tensors of a PyTorch state dict. Raises FileError for a tensor that is not there.

    eps: the batch normalization's epsilon. same: pad as TensorFlow does ("SAME": the odd pixel at the end).
    """

    def __init__(self, state: Mapping[str, Array], eps: float, same: bool) -> None:
        self.state = state
        self.eps = eps
        self.same = same

    def tensor(self, name: str) -> Array:
        """float32."""
        if name not in self.state:
            raise FileError(f"the checkpoint has no tensor '{name}'")
        return np.asarray(self.state[name], np.float32)

    def convolution(self, x: Value, name: str, norm: str, stride: int = 1, depthwise: bool = False) -> Value:
        """Convolution + batch normalization, as convolution + bias. `name`, `norm`: prefixes in the state dict."""
        weight = self.tensor(f"{name}.weight").astype(np.float64)
        deviation = np.sqrt(self.tensor(f"{norm}.running_var").astype(np.float64) + self.eps)
        gain = self.tensor(f"{norm}.weight") / deviation
        bias = self.tensor(f"{norm}.bias") - self.tensor(f"{norm}.running_mean") * gain
        weight = (weight * gain[:, None, None, None]).astype(np.float32)
        begin, end = self._pads(x, weight.shape[-1], stride)
        kind = "Convolution"
        if depthwise:
            kind, weight = "GroupConvolution", weight[:, :, None]
        y = make(
            kind,
            x,
            constant(weight, name=f"{name}.weight"),
            name=name,
            strides=(stride, stride),
            pads_begin=(begin, begin),
            pads_end=(end, end),
            dilations=(1, 1),
        )
        offset = constant(bias.astype(np.float32).reshape(1, -1, 1, 1), name=f"{name}.bias")
        return make("Add", y, offset, name=f"{name}/bias")

    def _pads(self, x: Value, kernel: int, stride: int) -> tuple[int, int]:
        if not self.same:
            return (kernel - 1) // 2, (kernel - 1) // 2
        size = x.shape.to_static()[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    def relu6(self, x: Value, name: str) -> Value:
        return make("Clamp", x, name=f"{name}/relu6", min=0.0, max=6.0)

    def classifier(self, x: Value, name: str) -> Value:
        """Mean over the picture, then a fully connected layer with bias: [N, C, H, W] -> [N, classes]."""
        mean = make("ReduceMean", x, constant(np.array([2, 3], np.int64), name="axes"), name="mean", keep_dims=False)
        weight = constant(self.tensor(f"{name}.weight"), name=f"{name}.weight")
        y = make("MatMul", mean, weight, name=name, transpose_a=False, transpose_b=True)
        return make("Add", y, constant(self.tensor(f"{name}.bias")[None], name=f"{name}.bias"), name=f"{name}/bias")


def image_input(batch: int, size: int = 224) -> Node:
    """The parameter "input" [batch, 3, size, size], float32."""
    node = parameter((batch, 3, size, size), f32, "input")
    node.output.names.add("input")
    return node


def finish(logits: Value, image: Node, name: str) -> Model:
    """A model with the one output "logits"."""
    logits.names.add("logits")
    return Model([Node(Result(), [logits], "logits")], [image], name)
