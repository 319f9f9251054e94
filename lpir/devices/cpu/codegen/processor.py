"""What Linux says about an ARM processor: LLVM knows too few of them by name to tell what they can do."""

from __future__ import annotations

import ctypes
import sys

# of the auxiliary vector, linux/auxvec.h
AT_HWCAP, AT_HWCAP2 = 16, 26
# LLVM's name of a feature -> its bit, arch/arm64/include/uapi/asm/hwcap.h
HWCAP = {"neon": 1, "dotprod": 20}
HWCAP2 = {"i8mm": 13}


def arm_features(hwcap: int, hwcap2: int) -> set[str]:
    """LLVM's names of the features in the two words of bits that the kernel gives to every process."""
    found = {name for name, bit in HWCAP.items() if hwcap >> bit & 1}
    return found | {name for name, bit in HWCAP2.items() if hwcap2 >> bit & 1}


def linux_arm_features() -> set[str]:
    """Of this machine, an ARM one; empty where the system is not Linux."""
    if not sys.platform.startswith("linux"):
        return set()
    ask = ctypes.CDLL(None).getauxval
    ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
    return arm_features(ask(AT_HWCAP), ask(AT_HWCAP2))
