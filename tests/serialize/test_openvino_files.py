"""Files of OpenVINO are read, evaluated, written and read again by OpenVINO: the same network, the same answers."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset14
from openvino import opset16 as ops

from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import to_bytes, write_model
from tests.serialize.oracle import CORE, evaluate, run_openvino, structure
from tests.tolerances import F32_SUM, assert_close

RANDOM = np.random.default_rng(7)


def weight(*shape: int) -> Any:
    values = RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return ops.constant(values.astype(np.float32))


def conv_net() -> ov.Model:
    x = ops.parameter([1, 3, 16, 16], np.float32, name="image, left")
    x.output(0).set_names({"in,put", "back\\slash"})
    y = ops.convolution(x, weight(8, 3, 3, 3), [2, 2], [1, 1], [1, 1], [1, 1])
    y = ops.relu(ops.add(y, weight(1, 8, 1, 1)))
    y = ops.group_convolution(y, weight(8, 1, 1, 3, 3), [1, 1], [0, 0], [0, 0], [1, 1], auto_pad="same_upper")
    y = ops.clamp(y, 0.0, 6.0)
    pooled = ops.max_pool(y, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2])
    y = opset14.avg_pool(pooled.output(0), [2, 2], [0, 0], [0, 0], [2, 2], exclude_pad=True)
    y = ops.reduce_mean(y, ops.constant(np.array([2, 3])), keep_dims=False)
    y = ops.softmax(ops.matmul(y, weight(5, 8), False, True), 1)
    y.output(0).set_names({"scores"})
    results = [ops.result(y, name="out"), ops.result(pooled.output(1))]
    model = ov.Model(results, [x], "conv net")
    model.set_rt_info(["a", "b"], ["conversion_parameters", "list"])
    model.set_rt_info("{'x': 1}", ["nncf", "quantization", "advanced parameters"])
    return model


def transformer_block() -> ov.Model:
    x = ops.parameter(ov.PartialShape([-1, ov.Dimension(1, 12), 16]), np.float32, name="tokens")
    normal = ops.mvn(x, ops.constant(np.array([2])), True, 1e-5, "inside_sqrt")
    shape = ops.constant(np.array([0, 0, 4, 4]))
    q, k, v = (
        ops.transpose(ops.reshape(ops.matmul(normal, weight(16, 16), False, False), shape, True), ops.constant(order))
        for order in ([0, 2, 1, 3], [0, 2, 1, 3], [0, 2, 1, 3])
    )
    scores = ops.softmax(ops.multiply(ops.matmul(q, k, False, True), ops.constant(np.float32(0.5))), -1)
    mixed = ops.transpose(ops.matmul(scores, v, False, False), ops.constant([0, 2, 1, 3]))
    joined = ops.reshape(mixed, ops.constant(np.array([0, 0, 16])), True)
    y = ops.add(x, ops.matmul(joined, weight(16, 16), False, False))
    hidden = ops.gelu(ops.matmul(y, weight(16, 32), False, False), "erf")
    y = ops.add(y, ops.matmul(hidden, weight(32, 16), False, False))
    first = ops.gather(y, ops.constant(np.array([0])), ops.constant(np.array(1)))
    return ov.Model([ops.result(y), ops.result(ops.squeeze(first, ops.constant(np.array([1]))))], [x], "block")


def movement() -> ov.Model:
    x = ops.parameter([2, 6, 5], np.float32, name="x")
    parts = ops.split(x, ops.constant(np.array(1)), 3)
    joined = ops.concat([parts.output(2), parts.output(0)], -1)
    sliced = ops.strided_slice(joined, [0, 0, -8], [2, 2, 10], [1, 1, 2], [0, 1, 0], [1, 0, 0])
    padded = ops.pad(sliced, [0, 1, 0], [1, 0, 2], "constant", ops.constant(np.float32(3)))
    top = ops.topk(padded, ops.constant(np.array(2)), 2, "max", "value")
    size = ops.shape_of(padded, "i32")
    half = ops.interpolate(ops.unsqueeze(x, ops.constant(np.array([0]))), [3, 3], "nearest", "sizes", axes=[2, 3])
    return ov.Model([ops.result(v) for v in (padded, top.output(0), top.output(1), size, half)], [x], "movement")


def canonical(text: bytes) -> Any:
    """The file without ids, offsets and order of layers and attributes: all the rest must be equal."""
    root = ET.fromstring(text)
    names = {layer.get("id"): layer.get("name") for layer in root.iter("layer")}
    layers = []
    for layer in root.iter("layer"):
        del layer.attrib["id"]
        data = layer.find("data")
        if data is not None and "offset" in data.attrib:
            del data.attrib["offset"]
        for info in layer.findall("rt_info"):
            # a hint to their own plugins on constants that give shapes
            for hint in [a for a in info if a.get("name") == "DisablePrecisionConversion"]:
                info.remove(hint)
            if len(info) == 0:
                layer.remove(info)
        if data is not None:
            data.attrib = dict(sorted(data.attrib.items()))
        layers.append("".join(ET.tostring(layer, "unicode").split("\n")))
    edges = [
        (names[e.get("from-layer")], e.get("from-port"), names[e.get("to-layer")], e.get("to-port"))
        for e in root.iter("edge")
    ]
    run_time = {k: ET.tostring(e) for e in root.find("rt_info") or () for k in [e.get("name") or e.tag]}
    return root.attrib, sorted(layers), sorted(edges), run_time


CASES: dict[str, tuple[Callable[[], ov.Model], tuple[int, ...]]] = {
    "conv": (conv_net, (1, 3, 16, 16)),
    "transformer": (transformer_block, (2, 7, 16)),
    "movement": (movement, (2, 6, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_read_evaluate_write(case: str, tmp_path: Path) -> None:
    make, shape = CASES[case]
    ov.save_model(make(), tmp_path / "theirs.xml", compress_to_fp16=False)
    model = read_model(tmp_path / "theirs.xml")
    write_model(model, tmp_path / "ours.xml")
    assert canonical((tmp_path / "ours.xml").read_bytes()) == canonical((tmp_path / "theirs.xml").read_bytes())
    assert structure(CORE.read_model(tmp_path / "ours.xml")) == structure(CORE.read_model(tmp_path / "theirs.xml"))
    x = RANDOM.standard_normal(shape).astype(np.float32)
    expected = run_openvino(tmp_path / "theirs.xml", x)
    for other in (run_openvino(tmp_path / "ours.xml", x), evaluate(model, x)):
        for actual, wanted in zip(other, expected, strict=True):
            # sums of at most 32 terms, a dozen of them in a row
            assert_close(actual, wanted, F32_SUM.per(500))


@pytest.mark.parametrize("case", CASES)
def test_fp16_as_openvino(case: str, tmp_path: Path) -> None:
    ov.save_model(CASES[case][0](), tmp_path / "full.xml", compress_to_fp16=False)
    ov.save_model(CORE.read_model(tmp_path / "full.xml"), tmp_path / "theirs.xml", compress_to_fp16=True)
    write_model(read_model(tmp_path / "full.xml"), tmp_path / "ours.xml", compress_to_fp16=True)
    assert canonical((tmp_path / "ours.xml").read_bytes()) == canonical((tmp_path / "theirs.xml").read_bytes())
    assert (tmp_path / "ours.bin").stat().st_size == (tmp_path / "theirs.bin").stat().st_size


def test_layouts_survive(tmp_path: Path) -> None:
    from openvino.preprocess import PrePostProcessor

    process = PrePostProcessor(conv_net())
    process.input().tensor().set_layout(ov.Layout("NHWC"))
    process.input().model().set_layout(ov.Layout("NCHW"))
    ov.save_model(process.build(), tmp_path / "m.xml", compress_to_fp16=False)
    model = read_model(tmp_path / "m.xml")
    assert model.inputs[0].rt_info == {"layout": {"version": "0", "layout": "[N,H,W,C]"}}
    assert canonical(to_bytes(model)[0]) == canonical((tmp_path / "m.xml").read_bytes())
