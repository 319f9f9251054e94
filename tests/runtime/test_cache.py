"""CACHE_DIR: what is found there is what would have been compiled, or it is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.aot import seal
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.runtime.cache import file_digest, model_digest
from lpir.runtime.session import CompiledModel
from tests.devices.cpu.foreign import foreign
from tests.passes.networks import mobile_block
from tests.tolerances import EXACT, assert_close

X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def compiled(folder: Path, model: Any = None, **config: Any) -> CompiledModel:
    return lpir.compile_model(model or mobile_block(), "CPU", {"CACHE_DIR": folder, **config})


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def is_hit(model: CompiledModel) -> bool:
    return bool(model.get_property("LOADED_FROM_CACHE"))


def test_the_second_compilation_is_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    first, second = compiled(folder), compiled(folder)
    assert (is_hit(first), is_hit(second)) == (False, True)
    assert_close(second([X])[0], first([X])[0], EXACT)
    assert len(entries(folder)) == 1
    assert str(second.input_ports) == str(first.input_ports)
    assert second.explain() == first.explain()


def test_a_file_is_found_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "block.xml"
    lpir.save_model(mobile_block(), path)
    first = compiled(tmp_path / "cache", path)
    monkeypatch.setattr(lpir.Core, "read_model", None)
    second = compiled(tmp_path / "cache", path)
    assert is_hit(second)
    assert_close(second([X])[0], first([X])[0], EXACT)
    assert str(second.input_ports) == str(first.input_ports)


def test_a_file_with_other_weights_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "block.xml"
    lpir.save_model(mobile_block(), path)
    before = file_digest(path)
    weights = bytearray(path.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    path.with_suffix(".bin").write_bytes(weights)
    assert file_digest(path) != before
    (tmp_path / "one.onnx").write_bytes(b"weights")
    (tmp_path / "two.onnx").write_bytes(b"location of weights")
    assert file_digest(tmp_path / "one.onnx") is not None
    assert file_digest(tmp_path / "two.onnx") is None


@pytest.mark.parametrize("config", [{"ISA": "generic"}, {"INFERENCE_NUM_THREADS": 3}, {"LP_TRANSFORMS_MODE": "NO"}])
def test_other_settings_are_other_entries(tmp_path: Path, config: dict[str, Any]) -> None:
    compiled(tmp_path)
    assert not is_hit(compiled(tmp_path, **config))
    assert is_hit(compiled(tmp_path, **config))
    assert len(entries(tmp_path)) == 2


def small(values: Any = (1.0, 2.0), kind: str = "Add", name: str = "x", low: float = 0.0) -> Model:
    p = parameter([2], f32, name)
    value = make(kind, p.outputs[0], constant(np.array(values, np.float32)), name="a")
    value = make("Clamp", value, min=low, max=6.0, name="b")
    return Model([Node(Result(), [value], "r")], [p])


def test_the_digest_sees_everything() -> None:
    models = [small(), small((1.0, 3.0)), small(kind="Multiply"), small(name="y"), small(low=1.0)]
    models += [small(np.array((1.0, 2.0), np.float32).view(np.float32) * -1)]
    assert len({model_digest(m) for m in models}) == len(models)
    assert model_digest(small()) == model_digest(small().clone())


@pytest.mark.parametrize("damage", ["empty", "half", "bit", "text", "longer"])
def test_a_damaged_entry_is_replaced(tmp_path: Path, damage: str) -> None:
    expected = compiled(tmp_path)([X])[0]
    (path,) = entries(tmp_path)
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 4
    broken = {"empty": b"", "half": data[: len(data) // 2], "bit": bytes(flipped), "text": b"hello" * 999}
    path.unlink()
    path.write_bytes(broken.get(damage, data + b"more"))
    again = compiled(tmp_path)
    assert not is_hit(again)
    assert_close(again([X])[0], expected, EXACT)
    assert is_hit(compiled(tmp_path))


def test_an_entry_of_other_versions_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(seal, "maker", lambda: bytes(32))
        compiled(tmp_path)
        assert is_hit(compiled(tmp_path))
    assert not is_hit(compiled(tmp_path))
    assert is_hit(compiled(tmp_path))
    assert len(entries(tmp_path)) == 1


def test_an_entry_under_a_wrong_name_is_not_used(tmp_path: Path) -> None:
    compiled(tmp_path)
    (mine,) = entries(tmp_path)
    compiled(tmp_path, small())
    (other,) = set(entries(tmp_path)) - {mine}
    other.write_bytes(mine.read_bytes())
    found = compiled(tmp_path, small())
    assert not is_hit(found)
    assert_close(found([np.zeros(2, np.float32)])[0], np.array([1, 2], np.float32), EXACT)


def test_without_llvmlite_an_entry_of_any_llvmlite_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(tmp_path)
    monkeypatch.setattr(seal, "llvmlite_version", lambda: "")
    seal.maker.cache_clear()
    try:
        assert is_hit(compiled(tmp_path))
    finally:
        seal.maker.cache_clear()


def test_a_folder_that_cannot_be_written_only_warns(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.warns(RuntimeWarning, match="CACHE_DIR"):
        found = compiled(file)
    assert found([X])[0].shape


def test_a_model_without_a_library_is_compiled_each_time(tmp_path: Path) -> None:
    p = parameter([2, 8], f32, "x")
    model = Model([Node(Result(), [foreign(p.outputs[0])], "r")], [p])
    for _ in range(2):
        found = compiled(tmp_path, model)
        assert not is_hit(found)
        np.testing.assert_array_equal(found([np.ones((2, 8), np.float32)])[0], np.full((2, 8), -1, np.float32))
    assert not entries(tmp_path)
    reference = lpir.compile_model(small(), "REFERENCE", {"CACHE_DIR": tmp_path})
    assert not is_hit(reference)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "block.xml"
    lpir.save_model(mobile_block(), path)
    code = f"""
import numpy as np, lpir
found = lpir.compile_model({str(path)!r}, "CPU", {{"CACHE_DIR": {str(tmp_path / "cache")!r}}})
print(found(np.ones((1, 3, 8, 8), np.float32))[0].tobytes().hex())
"""
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(printed) == 1
    assert [p.suffix for p in entries(tmp_path / "cache")] == [".so"]
    assert os.access(entries(tmp_path / "cache")[0], os.R_OK)


def test_a_warm_start_imports_no_compiler(tmp_path: Path) -> None:
    path = tmp_path / "block.xml"
    lpir.save_model(mobile_block(), path)
    compiled(tmp_path / "cache", path)
    code = f"""
import sys, numpy as np, lpir
found = lpir.compile_model({str(path)!r}, "CPU", {{"CACHE_DIR": {str(tmp_path / "cache")!r}}})
found(np.ones((1, 3, 8, 8), np.float32))
print(found.get_property("LOADED_FROM_CACHE"), [m for m in ("llvmlite", "lpir.ops", "lpir.passes") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1) == ["True", "[]\n"]
