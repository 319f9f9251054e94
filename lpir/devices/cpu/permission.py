"""Asks Linux to let this process use AMX's tile registers, which a thread saves only if the process asked for them.

Source: Linux, Documentation/arch/x86/xstate.rst.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

ARCH_PRCTL = 158  # the system call's number on x86-64
REQUEST_PERMISSION, TILE_DATA = 0x1023, 18


@functools.cache
def may_use_tiles() -> bool:
    """Whether this process may use tile registers from now on, in all its threads."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    system_call = ctypes.CDLL(None).syscall
    system_call.restype = ctypes.c_long
    numbers = (ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)
    return int(system_call(*[ctypes.c_long(n) for n in numbers])) == 0
