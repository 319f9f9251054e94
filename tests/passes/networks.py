"""Small quantized networks, made the way NNCF and lpir write them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make

GEOMETRY = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1), "auto_pad": "explicit"}
STRIDED = GEOMETRY | {"strides": (2, 2)}
POINTWISE = GEOMETRY | {"pads_begin": (0, 0), "pads_end": (0, 0)}


class Builder:
    """Makes layers with random 8-bit weights."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def fake_quantize(self, x: Value, low: float, high: float, name: str = "fq", levels: int = 256) -> Value:
        limits = [constant(np.float32(v), name=f"{name}/limit") for v in (low, high, low, high)]
        return make("FakeQuantize", x, *limits, levels=levels, name=name)

    def weights(self, shape: tuple[int, ...], scaled_axes: int = 1, name: str = "w") -> Value:
        """`Constant i8 -> Convert -> Multiply`, one scale for each index of the first `scaled_axes` axes."""
        codes = self.rng.integers(-127, 128, shape).astype(np.int8)
        scale = self.rng.uniform(0.001, 0.01, shape[:scaled_axes] + (1,) * (len(shape) - scaled_axes))
        wide = make("Convert", constant(codes, name=f"{name}/codes"), destination_type=f32, name=f"{name}/convert")
        return make("Multiply", wide, constant(scale.astype(np.float32), name=f"{name}/scale"), name=name)

    def bias(self, x: Value, channels: int, name: str = "bias") -> Value:
        values = self.rng.normal(size=(1, channels, 1, 1)).astype(np.float32)
        return make("Add", x, constant(values, name=f"{name}/values"), name=name)

    def layer(
        self, x: Value, name: str, type: str, shape: tuple[int, ...], linear: bool = False, **geometry: Any
    ) -> Value:
        """A convolution of one group or of all, its bias, ReLU6 unless `linear`, and codes."""
        y = make(type, x, self.weights(shape, name=f"{name}/w"), name=name, **geometry)
        y = self.bias(y, shape[0], f"{name}/bias")
        if linear:
            return self.fake_quantize(y, -3, 3 * 127 / 128, f"fq/{name}")
        return self.fake_quantize(make("Clamp", y, min=0.0, max=6.0, name=f"{name}/relu6"), 0, 6, f"fq/{name}")

    def dense(self, x: Value, name: str, inputs: int, outputs: int) -> Value:
        """A product of the last axis."""
        w = self.weights((outputs, inputs), name=f"{name}/w")
        return make("MatMul", x, w, transpose_a=False, transpose_b=True, name=name)

    def heads(self, x: Value) -> Value:
        """Codes of [batch, tokens, channels] as [batch, 2, tokens, channels / 2]."""
        x = self.fake_quantize(x, -3, 3 * 127 / 128, "fq/heads")
        x = make("Reshape", x, constant(np.array([0, 0, 2, -1])), special_zero=True)
        return make("Transpose", x, constant(np.array([0, 2, 1, 3])))


def finish(x: Value, image: Node) -> Model:
    return Model([Node(Result(), [x], "out")], [image], "net")


def mobile_block() -> Model:
    """Convolution + ReLU6, a residual, a depthwise convolution, mean, fully connected: [1, 3, 8, 8] -> [1, 10]."""
    b = Builder()
    image = parameter((1, 3, 8, 8), f32, "x")
    x = b.fake_quantize(image.output, -2, 2 * 127 / 128, "fq0")
    x = b.bias(make("Convolution", x, b.weights((16, 3, 3, 3), name="w1"), name="conv1", **GEOMETRY), 16)
    x = b.fake_quantize(make("Clamp", x, min=0.0, max=6.0, name="relu6"), 0, 6, "fq1")
    y = make("Convolution", x, b.weights((16, 16, 3, 3), name="w2"), name="conv2", **GEOMETRY)
    y = b.fake_quantize(y, -3, 3 * 127 / 128, "fq2")
    x = b.fake_quantize(make("Add", x, y, name="residual"), -3, 3 * 127 / 128, "fq3")
    x = make("GroupConvolution", x, b.weights((16, 1, 1, 3, 3), name="w3"), name="depthwise", **GEOMETRY)
    x = b.fake_quantize(make("Relu", x, name="relu"), 0, 4, "fq4")
    x = make("ReduceMean", x, constant(np.array([2, 3])), keep_dims=True, name="mean")
    x = b.fake_quantize(x, 0, 4, "fq5")
    x = make("Reshape", x, constant(np.array([0, -1])), special_zero=True, name="flat")
    x = make("MatMul", x, b.weights((10, 16), name="w4"), transpose_a=False, transpose_b=True, name="fc")
    return finish(x, image)


def inverted_residuals() -> Model:
    """A stem, three blocks of a mobile network with residual and strides, a head, mean: [1, 3, 32, 32] -> [1, 320]."""
    b = Builder(1)
    image = parameter((1, 3, 32, 32), f32, "x")
    x = b.fake_quantize(image.output, -2, 2 * 127 / 128, "fq0")
    x = b.layer(x, "stem", "Convolution", (32, 3, 3, 3), **STRIDED)
    for number, (inner, outer, geometry) in enumerate([(96, 24, STRIDED), (144, 24, GEOMETRY), (144, 40, STRIDED)]):
        y = b.layer(x, f"expand{number}", "Convolution", (inner, x.shape.to_static()[1], 1, 1), **POINTWISE)
        y = b.layer(y, f"depthwise{number}", "GroupConvolution", (inner, 1, 1, 3, 3), **geometry)
        y = b.layer(y, f"project{number}", "Convolution", (outer, inner, 1, 1), linear=True, **POINTWISE)
        same = x.shape == y.shape
        x = b.fake_quantize(make("Add", x, y, name=f"add{number}"), -3, 3 * 127 / 128, f"fq/add{number}") if same else y
    x = b.layer(x, "head", "Convolution", (320, 40, 1, 1), **POINTWISE)
    return finish(make("ReduceMean", x, constant(np.array([2, 3])), keep_dims=False, name="mean"), image)


def encoder() -> Model:
    """One layer of a transformer of 2 heads of 32: attention and a dense pair, each with a residual: [1, 16, 64]."""
    b = Builder(2)
    tokens = parameter((1, 16, 64), f32, "x")
    x = b.fake_quantize(tokens.output, -3, 3 * 127 / 128, "fq0")
    heads = [b.heads(b.dense(x, name, 64, 64)) for name in ("q", "k", "v")]
    mixed = make("ScaledDotProductAttention", *heads, name="attention", causal=False)
    mixed = make("Transpose", mixed, constant(np.array([0, 2, 1, 3])))
    mixed = make("Reshape", mixed, constant(np.array([0, 0, 64])), special_zero=True)
    x = make("Add", tokens.output, b.dense(b.fake_quantize(mixed, -3, 3 * 127 / 128, "fq1"), "o", 64, 64))
    y = make("Gelu", b.dense(b.fake_quantize(x, -6, 6 * 127 / 128, "fq2"), "up", 64, 128), approximation_mode="ERF")
    y = b.dense(b.fake_quantize(y, -1, 127 / 128, "fq3"), "down", 128, 64)
    return finish(make("Add", x, y, name="sum"), tokens)
