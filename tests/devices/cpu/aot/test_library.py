"""Compiled models as shared libraries: the same bits, in Python and in C, without LLVM."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.aot import checks, load, seal
from lpir.devices.cpu.aot.interface import FUNCTIONS
from lpir.devices.cpu.isa import all_isas, host_isa
from lpir.devices.cpu.linker.elf import HEADER
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.runtime.session import CompiledModel
from tests.devices.cpu.foreign import foreign
from tests.passes.networks import mobile_block
from tests.tolerances import EXACT, assert_close

ISAS = [isa.name for isa in all_isas() if isa.available()]
X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def imported(source: bytes | Path, **config: Any) -> CompiledModel:
    return lpir.Core().import_model(source, "CPU", config)


def model_of(*outputs: Value, inputs: list[Node]) -> Model:
    return Model([Node(Result(), [v], f"r{i}") for i, v in enumerate(outputs)], inputs, "small")


@pytest.fixture(scope="module")
def exported() -> bytes:
    return lpir.compile_model(mobile_block(), "CPU").export_model()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
def test_a_library_gives_the_bits_of_the_compiled_model(
    isa: str, threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lpir.devices.cpu.work.ONE_THREAD", 0)
    config = {"ISA": isa, "INFERENCE_NUM_THREADS": threads}
    compiled = lpir.compile_model(mobile_block(), "CPU", config)
    expected = compiled([X])[0]
    path = tmp_path / "block.so"
    path.write_bytes(compiled.export_model())
    for source in (path, path.read_bytes()):
        found = imported(source, INFERENCE_NUM_THREADS=threads)
        assert found.get_property("ISA") == isa
        assert found.get_property("INFERENCE_NUM_THREADS") == threads
        for _ in range(3):
            assert_close(found([X])[0], expected, EXACT)


def test_inputs_outputs_and_explanation_survive(exported: bytes) -> None:
    compiled, found = lpir.compile_model(mobile_block(), "CPU"), imported(exported)
    assert str(found.input_ports) == str(compiled.input_ports)
    assert [p.names for p in found.output_ports] == [p.names for p in compiled.output_ports]
    assert found.explain() == compiled.explain()
    assert found.get_property("NETWORK_NAME") == compiled.get_property("NETWORK_NAME")
    with pytest.raises(lpir.InputError, match="cannot take shape"):
        found([X[:, :2]])
    with pytest.raises(lpir.UnsupportedError, match="no graph"):
        found.get_runtime_model()


def test_outputs_may_be_inputs_or_constants() -> None:
    p = parameter([2, 6], f32, "x")
    fixed = np.arange(3, dtype=np.float32)
    model = model_of(make("Relu", p.outputs[0]), p.outputs[0], constant(fixed), inputs=[p])
    found = imported(lpir.compile_model(model, "CPU").export_model())
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    for actual, expected in zip(found([x]).to_tuple(), (np.maximum(x, 0), x, fixed), strict=True):
        assert_close(actual, expected, EXACT)


def test_requests_are_independent(exported: bytes) -> None:
    found = imported(exported)
    first, second = found.create_infer_request(), found.create_infer_request()
    one, two = first.infer([X])[0], second.infer([-X])[0]
    assert not np.array_equal(one, two)
    assert_close(first.infer([X])[0], one, EXACT)


def test_times_of_operations() -> None:
    compiled = lpir.compile_model(mobile_block(), "CPU", {"PERF_COUNT": True})
    request = imported(compiled.export_model(), PERF_COUNT=True).create_infer_request()
    request.infer([X])
    mine = compiled.create_infer_request()
    mine.infer([X])
    assert [i.node_name for i in request.profiling_info] == [i.node_name for i in mine.profiling_info]


def test_what_runs_in_python_is_refused_by_name() -> None:
    p = parameter([2, 8], f32, "x")
    with pytest.raises(lpir.UnsupportedError, match="no native code for Foreign"):
        lpir.compile_model(model_of(foreign(make("Relu", p.outputs[0])), inputs=[p]), "CPU").export_model()
    q = parameter([-1, 8], f32, "x")
    with pytest.raises(lpir.UnsupportedError, match=r"dynamic shapes .*'x'"):
        lpir.compile_model(model_of(make("Relu", q.outputs[0]), inputs=[q]), "CPU").export_model()
    found = make("NonZero", make("Relu", p.outputs[0]))
    with pytest.raises(lpir.UnsupportedError, match=r"shapes depend on values.*NonZero"):
        lpir.compile_model(model_of(found, inputs=[p]), "CPU").export_model()
    with pytest.raises(lpir.UnsupportedError, match="operation by operation"):
        lpir.compile_model(mobile_block(), "REFERENCE").export_model()


def test_damage_is_found_before_anything_is_loaded(exported: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    damaged = [exported[:n] for n in (0, 3, 100, len(exported) // 2, len(exported) - 1)]
    for at in (0, 40, *rng.integers(0, len(exported), 40)):
        broken = bytearray(exported)
        broken[at] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(broken))
    damaged += [exported + b"\0", b"MZ" + exported, Path(sys.executable).resolve().read_bytes()[:100_000]]
    path = tmp_path / "broken.so"
    for data in damaged:
        with pytest.raises(lpir.FileError):
            imported(data)
        path.write_bytes(data)
        with pytest.raises(lpir.FileError, match=r"broken\.so"):
            imported(path)
    with pytest.raises(lpir.FileError):
        imported(tmp_path / "missing.so")
    with pytest.raises(lpir.FileError):
        imported(tmp_path)


def test_another_format_is_refused(exported: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "FORMAT", seal.FORMAT + 1)
    other = seal.reseal(exported, bytes(32))
    monkeypatch.undo()
    with pytest.raises(lpir.FileError, match="another version"):
        imported(other)


def test_another_machine_is_refused(exported: bytes) -> None:
    body = bytearray(exported[: -seal.SEAL.size])
    # e_machine: AArch64
    body[18] = 183
    assert HEADER.unpack_from(body)[2] == 183
    with pytest.raises(lpir.FileError, match="cannot be loaded"):
        imported(seal.seal(bytes(body)))


def test_a_processor_that_lacks_a_feature_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # a bit of the processor's serial number, which none has any more
    monkeypatch.setitem(checks.BITS, "avx", (1, 0, checks.D, 18))
    monkeypatch.setitem(checks.NEEDS, "generic", ("avx",))
    data = lpir.compile_model(mobile_block(), "CPU", {"ISA": "generic"}).export_model()
    with pytest.raises(lpir.UnsupportedError, match="made for generic"):
        imported(data)


def test_instruction_sets_are_known_without_llvm() -> None:
    assert list(checks.NEEDS) == [isa.name for isa in all_isas() if isa.arch in ("x86_64", "any")]
    assert set(checks.NAMES) == {isa.name for isa in all_isas()}
    assert checks.host() == host_isa().name


def test_neither_llvm_nor_the_operations_are_imported(exported: bytes, tmp_path: Path) -> None:
    path = tmp_path / "block.so"
    path.write_bytes(exported)
    code = f"""
