"""The linker: relocations of every kind, in this process and in a file."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lpir.devices.cpu.codegen.jit import links_objects, object_file
from lpir.devices.cpu.isa import by_name
from lpir.devices.cpu.linker.elf import Object, Relocation, Section, Symbol, read_object
from lpir.devices.cpu.linker.library import shared_library
from lpir.devices.cpu.linker.link import R_64, link, undefined
from lpir.devices.cpu.linker.memory import Code
from lpir.devices.cpu.linker.target import AArch64
from lpir.errors import FileError, UnsupportedError
from tests.devices.cpu.emulator import COMPILER, QEMU, missing

TEXT = """
declare ptr @memchr(ptr, i32, i64)
@table = internal constant [4 x double] [double 1.5, double 2.5, double 3.5, double 4.5]
@far = external global i64
define double @pick(i64 %i) {
  %at = getelementptr double, ptr @table, i64 %i
  %x = load double, ptr %at
  ret double %x
}
define ptr @find(ptr %text, i32 %c, i64 %n) {
  %at = call ptr @memchr(ptr %text, i32 %c, i64 %n)
  ret ptr %at
}
define i64 @outside() {
  %x = load i64, ptr @far
  ret i64 %x
}
"""
OTHER = "@far = constant i64 -7\n"


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    assert links_objects()
    return [read_object(object_file(text, by_name("generic"))) for text in (TEXT, OTHER)]


def use(pick: int, find: int, outside: int) -> None:
    assert [ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)(pick)(i) for i in range(4)] == [1.5, 2.5, 3.5, 4.5]
    text = ctypes.create_string_buffer(b"hello")
    start = ctypes.addressof(text)
    call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)(find)
    assert call(start, ord("l"), 5) == start + 2
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(outside)() == -7


def test_code_runs_in_this_process(objects: list[Object]) -> None:
    assert undefined(objects) == ("memchr",)
    code = Code(objects)
    use(*(code.addresses[name] for name in ("pick", "find", "outside")))


def test_code_runs_from_a_library(objects: list[Object], tmp_path: Path) -> None:
    path = tmp_path / "some.so"
    path.write_bytes(shared_library(objects, {"a_pick": "pick", "a_find": "find", "a_outside": "outside"}))
    library = ctypes.CDLL(str(path))
    use(*(ctypes.cast(library[f"a_{n}"], ctypes.c_void_p).value or 0 for n in ("pick", "find", "outside")))
    with pytest.raises(AttributeError):
        library["pick"]


def test_the_same_objects_give_the_same_bytes(objects: list[Object]) -> None:
    assert shared_library(objects, {"pick": "pick"}) == shared_library(objects, {"pick": "pick"})


def test_damaged_objects_are_refused() -> None:
    data = object_file(TEXT, by_name("generic"))
    for broken in (b"", b"hello", data[:80], data[: len(data) // 2]):
        with pytest.raises((FileError, UnsupportedError)):
            read_object(broken)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 200):
        broken_bytes = bytearray(data)
        broken_bytes[at] ^= 0xFF
        try:
            link([read_object(bytes(broken_bytes))])
        except (FileError, UnsupportedError):
            continue


def test_what_kernels_never_contain_is_refused() -> None:
    target = Symbol("here", 0, 0)
    unknown = Section(".text", bytes(16), 16, True, False, (Relocation(0, 11, target, 0),))
    with pytest.raises(UnsupportedError, match="relocation 11"):
        link([Object((unknown,), (target,))])
    fixed = Section(".rodata", bytes(16), 16, False, False, (Relocation(0, R_64, target, 0),))
    with pytest.raises(UnsupportedError, match="holds an address"):
        link([Object((fixed,), (target,))])
    missing = Section(".data", bytes(8), 8, False, True, (Relocation(0, R_64, Symbol("no_such_function", None, 0), 0),))
    with pytest.raises(UnsupportedError, match="no_such_function"):
        Code([Object((missing,), ())])


def test_addresses_in_data_follow_the_load_address() -> None:
    target = Symbol("values", 1, 8)
    pointer = Section(".data", bytes(8), 8, False, True, (Relocation(0, R_64, target, 8),))
    values = Section(".rodata", struct.pack("<3q", 1, 2, 3), 8, False, False, ())
    code = Code([Object((pointer, values), (target, Symbol("pointer", 0, 0)))])
    at = ctypes.c_uint64.from_address(code.addresses["pointer"]).value
    assert at == code.addresses["values"] + 8
    assert ctypes.c_int64.from_address(at).value == 3


MAIN = """
double a_pick(long); void *a_find(const char *, int, long); long a_outside(void);
int main(void) {
    const char *text = "hello";
    if (a_pick(0) != 1.5 || a_pick(3) != 4.5) return 1;
    return a_find(text, 'l', 5) == text + 2 && a_outside() == -7 ? 0 : 2;
}
"""


def test_code_runs_from_a_library_on_arm(tmp_path: Path) -> None:
    """Literals, a table, a function of the C library, and an address from the table of addresses."""
    isa = by_name("neon_dot")
    objects = [read_object(object_file(text, isa)) for text in (TEXT, OTHER)]
    target = AArch64()
    kinds = {r.kind for o in objects for s in o.sections for r in s.relocations}
    assert kinds & target.through_table
    assert kinds & target.LOW12.keys() - target.through_table
    data = shared_library(objects, {"a_pick": "pick", "a_find": "find", "a_outside": "outside"}, "libsome.so")
    if missing(isa) is not None:
        return
    (tmp_path / "libsome.so").write_bytes(data)
    (tmp_path / "main.c").write_text(MAIN)
    subprocess.run([COMPILER, "main.c", "libsome.so", "-Wl,-rpath,$ORIGIN", "-o", "main"], cwd=tmp_path, check=True)
    subprocess.run([QEMU, "-L", "/usr/aarch64-linux-gnu", tmp_path / "main"], check=True, timeout=60)


def test_arm_instructions_hold_addresses() -> None:
    """Of every form: what is near enough is written where the instruction has it, what is not is refused."""
    target, place = AArch64(), 0x10000
    adrp = bytearray(struct.pack("<I", 0x90000000))
    assert target.patch(adrp, 0, target.ADRP, place, place - 0x3000)
    (word,) = struct.unpack("<I", adrp)
    pages = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
    assert pages - (1 << 21) == -3
    for kind, far in ((target.ADRP, 1 << 33), (target.CALL26, 1 << 28), (target.PREL32, 1 << 32)):
        assert not target.patch(bytearray(4), 0, kind, place, place + far)
        assert not target.patch(bytearray(4), 0, kind, place + far, place)
    for kind, shift in target.LOW12.items():
        load = bytearray(4)
        assert target.patch(load, 0, kind, place, 0x7FF0)
        assert struct.unpack("<I", load)[0] >> 10 << shift == 0xFF0
    call = bytearray(struct.pack("<I", 0x94000000))
    assert target.patch(call, 0, target.CALL26, place, place - 8)
    assert struct.unpack("<I", call)[0] == 0x97FFFFFE


def test_objects_for_several_processors_do_not_go_together() -> None:
    both = [read_object(object_file(OTHER, by_name(name))) for name in ("generic", "neon_dot")]
    with pytest.raises(UnsupportedError, match="AArch64 and x86-64"):
        link(both)
