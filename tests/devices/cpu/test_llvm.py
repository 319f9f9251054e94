"""The door to LLVM: signatures are llvmlite's own, errors are the library's, nothing is left behind."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys

import pytest

from lpir.devices.cpu.codegen import llvm
from lpir.errors import InputError

TEXT = "define i32 @answer() { ret i32 42 }\n"


@pytest.fixture(scope="module")
def machine() -> llvm.Machine:
    llvm.initialize()
    return llvm.Machine(llvm.text_of("GetDefaultTargetTriple"), "", "", 1, "default", "jitdefault")


def kind(type: object) -> object:
    """Pointers are alike but for those to strings; llvmlite leaves out that a function returns nothing."""
    if type in (llvm.TEXT, llvm.BOOL, llvm.OUT):
        return type
    is_pointer = type is llvm.HANDLE or (isinstance(type, object) and hasattr(type, "contents"))
    return "pointer" if is_pointer else ctypes.sizeof(type)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", llvm.SIGNATURES)
def test_signatures_are_those_that_llvmlite_declares(name: str) -> None:
    import llvmlite.binding

    theirs = getattr(llvmlite.binding.ffi.lib, f"LLVMPY_{name}")
    result, parameters = llvm.SIGNATURES[name]
    # llvmlite declares no parameters where there is nothing to convert
    if theirs.argtypes is not None:
        assert [kind(t) for t in parameters] == [kind(t) for t in theirs.argtypes]
    if result is not None:
        assert kind(result) == kind(theirs.restype)


def test_a_function_runs(machine: llvm.Machine) -> None:
    engine = llvm.Engine(llvm.Module(llvm.Context(), machine.head + TEXT), machine_of_its_own())
    assert ctypes.CFUNCTYPE(ctypes.c_int32)(engine.address("answer"))() == 42


def machine_of_its_own() -> llvm.Machine:
    return llvm.Machine(llvm.text_of("GetDefaultTargetTriple"), "", "", 1, "default", "jitdefault")


def test_optimized_code_is_emitted_as_text_and_as_an_object(machine: llvm.Machine) -> None:
    module = llvm.Module(llvm.Context(), machine.head + "define i32 @sum() { %a = add i32 40, 2\n ret i32 %a }\n")
    module.optimize(machine)
    assert b"42" in machine.emit(module, is_object=False)
    assert len(machine.emit(module)) > 100


@pytest.mark.parametrize("text", ["define void @f( {", "define i32 @f() { ret i32 %x }"])
def test_refused_text_says_why(machine: llvm.Machine, text: str) -> None:
    with pytest.raises(InputError, match="LLVM refuses"):
        llvm.Module(llvm.Context(), machine.head + text)


def test_modules_are_let_go_of(machine: llvm.Machine) -> None:
    module = llvm.Module(llvm.Context(), machine.head + TEXT)
    closes = module.close, module.context.close
    del module
    gc.collect()
    assert not any(close.alive for close in closes)


LOOP = """
define void @fill(ptr %p, i64 %n, i64 %by) {
entry:
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %head ]
  %offset = mul i64 %i, %by
  %at = getelementptr i8, ptr %p, i64 %offset
  store i64 %offset, ptr %at
  %next = add nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %head, label %done
done:
  ret void
}
"""


def test_lean_machines_leave_loops_as_printed_and_the_option_as_it_was(machine: llvm.Machine) -> None:
    lean = llvm.Machine(llvm.text_of("GetDefaultTargetTriple"), "", "", 1, "default", "jitdefault", lean=True)

    def assembly(machine: llvm.Machine) -> bytes:
        return machine.emit(llvm.Module(llvm.Context(), machine.head + LOOP), is_object=False)

    before = assembly(machine)
    with llvm.LEANER, llvm.LEANER:
        assert assembly(machine) == assembly(lean) != before
    assert assembly(lean) != before == assembly(machine)


def test_llvmlites_classes_are_not_imported() -> None:
    code = (
        "import sys, lpir.devices.cpu.codegen.llvm as llvm; llvm.initialize(); "
        "sys.exit(any(name.startswith('llvmlite') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
