"""Old versions of operations give the answers that OpenVINO gives for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset1, opset2, opset3, opset4, opset5, opset7, opset8, opset16
from openvino.utils.node_factory import NodeFactory

import lpir.ops  # noqa: F401
from lpir.errors import FileError
from lpir.ir.op import REGISTRY, Op
from lpir.serialize.names import LAST_FULL_OPSET, XML_VERSIONS, opset_number, version_in, xml_type, xml_version
from lpir.serialize.versions import HISTORY, STEPS
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import to_bytes
from tests.serialize.oracle import CORE, evaluate, one_operation, run_openvino, tensor
from tests.tolerances import F32_SUM, assert_close

RANDOM = np.random.default_rng(3)


def const(data: Any, dtype: Any = np.int64) -> Any:
    return opset1.constant(np.asarray(data, dtype))


def suppress(x: Any, module: Any, **more: Any) -> Any:
    flat = opset1.reshape(x, const([-1]), False)
    where = opset1.reshape(opset1.strided_slice(flat, [0], [24], [1], [0], [0]), const([1, 6, 4]), False)
    scores = const(RANDOM.uniform(0, 1, (1, 2, 6)), np.float32)
    return module.non_max_suppression(where, scores, const(2), const(0.4, np.float32), const(0.1, np.float32), **more)


def batch_norm(x: Any) -> Any:
    gamma, beta, mean, variance = (const(RANDOM.uniform(0.5, 2, 4), np.float32) for _ in range(4))
    return opset1.batch_norm_inference(x, gamma, beta, mean, variance, 0.01)


def resize_1(mode: str, align: bool, size: tuple[int, int]) -> Callable[[Any], Any]:
    attributes = {"axes": [2, 3], "mode": mode, "align_corners": align, "antialias": False}
    return lambda x: opset1.interpolate(x, const(size), {**attributes, "pads_begin": [0], "pads_end": [0]})


def resize_4(mode: str, **more: Any) -> Callable[[Any], Any]:
    sizes, scales = const([9, 7]), const([1.5, 7 / 6], np.float32)
    attributes = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor", **more, "mode": mode}
    rest = [c.output(0) for c in (sizes, scales, const([2, 3]))]
    return lambda x: NodeFactory("opset4").create("Interpolate", [x.output(0), *rest], attributes)


CASES: dict[str, Callable[[Any], Any]] = {
    "AvgPool-1": lambda x: opset1.avg_pool(x, [2, 2], [1, 0], [0, 1], [3, 3], True, "ceil"),
    "AvgPool-16": lambda x: opset16.avg_pool(x, [2, 2], [1, 1], [0, 0], [2, 2], exclude_pad=True, dilations=[1, 1]),
    "BatchNormInference-1": batch_norm,
    "Broadcast-1": lambda x: opset1.broadcast(x, const([2, 2, 4, 6, 6])),
    "Broadcast-1 explicit": lambda x: opset1.broadcast(x, const([2, 4, 6, 6, 3]), const([0, 1, 2, 3]), "explicit"),
    "Gather-1": lambda x: opset1.gather(x, const([2, 0]), const(1)),
    "Gather-7": lambda x: opset7.gather(x, const([[2, 0], [1, 3]]), const(1), 1),
    "GatherND-5": lambda x: opset5.gather_nd(x, const([[2], [0]]), 1),
    "Gelu-2": lambda x: opset2.gelu(x),
    "Interpolate-1 nearest": resize_1("nearest", False, (9, 12)),
    "Interpolate-1 nearest smaller": resize_1("nearest", False, (4, 3)),
    "Interpolate-1 nearest, aligned": resize_1("nearest", True, (9, 12)),
    "Interpolate-1 linear": resize_1("linear", False, (9, 12)),
    "Interpolate-1 linear, aligned": resize_1("linear", True, (9, 7)),
    "Interpolate-4 sizes": resize_4("linear_onnx", shape_calculation_mode="sizes"),
    "Interpolate-4 scales": resize_4("nearest", shape_calculation_mode="scales"),
    "Interpolate-4 cubic": resize_4("cubic", shape_calculation_mode="sizes", cube_coeff=-0.5),
    "MVN-2 across": lambda x: opset2.mvn(x, True, True, 1e-3),
    "MVN-2": lambda x: opset2.mvn(x, False, True, 1e-3),
    "MVN-2 mean only": lambda x: opset2.mvn(x, False, False, 1e-3),
    "MaxPool-1": lambda x: opset1.max_pool(x, [2, 2], [1, 0], [0, 1], [3, 3], "ceil"),
    "MaxPool-8": lambda x: opset8.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3]),
    "NonMaxSuppression-3": lambda x: suppress(x, opset3),
    "NonMaxSuppression-4": lambda x: suppress(x, opset4, output_type="i32"),
    "NonMaxSuppression-5": lambda x: suppress(x, opset5),
    "OneHot-1": lambda x: opset1.one_hot(
        const([1, 0, -1]), const(3), const(2.0, np.float32), const(1.0, np.float32), -1
    ),
    "Pad-1": lambda x: opset1.pad(x, const([0, 1, 2, 0]), const([0, 0, 1, 1]), "reflect"),
    "ROIAlign-3": lambda x: opset3.roi_align(x, const([[0, 0, 4, 4]], np.float32), const([1]), 2, 2, 2, 1.0, "avg"),
    "Range-1": lambda x: opset1.range(const(1, np.int32), const(9, np.int32), const(3, np.int32)),
    "ScatterElementsUpdate-3": lambda x: opset3.scatter_elements_update(
        x, const(np.zeros((2, 1, 1, 1))), const(np.ones((2, 1, 1, 1)), np.float32), const(1)
    ),
    "ScatterNDUpdate-4": lambda x: opset4.scatter_nd_update(x, const([[1, 2]]), const(np.ones((1, 6, 6)), np.float32)),
    "ShapeOf-1": lambda x: opset1.shape_of(x),
    "Softmax-1": lambda x: opset1.softmax(x, 2),
    "Squeeze-1": lambda x: opset1.squeeze(opset1.unsqueeze(x, const([1])), const([1])),
    "TopK-1": lambda x: opset1.topk(x, const(2), 3, "max", "value"),
    "TopK-3": lambda x: opset3.topk(x, const(2), 3, "min", "value", "i64"),
}


@pytest.mark.parametrize("name", [n for n in CASES if n.split("-")[0] in REGISTRY])
def test_answers(name: str, tmp_path: Path) -> None:
    x = opset1.parameter([2, 4, 6, 6], np.float32, name="x")
    node = CASES[name](x)
    path = tmp_path / "m.xml"
    # the parameter must be used by something even where the case does not need it
    results = [*(opset1.result(v) for v in node.outputs()), opset1.result(opset1.relu(x))]
    ov.save_model(ov.Model(results, [x], "m"), path, compress_to_fp16=False)
    assert f'type="{xml_type(name.split("-")[0])}" version="opset{name.split("-")[1].split()[0]}"' in path.read_text()
    data = RANDOM.standard_normal((2, 4, 6, 6)).astype(np.float32)
    model = read_model(path)
    expected = run_openvino(path, data)
    again = CORE.read_model(*as_openvino(to_bytes(model)))
    for actual in (evaluate(model, data), run_openvino(again, data)):
        for ours, theirs in zip(actual, expected, strict=True):
            # static upper bounds of old NonMaxSuppression are filled with -1
            assert_close(ours, theirs[: len(ours)] if "Suppression" in name else theirs, F32_SUM.per(144))


def as_openvino(files: tuple[bytes, bytes]) -> tuple[bytes, ov.Tensor]:
    return files[0], tensor(files[1])


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_history_is_that_of_openvino(name: str) -> None:
    """For every opset: OpenVINO either refuses the operation, as we do, or takes the version that we say."""
    op = REGISTRY[name]
    cases = op.cases()
    if not cases:
        return
    xml, weights = to_bytes(one_operation(cases[0])[0])
    version = xml_version(cases[0].op)
    written = f'name="op" type="{xml_type(name)}" version="{version}"'
    assert written in xml.decode()
    for opset in range(1, LAST_FULL_OPSET + 1):
        text = xml.decode().replace(written, written.replace(f'"{version}"', f'"opset{opset}"'))
        try:
            theirs = CORE.read_model(text.encode(), tensor(weights))
        except RuntimeError as error:
            if "unsupported opset" in str(error):
                with pytest.raises(FileError):
                    version_in(op, opset)
            continue
        (found,) = [n for n in theirs.get_ops() if n.get_friendly_name() == "op"]
        ours = XML_VERSIONS.get(name, f"opset{version_in(op, opset)}")
        assert found.get_type_info().version_id == ours, opset


@pytest.mark.parametrize("op", [o for n, o in REGISTRY.items() if n in HISTORY], ids=lambda o: o.type_name)
def test_every_older_version_has_a_step(op: type[Op]) -> None:
    modelled = opset_number(op.version)
    assert modelled in HISTORY[op.type_name]
    assert [v for v in HISTORY[op.type_name] if v < modelled and (op.type_name, v) not in STEPS] == []