import sys
sys.modules["llvmlite"] = None
import numpy as np, lpir
found = lpir.Core().import_model({str(path)!r})
print(found(np.ones((1, 3, 8, 8), np.float32))[0].tobytes().hex(), "lpir.ops" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = lpir.compile_model(mobile_block(), "CPU")([np.ones((1, 3, 8, 8), np.float32)])[0]
    assert done.stdout.split() == [expected.tobytes().hex(), "False"]


PROGRAM = """
#include "block.h"
#include <stdio.h>
#include <string.h>
int main(void) {
    if (!block_supported() || block_inputs() != 1 || block_outputs() != 1) return 1;
    if (block_input(1) || block_output(-1)) return 1;
    if (block_create(0) || block_create(block_threads() + 1)) return 2;
    if (block_input(0)->rank != 4 || block_input(0)->shape[3] != 8 || strcmp(block_input(0)->type, "f32")) return 3;
    block_request *r = block_create(block_threads());
    if (!r || block_input_data(r, 1)) return 4;
    for (int i = 0; i < 3; i++) {
        float *x = block_input_data(r, 0);
        for (int64_t k = 0; k < block_input(0)->bytes / 4; k++) x[k] = 1;
        block_run(r);
    }
    const unsigned char *y = block_output_data(r, 0);
    for (int64_t k = 0; k < block_output(0)->bytes; k++) printf("%02x", y[k]);
    block_destroy(r);
    block_destroy(0);
    return 0;
}
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_c_program_gets_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lpir.devices.cpu.work.ONE_THREAD", 0)
    compiled = lpir.compile_model(mobile_block(), "CPU", {"INFERENCE_NUM_THREADS": threads})
    expected = compiled([np.ones((1, 3, 8, 8), np.float32)])[0]
    library = compiled.executable.export_model("block", "libblock.so")
    header = compiled.executable.header("block")
    # every function that the header declares is there, whether or not a compiler is
    assert all(f"block_{name}(" in header and f"block_{name}\0".encode() in library for name in FUNCTIONS)
    cc = shutil.which("cc")
    if cc is None:
        assert_close(imported(library)([np.ones((1, 3, 8, 8), np.float32)])[0], expected, EXACT)
        return
    (tmp_path / "libblock.so").write_bytes(library)
    (tmp_path / "block.h").write_text(header)
    (tmp_path / "main.c").write_text(PROGRAM)
    command = [
        cc,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-std=c99",
        "main.c",
        "libblock.so",
        "-Wl,-rpath,$ORIGIN",
        "-o",
        "main",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout == expected.tobytes().hex()


def test_the_library_has_no_memory_that_is_writable_and_executable(exported: bytes) -> None:
    header = HEADER.unpack_from(exported)
    flags = [int.from_bytes(exported[header[5] + 56 * i + 4 :][:4], "little") for i in range(header[10])]
    assert not any(f & 3 == 3 for f in flags)


def test_a_library_keeps_running_when_its_file_is_replaced(exported: bytes, tmp_path: Path) -> None:
    path = tmp_path / "block.so"
    path.write_bytes(exported)
    found = load.LibraryExecutable(load.Library(path), {})
    runner = found.create_runner()
    expected = runner.run([X])[0]
    path.unlink()
    path.write_bytes(b"something else")
    assert_close(runner.run([X])[0], expected, EXACT)
