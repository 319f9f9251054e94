"""The CPU device on real networks: the lowered reference's bits, and REFERENCE's codes layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas
from tests.interop.agreement import DEEP_SUM, assert_codes, lowered_runs, lpir_runs, openvino_runs
from tests.interop.conftest import fit
from tests.interop.networks import FLOAT, Array, cut_at_codes, every_code, steps_of
from tests.tolerances import EXACT, assert_close


@pytest.mark.parametrize("name", FLOAT)
@pytest.mark.parametrize("writer", ["nncf", "own"])
def test_bits_of_the_lowered_reference(
    name: str, writer: str, nncf_file: Callable[[str], Path], own_file: Callable[[str], Path], unseen: list[Array]
) -> None:
    model = lpir.read_model({"nncf": nncf_file, "own": own_file}[writer](name))
    samples = [[fit(name, x)] for x in unseen]
    expected = lowered_runs(model, *samples)
    for threads in (1, 2):
        compiled = lpir.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
        for x, (y,) in zip(samples, expected, strict=True):
            assert_close(np.asarray(compiled(x)[0]), y, EXACT, f"{threads} threads")


@pytest.mark.parametrize("isa", [isa.name for isa in all_isas() if isa.available()])
def test_every_instruction_set_gives_the_same_bits(
    isa: str, nncf_file: Callable[[str], Path], unseen: list[Array]
) -> None:
    path = nncf_file("mobilenet_v2")
    expected, actual = (lpir.compile_model(path, "CPU", config)(unseen[0])[0] for config in ({}, {"ISA": isa}))
    assert_close(np.asarray(actual), np.asarray(expected), EXACT)


@pytest.mark.parametrize("writer", ["nncf", "own"])
def test_each_layer_is_within_one_step(
    writer: str, nncf_file: Callable[[str], Path], own_file: Callable[[str], Path], unseen: list[Array], tmp_path: Path
) -> None:
    """Every layer gets REFERENCE's own input, so that a difference is the layer's own."""
    model = lpir.read_model({"nncf": nncf_file, "own": own_file}[writer]("mobilenet_v2"))
    cut, names = cut_at_codes(model)
    (codes,) = lpir_runs(every_code(model), "REFERENCE", [unseen[0]])
    inputs = [unseen[0], *codes[: len(names)]]
    lpir.save_model(cut, tmp_path / "cut.xml", compress_to_fp16=False)
    steps = steps_of(cut, names)
    (ours,), (theirs,) = lpir_runs(cut, "CPU", inputs), openvino_runs(tmp_path / "cut.xml", inputs)
    for who, found in {"CPU": ours, "OpenVINO": theirs}.items():
        assert len(found) == len(codes)
        for name, actual, expected in zip(names, found, codes, strict=False):
            assert_codes(actual, expected, *steps[name], f"{who}: {name}")
        assert_close(found[-1], codes[-1], DEEP_SUM, who)
