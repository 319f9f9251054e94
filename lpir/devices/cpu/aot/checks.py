"""Which processor features an instruction set needs, as questions to `cpuid`, and what this machine has.

Bits are those of Intel's Software Developer's Manual, volume 2A, CPUID. LLVM may use every feature of the level that an
ISA names (x86-64 psABI, section 3.1.1), not only those in `Isa.requires`.
"""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from lpir.devices.cpu.codegen.processor import AT_HWCAP, AT_HWCAP2, HWCAP, HWCAP2
from lpir.devices.cpu.permission import may_use_tiles

A, B, C, D = range(4)
EXTENDED = 0x80000001
# leaf of cpuid, subleaf, register, bit
BITS: dict[str, tuple[int, int, int, int]] = {
    "sse3": (1, 0, C, 0),
    "ssse3": (1, 0, C, 9),
    "fma": (1, 0, C, 12),
    "cx16": (1, 0, C, 13),
    "sse4_1": (1, 0, C, 19),
    "sse4_2": (1, 0, C, 20),
    "movbe": (1, 0, C, 22),
    "popcnt": (1, 0, C, 23),
    "osxsave": (1, 0, C, 27),
    "avx": (1, 0, C, 28),
    "f16c": (1, 0, C, 29),
    "bmi1": (7, 0, B, 3),
    "avx2": (7, 0, B, 5),
    "bmi2": (7, 0, B, 8),
    "avx512f": (7, 0, B, 16),
    "avx512dq": (7, 0, B, 17),
    "avx512cd": (7, 0, B, 28),
    "avx512bw": (7, 0, B, 30),
    "avx512vl": (7, 0, B, 31),
    "avx512vnni": (7, 0, C, 11),
    "amx-bf16": (7, 0, D, 22),
    "amx-tile": (7, 0, D, 24),
    "amx-int8": (7, 0, D, 25),
    "avxvnni": (7, 1, A, 4),
    "lahf_lm": (EXTENDED, 0, C, 0),
    "lzcnt": (EXTENDED, 0, C, 5),
}
# x86-64-v3 and x86-64-v4
V3: tuple[str, ...] = ("sse3", "ssse3", "fma", "cx16", "sse4_1", "sse4_2", "movbe", "popcnt", "osxsave", "avx", "f16c")
V3 += ("bmi1", "avx2", "bmi2", "lahf_lm", "lzcnt")
V4 = (*V3, "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl")
NEEDS: dict[str, tuple[str, ...]] = {
    "generic": (),
    "avx2": V3,
    "avx_vnni": (*V3, "avxvnni"),
    "avx512": V4,
    "avx512_vnni": (*V4, "avx512vnni"),
    "amx": (*V4, "avx512vnni", "amx-tile", "amx-int8", "amx-bf16"),
}
# every instruction set
NAMES = (*NEEDS, "neon_dot", "neon_i8mm")
# registers that the system must save: SSE and AVX; with AVX-512 also masks and upper halves; with AMX tiles (XCR0)
YMM, ZMM, TMM = 0x06, 0xE6, 0x600E6
# names in /proc/cpuinfo where they differ
_LINUX = {"sse3": "pni", "avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni", "lzcnt": "abm", "osxsave": "xsave"}
_LINUX |= {"amx-tile": "amx_tile", "amx-int8": "amx_int8", "amx-bf16": "amx_bf16"}
# "leaves" of a check that are no leaf of cpuid: XCR0, and whether the system permits tile registers
STATES, PERMISSION = -1, -2
CHECK = struct.Struct("<iiiI")


def checks(isa: str) -> list[bytes]:
    """What `supported()` of the C interface asks, in order. Raises KeyError for an ISA that is not x86-64's."""
    masks: dict[tuple[int, int, int], int] = {}
    for feature in NEEDS[isa]:
        leaf, sub, register, bit = BITS[feature]
        masks[leaf, sub, register] = masks.get((leaf, sub, register), 0) | 1 << bit
    # old processors fail leaf 1, so leaves that they lack are never asked
    found = [
        CHECK.pack(leaf if leaf < 2**31 else leaf - 2**32, sub, register, mask)
        for (leaf, sub, register), mask in masks.items()
    ]
    if masks:
        tiles = "amx-tile" in NEEDS[isa]
        found.append(CHECK.pack(STATES, 0, A, TMM if tiles else ZMM if "avx512f" in NEEDS[isa] else YMM))
        if tiles:
            found.append(CHECK.pack(PERMISSION, 0, A, 1))
    return found


def arm_checks(features: Iterable[str]) -> list[bytes]:
    """The same for AArch64: bits of the words that the system tells of the processor."""
    masks = {AT_HWCAP: 0, AT_HWCAP2: 0}
    for feature in features:
        kind, bits = (AT_HWCAP, HWCAP) if feature in HWCAP else (AT_HWCAP2, HWCAP2)
        masks[kind] |= 1 << bits[feature]
    return [CHECK.pack(kind, 0, 0, mask) for kind, mask in masks.items() if mask]


def host() -> str | None:
    """The fastest ISA of `NEEDS` here, found without LLVM; None where only LLVM can tell."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return None
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return None
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    have = [isa for isa, needs in NEEDS.items() if {_LINUX.get(f, f) for f in needs} <= flags]
    return have[-1] if "amx-tile" not in NEEDS[have[-1]] or may_use_tiles() else have[-2]
