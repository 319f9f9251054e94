"""What differs between processors for a linker: numbers of relocations, how instructions hold addresses, stubs.

Numbers and formulas: x86-64 psABI, table 4.9; ELF for the Arm 64-bit Architecture, section 5.7.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import ClassVar

from lpir.errors import UnsupportedError


class Target(ABC):
    """A processor. `page`: the largest that its systems use; `absolute`: the relocation of a 64-bit address;
    `dynamic_relative`: the loader's relocation of an address inside the image; `through_table`: relocations by which
    code reads a symbol's address from a table; `wide`: those of 8 bytes."""

    name: ClassVar[str]
    machine: ClassVar[int]
    page: ClassVar[int]
    absolute: ClassVar[int]
    dynamic_relative: ClassVar[int]
    through_table: ClassVar[frozenset[int]]
    wide: ClassVar[frozenset[int]]
    kinds: ClassVar[frozenset[int]]
    stub_size: ClassVar[int]

    @abstractmethod
    def stub(self, place: int, entry: int) -> bytes:
        """Code at `place` that jumps to the address in the table at `entry`."""

    @abstractmethod
    def patch(self, memory: bytearray, at: int, kind: int, place: int, target: int) -> bool:
        """Makes what lies at `at` of memory, `place` in the image, refer to `target`; whether that is near enough."""


class X86(Target):
    """x86-64."""

    name, machine, page = "x86-64", 62, 4096
    absolute, dynamic_relative = 1, 8
    PC32, PLT32, PC64 = 2, 4, 24
    through_table = frozenset((9, 41, 42))
    wide = frozenset((1, 24))
    kinds = frozenset((1, 2, 4, 24)) | through_table
    stub_size = 8

    def stub(self, place: int, entry: int) -> bytes:
        # jmp *offset(%rip), two bytes of int3
        return struct.pack("<BBiBB", 0xFF, 0x25, entry - (place + 6), 0xCC, 0xCC)

    def patch(self, memory: bytearray, at: int, kind: int, place: int, target: int) -> bool:
        value = target - place
        if kind == self.PC64:
            struct.pack_into("<q", memory, at, value)
        elif -(2**31) <= value < 2**31:
            struct.pack_into("<i", memory, at, value)
        else:
            return False
        return True


class AArch64(Target):
    """AArch64: an address is 21 bits of pages by `adrp` and 12 bits in the instruction behind it."""

    name, machine, page = "AArch64", 183, 65536
    absolute, dynamic_relative = 257, 1027
    PREL64, PREL32 = 260, 261
    ADRP, GOT_PAGE, JUMP26, CALL26 = 275, 311, 282, 283
    # bytes that an instruction's 12 bits count in, as a shift
    LOW12: ClassVar[dict[int, int]] = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4, 312: 3}
    through_table = frozenset((311, 312))
    wide = frozenset((257, 260))
    kinds = frozenset((257, 260, 261, 275, 282, 283, 311, *LOW12))
    stub_size = 16

    def stub(self, place: int, entry: int) -> bytes:
        # adrp x16; ldr x16, [x16]; br x16; nop: x16 is a linker's to use between functions
        code = bytearray(struct.pack("<4I", 0x90000010, 0xF9400210, 0xD61F0200, 0xD503201F))
        assert self.patch(code, 0, self.ADRP, place, entry)
        self.patch(code, 4, 286, place + 4, entry)
        return bytes(code)

    def patch(self, memory: bytearray, at: int, kind: int, place: int, target: int) -> bool:
        if kind in (self.PREL64, self.PREL32):
            limit, format = (2**63, "<q") if kind == self.PREL64 else (2**31, "<i")
            if not -limit <= target - place < limit:
                return False
            struct.pack_into(format, memory, at, target - place)
            return True
        (word,) = struct.unpack_from("<I", memory, at)
        if kind in self.LOW12:
            word |= (target & 0xFFF) >> self.LOW12[kind] << 10
        elif kind in (self.ADRP, self.GOT_PAGE):
            pages = (target >> 12) - (place >> 12)
            if not -(2**20) <= pages < 2**20:
                return False
            word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
        else:
            if not -(2**27) <= target - place < 2**27:
                return False
            word |= (target - place) >> 2 & 0x3FFFFFF
        struct.pack_into("<I", memory, at, word)
        return True


TARGETS: dict[int, Target] = {t.machine: t for t in (X86(), AArch64())}
# by the start of LLVM's name of a machine
BY_ARCH = {"x86_64": TARGETS[X86.machine], "aarch64": TARGETS[AArch64.machine]}


def target_of(triple: str) -> Target:
    """The target that LLVM calls `triple`. Raises UnsupportedError for one that has no libraries here."""
    found = BY_ARCH.get(triple.split("-")[0])
    if found is None or "linux" not in triple:
        raise UnsupportedError(f"libraries are made for Linux on x86-64 and AArch64, not for {triple}")
    return found
