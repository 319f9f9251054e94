"""The scripts of examples/, run as a user runs them, on a small network."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import lpir
from tests.cli.conftest import float_network

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, items.npy and int8.xml."""
    made = tmp_path_factory.mktemp("examples")
    onnx.save(float_network(), made / "model.onnx")
    items = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.save(made / "items.npy", items)
    model = lpir.convert_model(made / "model.onnx")
    lpir.save_model(lpir.quantize(model, list(items[:, None])), made / "int8.xml")
    return made


ARGUMENTS = {
    "quantize_onnx": (["model.onnx", "items.npy", "new.xml"], ["operations run in INT8", "cosine"]),
    "explain": (["int8.xml"], ["CPU (", "3 of 3 operations run in INT8", "conv1", " us"]),
    "async_requests": (["int8.xml"], ["inferences/s", "the same as one after the other"]),
}


def test_every_example_is_run() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = ARGUMENTS[name]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    for word in words:
        assert word in out
    # what the script says about itself is how the test runs it
    text = (EXAMPLES / f"{name}.py").read_text()
    assert f"python examples/{name}.py {' '.join(arguments)}".replace("new.xml", "int8.xml") in text
