"""A network that NNCF quantized: read, evaluated as OpenVINO evaluates it as written, and written unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import pytest
from openvino import opset14 as ops

from lpir.serialize.compress_fp16 import is_quantized
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import write_model
from tests.serialize.oracle import CORE, evaluate, run_openvino, structure
from tests.serialize.test_openvino_files import canonical
from tests.tolerances import ONE_STEP, Tolerance, assert_close

RANDOM = np.random.default_rng(11)
SHAPE = (1, 3, 16, 16)


def weight(*shape: int) -> Any:
    return ops.constant(RANDOM.normal(0, 0.3, shape).astype(np.float32))


def network() -> ov.Model:
    x = ops.parameter(list(SHAPE), np.float32, name="x")
    y = ops.convolution(x, weight(8, 3, 3, 3), [2, 2], [1, 1], [1, 1], [1, 1])
    y = ops.relu(ops.add(y, weight(1, 8, 1, 1)))
    z = ops.group_convolution(y, weight(8, 1, 1, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    y = ops.add(y, ops.clamp(z, 0.0, 6.0))
    y = ops.reduce_mean(
        ops.convolution(y, weight(12, 8, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1]), np.array([2, 3]), False
    )
    return ov.Model([ops.result(ops.matmul(y, weight(5, 12), False, True), name="out")], [x], "tiny")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nncf") / "int8.xml"
    data = [RANDOM.standard_normal(SHAPE).astype(np.float32) for _ in range(4)]
    ov.save_model(nncf.quantize(network(), nncf.Dataset(data), subset_size=4), path)
    return path


def test_answers(path: Path) -> None:
    model = read_model(path)
    assert is_quantized(model)
    for _ in range(4):
        x = RANDOM.standard_normal(SHAPE).astype(np.float32)
        (expected,) = run_openvino(path, x)
        (actual,) = evaluate(model, x)
        # their FakeQuantize is another formula: a few inputs land one step of 256 away
        allowed = Tolerance("ONE_INNER_STEP", ONE_STEP.reason, of_max=2 / 255)
        assert_close(actual, expected, allowed)


@pytest.mark.parametrize("compress", [False, True])
def test_written_unchanged(path: Path, tmp_path: Path, compress: bool) -> None:
    model = read_model(path)
    write_model(model, tmp_path / "m.xml", compress_to_fp16=compress)
    assert canonical((tmp_path / "m.xml").read_bytes()) == canonical(path.read_bytes())
    assert structure(CORE.read_model(tmp_path / "m.xml")) == structure(CORE.read_model(path))
    assert (tmp_path / "m.bin").stat().st_size == path.with_suffix(".bin").stat().st_size
    assert model.rt_info["nncf"]["quantization"]["preset"]
    x = RANDOM.standard_normal(SHAPE).astype(np.float32)
    np.testing.assert_array_equal(run_openvino(tmp_path / "m.xml", x)[0], run_openvino(path, x)[0])
