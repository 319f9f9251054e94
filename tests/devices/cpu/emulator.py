"""Runs steps of an instruction set that this machine lacks: `qemu-aarch64` and a cross compiler, both from Debian.

    if (why := missing(isa)) is None:
        emulate(isa, [(steps, context), ...])

Steps are compiled to objects and linked with `emulator.c`. Their memory is a file, which the program maps to a fixed
address; so parameter words hold addresses that Python knows, and results are read back from the file.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.codegen.jit import object_file
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import ALIGNMENT, Step

if TYPE_CHECKING:
    from tests.devices.cpu.harness import Context

QEMU, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-gcc"
DRIVER = Path(__file__).with_suffix(".c")
# where the file is mapped: far from what the emulator uses itself
BASE = 0x20_0000_0000


def missing(isa: Isa) -> str | None:
    """Why code for `isa` cannot be emulated here, or None."""
    if isa.arch != "aarch64":
        return f"{isa.name} is not emulated"
    tools = [tool for tool in (QEMU, COMPILER) if shutil.which(tool) is None]
    return f"needs {' and '.join(tools)} (see CONTRIBUTING.md)" if tools else None


@functools.cache
def _object(text: str, isa: Isa) -> bytes:
    return object_file(text, isa)


def emulate(isa: Isa, jobs: Sequence[tuple[Sequence[Step], Context]]) -> None:
    """Runs the steps of every job on the memory of its context, thread after thread between barriers.

    Raises CalledProcessError when a kernel crashes.
    """
    memory, calls = bytearray(), []
    places: list[list[int]] = []
    for _, context in jobs:
        places.append([_place(memory, array.tobytes()) for array in context.memory])
    for (steps, context), at in zip(jobs, places, strict=True):
        for step in steps:
            words = [BASE + at[int(p.buffer)] + p.offset if isinstance(p, Ref) else int(p) for p in step.params]
            packed = np.array([word & (2**64 - 1) for word in words], np.uint64)
            calls.append((step.code.symbol, BASE + _place(memory, packed.tobytes()), context.threads))
    texts = {step.code.symbol: step.code.text for steps, _ in jobs for step in steps}
    with tempfile.TemporaryDirectory() as folder:
        program = _link(Path(folder), [*texts.values(), _run(calls)], isa)
        file = Path(folder, "memory")
        file.write_bytes(memory)
        command = [QEMU, "-cpu", "max", str(program), str(file), hex(BASE), str(len(memory))]
        subprocess.run(command, check=True, timeout=300)
        memory = bytearray(file.read_bytes())
    for (_, context), at in zip(jobs, places, strict=True):
        for array, start in zip(context.memory, at, strict=True):
            array[:] = np.frombuffer(memory, np.uint8, array.size, start)


def _place(memory: bytearray, data: bytes) -> int:
    at = -(-len(memory) // ALIGNMENT) * ALIGNMENT
    memory.extend(bytes(at - len(memory)))
    memory.extend(data)
    return at


def _run(calls: Sequence[tuple[str, int, int]]) -> str:
    """The function that calls kernels `(symbol, address of its words, threads)` one after the other."""
    lines = [f"declare void @{symbol}(ptr, i64, i64)" for symbol in dict.fromkeys(symbol for symbol, _, _ in calls)]
    lines += ["define void @run() {"]
    for symbol, words, threads in calls:
        at = f"ptr inttoptr (i64 {words} to ptr)"
        lines += [f"  call void @{symbol}({at}, i64 {tid}, i64 {threads})" for tid in range(threads)]
    return "\n".join([*lines, "  ret void", "}", ""])


def _link(folder: Path, texts: Sequence[str], isa: Isa) -> Path:
    objects = []
    for index, text in enumerate(texts):
        objects.append(folder / f"{index}.o")
        objects[-1].write_bytes(_object(text, isa))
    program = folder / "program"
    subprocess.run([COMPILER, "-static", "-O1", "-o", program, DRIVER, *objects], check=True, timeout=120)
    return program
