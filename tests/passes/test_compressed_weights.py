"""Weights as `nncf.compress_weights` writes them stay codes, and mean what the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import pytest
from openvino import opset14 as ops

import lpir
from lpir.devices.cpu import pipeline
from lpir.devices.cpu.isa import all_isas, host_isa
from lpir.devices.cpu.plan import Planner
from lpir.ir.types import f32
from lpir.ops.boundary import constant
from lpir.ops.builder import make
from lpir.passes.lowprec.weights import find_grouped
from lpir.serialize.xml_read import read_model
from tests.tolerances import F32_SUM, Tolerance, assert_close

RANDOM = np.random.default_rng(5)
K, HIDDEN, ROWS = 128, 192, 40
MODES = ("INT8_ASYM", "INT8_SYM", "INT4_SYM", "INT4_ASYM")
ISAS = [isa.name for isa in all_isas() if isa.available()]


def network() -> ov.Model:
    """An embedding and two layers, one of them with its weights the other way round."""
    ids = ops.parameter([-1], np.int64, name="ids")
    table = ops.constant(RANDOM.standard_normal((ROWS, K)).astype(np.float32) + 0.3)
    y = ops.gather(table, ids, np.int64(0))
    y = ops.relu(ops.matmul(y, ops.constant(RANDOM.standard_normal((HIDDEN, K)).astype(np.float32)), False, True))
    y = ops.matmul(y, ops.constant(RANDOM.standard_normal((HIDDEN, K)).astype(np.float32)), False, False)
    return ov.Model([ops.result(y, name="y")], [ids], "tiny")


@pytest.fixture(scope="module", params=MODES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nncf") / f"{request.param}.xml"
    more: dict[str, Any] = {} if "INT8" in request.param else {"group_size": 64, "ratio": 1.0, "all_layers": True}
    ov.save_model(nncf.compress_weights(network(), mode=nncf.CompressWeightsMode[request.param], **more), path)
    return path


def inputs() -> list[np.ndarray[Any, Any]]:
    return [RANDOM.integers(0, ROWS, n) for n in (1, 3, 30)]


def test_answers_are_those_of_float32_arithmetic(path: Path) -> None:
    """As OpenVINO computes them: files hold the scales in float16, the arithmetic is float32."""
    config = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    theirs = ov.Core().compile_model(path, "CPU", config)
    compiled = [lpir.compile_model(path, "CPU", {"ISA": isa}) for isa in ISAS]
    for ids in inputs():
        expected = theirs(ids)[0]
        for model in compiled:
            assert_close(np.asarray(model(ids)[0]), expected, F32_SUM.per(HIDDEN))


def test_the_reference_rounds_to_float16_on_the_way(path: Path) -> None:
    ids = np.arange(8)
    expected = np.asarray(lpir.compile_model(path, "REFERENCE")(ids)[0])
    allowed = Tolerance("F16_WEIGHTS", "every weight is rounded to float16", of_max=2e-3)
    assert_close(np.asarray(lpir.compile_model(path, "CPU")(ids)[0]), expected, allowed)


def static(path: Path) -> Any:
    """The model for three tokens."""
    model = read_model(path)
    model.reshape({0: (3,)})
    return model


def test_explain_says_how_weights_are_kept(path: Path) -> None:
    rows = [r for r in lpir.compile_model(static(path), "CPU").explain().rows if r.type in ("MatMul", "Gather")]
    assert [r.type for r in rows] == ["Gather", "MatMul", "MatMul"]
    assert "gather" in rows[0].kernel
    assert rows[0].precision == "INT8"
    for row in rows[1:]:
        assert row.kernel in ("weight_stream", "weight_panel")
        assert any("codes in memory and are decoded where they are multiplied" in r for r in row.reasons)


def test_weights_stay_compressed(path: Path) -> None:
    """The plan's constants are the codes with, for each group of 64, a scale and a zero point; no decoded matrix."""
    lowered = pipeline.lower(pipeline.prepare(static(path), True), True)
    plan = Planner(lowered, host_isa(), 1).plan()
    count, bits = ROWS * K + 2 * HIDDEN * K, 4 if "INT4" in path.name else 8
    assert plan.constants.nbytes < count * bits / 8 + 8 * count / 64 * 1.5 + 4096


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_no_group(axis: int) -> None:
    real = make("Convert", constant(RANDOM.integers(-8, 8, (32, 32)).astype(np.int8)), destination_type=f32)
    varying = make("Multiply", real, constant(np.ones((32, 32), np.float32)))
    assert find_grouped(varying, axis) == "the weights' scale or zero point varies inside a group"
    three = make("Convert", constant(np.zeros((4, 8, 32), np.int8)), destination_type=f32)
    scaled = make("Multiply", three, constant(np.float32(2)))
    wrong = make("Reshape", scaled, constant(np.array([16, 64])), special_zero=False)
    assert "are no groups of" in str(find_grouped(wrong, axis))
    assert find_grouped(real, axis) is None
