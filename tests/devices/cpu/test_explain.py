"""Which kernel each public operation is said to run in."""

from __future__ import annotations

import numpy as np

import lpir
from lpir.frontends.onnx import read_onnx
from lpir.runtime.explain import Row
from tests.cli.conftest import float_network


def rows(quantized: bool, **config: object) -> dict[str, Row]:
    model = read_onnx(float_network().SerializeToString())
    if quantized:
        model = lpir.quantize(model, [np.ones((1, 3, 8, 8), np.float32)], progress=False)
    return {r.name: r for r in lpir.compile_model(model, "CPU", config).explain()}


def test_every_operation_is_explained_once() -> None:
    for quantized in (False, True):
        found = rows(quantized)
        assert {"conv1", "relu", "conv2", "pool"} <= set(found)
        assert all(r.kernel and r.precision for r in found.values())


def test_fused_operations_name_their_host() -> None:
    found = rows(quantized=True)
    assert found["conv1"].precision == "INT8"
    assert not found["conv1"].part_of
    assert found["relu"].part_of == "conv1"
    assert found["relu"].kernel == f"in epilogue of {found['conv1'].kernel.split(', ')[-1]}"
    assert not found["relu"].is_folded


def test_decoded_weights_are_folded() -> None:
    found = rows(quantized=True)
    folded = [r for r in found.values() if r.is_folded]
    assert {r.type for r in folded} == {"Convert", "Multiply"}
    assert all(r.kernel == "folded" for r in folded)


def test_float_is_float() -> None:
    for found in (rows(quantized=False), rows(quantized=True, LP_TRANSFORMS_MODE="NO")):
        assert {found[n].precision for n in ("conv1", "conv2", "pool")} == {"FP32"}
        assert not any(r.reasons for r in found.values())
