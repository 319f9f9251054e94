"""Memory that is given back: weights that are packed, their file, and the pages of the compiler."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

import lpir
from lpir.devices.cpu import plan
from lpir.devices.cpu.codegen.jit import links_objects
from lpir.devices.cpu.codegen.pages import clean_ranges, drop_pages
from lpir.ir import mapped
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ir.types import i64
from lpir.ops.boundary import Constant, Result, constant, parameter
from lpir.ops.builder import make
from tests.passes.networks import mobile_block

X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the list of mappings is Linux's")


def view_of(path: Path, content: bytes) -> Array:
    path.write_bytes(content)
    with path.open("rb") as file:
        return np.frombuffer(memoryview(mapped.MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)), np.uint8)


def test_dropped_pages_of_a_file_read_the_same_again(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes()
    view = view_of(tmp_path / "weights.bin", content)
    assert view.tobytes() == content
    mapped.drop_pages(view[4:].reshape(4, -1).T)
    assert view.tobytes() == content


def test_arrays_in_memory_have_no_pages_to_drop() -> None:
    array = np.arange(10)
    mapped.drop_pages(array[2:])
    assert array.tolist() == list(range(10))


@LINUX
def test_clean_ranges_are_those_of_the_file_alone(tmp_path: Path) -> None:
    view = view_of(tmp_path / "weights.bin", bytes(3 * mmap.PAGESIZE))
    (found,) = clean_ranges(str(tmp_path / "weights.bin"))
    assert found == (view.ctypes.data, 3 * mmap.PAGESIZE)
    drop_pages(str(tmp_path / "weights.bin"))
    assert not view.any()
    assert clean_ranges(str(tmp_path / "other.bin")) == ()


def test_a_model_whose_file_gives_up_its_memory_runs_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mobile_block()
    lpir.save_model(model, tmp_path / "m.xml")
    expected = lpir.compile_model(model, "CPU")([X])[0]
    dropped: list[Array] = []
    monkeypatch.setattr(plan, "LARGE", 0)
    monkeypatch.setattr(plan, "drop_pages", lambda array: (dropped.append(array), mapped.drop_pages(array)))
    compiled = lpir.compile_model(lpir.read_model(tmp_path / "m.xml"), "CPU")
    assert dropped
    assert compiled([X])[0].tobytes() == expected.tobytes()


def embedding(rows: int) -> Model:
    """int64 [1, 4] -> [1, 4, 24], rows of a table."""
    table = np.random.default_rng(2).normal(size=(rows, 24)).astype(np.float32)
    ids = parameter((1, 4), i64, "ids")
    node = make("Gather", constant(table), ids.output, constant(np.array(0, np.int64)))
    return Model([Node(Result(), [node], "out")], [ids], "embedding")


def test_a_table_stays_in_its_file_and_is_part_of_a_library(tmp_path: Path) -> None:
    model, ids = embedding(4000), np.array([[3, 0, 3999, 17]], np.int64)
    lpir.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    (expected,) = lpir.compile_model(model, "REFERENCE")([ids]).values()
    compiled = lpir.compile_model(lpir.read_model(tmp_path / "m.xml"), "CPU")
    (table,) = compiled.executable.plan.mapped
    assert mapped.file_of(table) is not None
    assert compiled.executable.plan.constants.nbytes < table.nbytes
    # what is in memory may be written to by whoever made the model: it is copied
    assert not lpir.compile_model(model, "CPU").executable.plan.mapped
    # neither a new file in place of the old one nor the end of the model changes what is compiled
    lpir.save_model(embedding(3000), tmp_path / "m.xml", compress_to_fp16=False)
    assert compiled([ids])[0].tobytes() == expected.tobytes()
    if links_objects():
        library = lpir.Core().import_model(compiled.export_model(), "CPU")
        assert library([ids])[0].tobytes() == expected.tobytes()


def test_an_executable_holds_its_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from lpir.devices.cpu import pipeline

    monkeypatch.setattr(pipeline, "SMALL", 0)
    compiled = lpir.compile_model(mobile_block(), "CPU")
    held = [n.op.data for n in compiled.executable.lowered.nodes() if isinstance(n.op, Constant)]
    assert held
    assert all(not any(a.strides) for a in held if a.size > 1)
    # who asks for the graph that runs gets one with weights
    shown = [n.op.data for n in compiled.get_runtime_model().nodes() if isinstance(n.op, Constant)]
    assert any(a.any() for a in shown)
    assert [a.shape for a in shown] == [a.shape for a in held]


def test_equal_constants_are_stored_once_and_packed_once() -> None:
    store = plan.ConstantStore()
    first = np.arange(1000, dtype=np.int32)
    offset = store.add(first)
    assert store.add(first.copy()) == offset
    # the same size and ends, another middle
    other = first.copy()
    other[500] = 7
    apart = store.add(other)
    assert apart >= offset + first.nbytes
    memory = store.pack()
    assert np.array_equal(memory[offset : offset + first.nbytes].view(np.int32), first)
    assert np.array_equal(memory[apart : apart + other.nbytes].view(np.int32), other)
