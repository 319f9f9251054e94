"""Libraries for ARM, made on any machine: an emulator runs them, and the bits are the reference's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas, by_name
from lpir.devices.cpu.linker.elf import HEADER
from lpir.devices.cpu.linker.target import AArch64
from lpir.errors import InputError, UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, parameter
from lpir.ops.builder import make
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime import registry
from lpir.runtime.device import Exported
from lpir.runtime.interpreter import Interpreter
from tests.devices.cpu.aot.test_library import PROGRAM
from tests.devices.cpu.emulator import COMPILER, QEMU, missing
from tests.devices.cpu.foreign import foreign
from tests.passes.networks import mobile_block

ARM = [isa.name for isa in all_isas() if isa.arch == "aarch64"]
# where Debian's cross compiler has its C library
ROOT = "/usr/aarch64-linux-gnu"
ONES = np.ones((1, 3, 8, 8), np.float32)


def exported(model: Model, isa: str, threads: int = 1) -> Exported:
    device = registry.load("CPU")
    config = device.configure({"ISA": isa, "INFERENCE_NUM_THREADS": threads})
    return device.export(model, config, "block", "libblock.so")


def through_functions() -> Model:
    """Functions with literals and tables: what else the linker has to place."""
    x = parameter((1, 3, 8, 8), f32, "x")
    y: Value = x.outputs[0]
    for type in ("Erf", "Tanh", "Exp", "Sin"):
        y = make(type, y)
    return Model([Node(Result(), [y], "y")], [x], "functions")


@pytest.mark.parametrize("isa", ARM)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("build", [mobile_block, through_functions])
def test_a_c_program_on_arm_gets_the_bits_of_the_reference(
    build: object, threads: int, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpir.devices.cpu.work.ONE_THREAD", 0)
    model = mobile_block() if build is mobile_block else through_functions()
    made = exported(model, isa, threads)
    assert made.made_for == isa
    assert HEADER.unpack_from(made.library)[2] == AArch64.machine
    if missing(by_name(isa)) is not None:
        return
    (expected,) = Interpreter(lower_model(model)).create_runner().run([ONES])
    (tmp_path / "libblock.so").write_bytes(made.library)
    (tmp_path / "block.h").write_text(made.header)
    (tmp_path / "main.c").write_text(PROGRAM)
    command = [COMPILER, "-Wall", "-Werror", "-std=c99", "main.c", "libblock.so", "-Wl,-rpath,$ORIGIN", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)

    def run(processor: str) -> subprocess.CompletedProcess[str]:
        emulated = [QEMU, "-L", ROOT, "-cpu", processor, str(tmp_path / "main")]
        return subprocess.run(emulated, capture_output=True, text=True, check=False, timeout=120)

    done = run("max")
    assert done.returncode == 0, done
    assert done.stdout == expected.tobytes().hex()
    # no dot products there: `supported` says so, and nothing else is called
    assert run("cortex-a53").returncode == 1


@pytest.mark.parametrize("isa", ARM)
def test_a_tiny_model_runs_in_one_thread_there_too(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert b'"threads": 1,' in exported(mobile_block(), isa, threads=2).library
    monkeypatch.setattr("lpir.devices.cpu.work.ONE_THREAD", 0)
    assert b'"threads": 2,' in exported(mobile_block(), isa, threads=2).library


def test_what_has_no_library_is_refused_with_the_reason() -> None:
    p = parameter((2, 8), f32, "x")
    with pytest.raises(UnsupportedError, match="no native code for Foreign on neon_dot"):
        exported(Model([Node(Result(), [foreign(p.outputs[0])], "y")], [p], "net"), "neon_dot")
    q = parameter((-1, 8), f32, "x")
    with pytest.raises(InputError, match=r"dynamic shapes .*reshape"):
        exported(Model([Node(Result(), [make("Relu", q.outputs[0])], "y")], [q], "net"), "neon_dot")


def test_this_machine_does_not_load_it() -> None:
    made = exported(mobile_block(), next(isa for isa in ARM if not by_name(isa).available()))
    with pytest.raises(lpir.FileError, match="cannot be loaded"):
        lpir.Core().import_model(made.library, "CPU")
