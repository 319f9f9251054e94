"""IR files of OpenVINO and NNCF give the same answers here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nncf
import openvino as ov
import pytest

import lpir
from lpir.ir.model import Model
from tests.interop.agreement import (
    DEEP_SUM,
    F16_WEIGHTS,
    assert_same_network,
    assert_same_values,
    lpir_runs,
    openvino_runs,
)
from tests.interop.conftest import fit
from tests.interop.networks import FLOAT, WIDTH, Array, encoder_block, openvino_model, quantize_with_nncf, tokens
from tests.tolerances import F32_CHAIN, F32_SUM, assert_close

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
# the six layers of the block with weights, and Q x K; probabilities x V stay float in NNCF's transformers
INT8_PRODUCTS = 7


@pytest.mark.parametrize(("name", "compress"), [*((n, False) for n in FLOAT), ("mobilenet_v2", True)])
def test_converted_network(
    name: str, compress: bool, float_model: Callable[[str], Model], unseen: list[Array], tmp_path: Path
) -> None:
    path = tmp_path / "converted.xml"
    ov.save_model(openvino_model(float_model(name), tmp_path), path, compress_to_fp16=compress)
    x = [fit(name, unseen[0])]
    ((expected,),) = openvino_runs(path, x)
    for device in ("CPU", "REFERENCE"):
        ((actual,),) = lpir_runs(path, device, x)
        assert_close(actual, expected, DEEP_SUM, device)


@pytest.mark.parametrize("name", FLOAT)
def test_network_that_nncf_quantized(name: str, nncf_file: Callable[[str], Path], unseen: list[Array]) -> None:
    """The formula of FakeQuantize in float, here and in OpenVINO, and the CPU's integers."""
    path = nncf_file(name)
    samples = [[fit(name, x)] for x in unseen]
    theirs = openvino_runs(path, *samples)
    assert_same_network(lpir_runs(path, "REFERENCE", *samples), theirs, "REFERENCE against OpenVINO, as written")
    assert_same_network(lpir_runs(path, "CPU", *samples), theirs, "lpir's CPU against OpenVINO, as written")


@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v2", 53), ("efficientnet_lite0", 50)])
def test_every_layer_of_nncf_runs_in_int8(name: str, layers: int, nncf_file: Callable[[str], Path]) -> None:
    explanation = lpir.compile_model(nncf_file(name), "CPU").explain()
    rows = [r for r in explanation if r.type in WEIGHTED]
    assert len(rows) == layers
    assert {r.precision for r in rows} == {"INT8"}
    assert explanation.refused() == []
    assert [r.name for r in explanation if r.kernel == "eval"] == []


def test_encoder_block(tmp_path: Path) -> None:
    path = tmp_path / "block.xml"
    ov.save_model(encoder_block(), path, compress_to_fp16=False)
    x = tokens(0)
    ((expected,),) = openvino_runs(path, x)
    for device in ("CPU", "REFERENCE"):
        ((actual,),) = lpir_runs(path, device, x)
        assert_close(actual, expected, F32_SUM.per(WIDTH), device)


def test_encoder_block_that_nncf_quantized(tmp_path: Path) -> None:
    path = tmp_path / "block.xml"
    data = [tokens(seed)[0] for seed in range(6)]
    ov.save_model(quantize_with_nncf(encoder_block(), data, model_type=nncf.ModelType.TRANSFORMER), path)
    samples = [tokens(seed) for seed in range(6, 10)]
    theirs = openvino_runs(path, *samples)
    assert_same_values(lpir_runs(path, "REFERENCE", *samples), theirs, "REFERENCE")
    assert_same_values(lpir_runs(path, "CPU", *samples), theirs, "CPU")
    explanation = lpir.compile_model(path, "CPU").explain()
    assert explanation.refused() == []
    assert [r.name for r in explanation if r.kernel == "eval"] == []
    assert sum(r.precision == "INT8" for r in explanation if r.type == "MatMul") == INT8_PRODUCTS


@pytest.mark.parametrize("mode", ["INT8_ASYM", "INT8_SYM", "INT4_ASYM", "INT4_SYM"])
def test_compressed_weights(mode: str, tmp_path: Path) -> None:
    options = {"group_size": 16, "ratio": 1.0, "all_layers": True} if mode.startswith("INT4") else {}
    path = tmp_path / "compressed.xml"
    compressed = nncf.compress_weights(encoder_block(), mode=nncf.CompressWeightsMode[mode], **options)
    ov.save_model(compressed, path)
    x = tokens(0)
    ((expected,),), ((reference,),) = openvino_runs(path, x), lpir_runs(path, "REFERENCE", x)
    assert_close(reference, expected, F16_WEIGHTS)
    # both devices decompress in float32
    ((actual,),) = lpir_runs(path, "CPU", x)
    assert_close(actual, expected, F32_CHAIN.per(WIDTH))
