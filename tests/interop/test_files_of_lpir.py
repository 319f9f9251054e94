"""Real networks that lpir writes are the same networks in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openvino as ov
import pytest

import lpir
from lpir.ir.model import Model
from tests.interop.agreement import DEEP_SUM, assert_same_network, assert_same_values, lpir_runs, openvino_runs
from tests.interop.conftest import fit
from tests.interop.networks import FLOAT, Array, encoder_block, tokens
from tests.tolerances import assert_close


@pytest.mark.parametrize("name", FLOAT)
def test_float_network(name: str, float_model: Callable[[str], Model], unseen: list[Array], tmp_path: Path) -> None:
    path = tmp_path / "float.xml"
    lpir.save_model(float_model(name), path, compress_to_fp16=False)
    x = [fit(name, unseen[0])]
    ((expected,),) = openvino_runs(path, x)
    for device in ("CPU", "REFERENCE"):
        ((actual,),) = lpir_runs(path, device, x)
        assert_close(actual, expected, DEEP_SUM, device)


@pytest.mark.parametrize("name", FLOAT)
def test_quantized_network(name: str, own_file: Callable[[str], Path], unseen: list[Array]) -> None:
    path = own_file(name)
    samples = [[fit(name, x)] for x in unseen]
    ours, theirs = lpir_runs(path, "CPU", *samples), openvino_runs(path, *samples)
    assert_same_network(ours, theirs, "lpir's CPU against OpenVINO, as written")


def test_quantized_transformer(tmp_path: Path) -> None:
    ov.save_model(encoder_block(), tmp_path / "float.xml", compress_to_fp16=False)
    model = lpir.read_model(tmp_path / "float.xml")
    data = [tokens(seed)[0] for seed in range(6)]
    lpir.save_model(lpir.quantize(model, data, model_type="transformer", progress=False), tmp_path / "int8.xml")
    samples = [tokens(seed) for seed in range(6, 10)]
    theirs = openvino_runs(tmp_path / "int8.xml", *samples)
    for device in ("CPU", "REFERENCE"):
        assert_same_values(lpir_runs(tmp_path / "int8.xml", device, *samples), theirs, device)
    assert lpir.compile_model(tmp_path / "int8.xml", "CPU").explain().refused() == []
