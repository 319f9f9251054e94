"""Networks that other tools write, and the same network cut into layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
from openvino import opset14 as ops

from benchmarks.onnx_export import export_onnx
from benchmarks.resnet import ResNet
from lpir.demo.blocks import finish, image_input
from lpir.demo.efficientnet import efficientnet_lite0
from lpir.demo.mobilenet import mobilenet_v2
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model, copy_node
from lpir.ops.boundary import Constant, Result, constant_data, parameter

Array = np.ndarray[Any, np.dtype[Any]]

WIDTH, TOKENS, HEADS = 32, 12, 4


def resnet_block() -> Model:
    """A stem and two bottlenecks of ResNet-50, random weights, 64 x 64 pixels."""
    net, image = ResNet(3), image_input(1, 64)
    x = net.relu(net.convolution(image.output, 32, 7, 2))
    x = net.bottleneck(net.bottleneck(x, 16, 1), 24, 2)
    return finish(x, image, "resnet_block")


FLOAT: dict[str, Callable[[], Model]] = {
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
    "resnet_block": resnet_block,
}


def openvino_model(model: Model, folder: Path) -> ov.Model:
    """What `openvino.convert_model` makes of the network's ONNX form."""
    path = folder / f"{model.name}.onnx"
    export_onnx(model, path)
    return ov.convert_model(path)


def quantize_with_nncf(model: ov.Model, data: list[Any], **options: Any) -> ov.Model:
    """`nncf.quantize` without bias correction, which costs most of its time and changes only constants."""
    fast = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    return nncf.quantize(model, nncf.Dataset(data), subset_size=len(data), advanced_parameters=fast, **options)


def encoder_block() -> ov.Model:
    """One transformer encoder block as exporters write it: [1, 12, 32] -> [1, 12, 32]."""
    rng = np.random.default_rng(5)

    def linear(x: Any, inputs: int, outputs: int) -> Any:
        weight = rng.normal(0, 1 / np.sqrt(inputs), (outputs, inputs)).astype(np.float32)
        bias = rng.normal(0, 0.1, (1, 1, outputs)).astype(np.float32)
        return ops.add(ops.matmul(x, ops.constant(weight), False, True), ops.constant(bias))

    def normal(x: Any) -> Any:
        gain = rng.uniform(0.5, 1.5, (1, 1, WIDTH)).astype(np.float32)
        shift = rng.normal(0, 0.1, (1, 1, WIDTH)).astype(np.float32)
        y = ops.mvn(x, ops.constant(np.array([2])), True, 1e-5, "inside_sqrt")
        return ops.add(ops.multiply(y, ops.constant(gain)), ops.constant(shift))

    def heads(x: Any) -> Any:
        split = ops.reshape(x, ops.constant(np.array([0, 0, HEADS, WIDTH // HEADS])), True)
        return ops.transpose(split, ops.constant(np.array([0, 2, 1, 3])))

    x = ops.parameter([1, TOKENS, WIDTH], np.float32, name="tokens")
    y = normal(x)
    q, k, v = (heads(linear(y, WIDTH, WIDTH)) for _ in range(3))
    scale = ops.constant(np.float32((WIDTH // HEADS) ** -0.5))
    weights = ops.softmax(ops.multiply(ops.matmul(q, k, False, True), scale), -1)
    mixed = ops.transpose(ops.matmul(weights, v, False, False), ops.constant(np.array([0, 2, 1, 3])))
    y = ops.add(x, linear(ops.reshape(mixed, ops.constant(np.array([0, 0, WIDTH])), True), WIDTH, WIDTH))
    hidden = ops.gelu(linear(normal(y), WIDTH, 4 * WIDTH), "erf")
    y = ops.add(y, linear(hidden, 4 * WIDTH, WIDTH))
    return ov.Model([ops.result(y, name="out")], [x], "encoder_block")


def tokens(seed: int) -> list[Array]:
    """Inputs of `encoder_block`."""
    return [np.random.default_rng(seed).standard_normal((1, TOKENS, WIDTH)).astype(np.float32)]


def cut_at_codes(model: Model) -> tuple[Model, list[str]]:
    """The quantized network as separate layers, so that no difference travels from one to the next.

    Each activation FakeQuantize ends a layer (a Result) and begins the next ones (a Parameter in front of a copy of
    it; quantizing twice changes nothing). Parameters after the network's own are named and ordered as the returned
    names; so are the Results before the network's own.
    """
    parameters: list[Node] = []
    results: list[Node] = []

    def replace(node: Node, inputs: list[Value]) -> list[Value] | None:
        if node.op.type_name != "FakeQuantize" or constant_data(inputs[0]) is not None:
            return None
        end = copy_node(node, inputs)
        results.append(Node(Result(), end.outputs, f"{node.name}/end"))
        parameters.append(parameter(inputs[0].shape, inputs[0].element_type, f"{node.name}/begin"))
        # with the limits in common, OpenVINO 2026.4 cannot compile two FakeQuantize of a channel each
        limits = [copy_node(v.node, ()).output for v in inputs[1:]]
        return copy_node(node, [parameters[-1].output, *limits]).outputs

    copy = model.clone(replace)
    names = [r.name.removesuffix("/end") for r in results]
    cut = Model([*results, *copy.results], [*copy.parameters, *parameters], model.name)
    return cut, names


def steps_of(model: Model, names: list[str]) -> dict[str, tuple[Array, Array]]:
    """The lowest value and the step of each FakeQuantize, by its name."""
    found = {}
    for node in model.nodes():
        if node.name in names:
            low, high = (value.node.op for value in node.inputs[3:])
            assert isinstance(low, Constant)
            assert isinstance(high, Constant)
            levels = node.op.attributes()["levels"]
            found[node.name] = low.data, (high.data - low.data) / np.float32(levels - 1)
    return found


def every_code(model: Model) -> Model:
    """The network with the output of every activation FakeQuantize as a Result, in the order of `cut_at_codes`."""
    results: list[Node] = []

    def replace(node: Node, inputs: list[Value]) -> list[Value] | None:
        if node.op.type_name != "FakeQuantize" or constant_data(inputs[0]) is not None:
            return None
        copy = copy_node(node, inputs)
        results.append(Node(Result(), copy.outputs, f"{node.name}/end"))
        return copy.outputs

    copy = model.clone(replace)
    return Model([*results, *copy.results], copy.parameters, model.name)
