"""A linked image as code of this process."""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from collections.abc import Sequence

from lpir.devices.cpu.linker.elf import Object
from lpir.devices.cpu.linker.link import PAGE, link
from lpir.errors import UnsupportedError


class Code:
    """Objects that were linked and loaded here; `addresses` of their symbols hold as long as this object lives.

    Raises UnsupportedError when an object holds what the linker does not know, or the system refuses to run it.
    """

    def __init__(self, objects: Sequence[Object]) -> None:
        image = link(objects)
        size = max(len(image.memory), PAGE)
        self._memory = mmap.mmap(-1, size)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for fixup in image.fixups:
            value = fixup.addend + (_address(fixup.symbol) if fixup.symbol else base)
            struct.pack_into("<Q", image.memory, fixup.offset, value & (2**64 - 1))
        self._memory[: len(image.memory)] = bytes(image.memory)
        begin, end = image.parts["code"]
        # never writable and executable at once
        if end > begin and _libc().mprotect(base + begin, end - begin, mmap.PROT_READ | mmap.PROT_EXEC):
            raise UnsupportedError("the system does not let this process run code that it made")
        self.addresses = {name: base + offset for name, offset in image.symbols.items()}


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    return libc


def _address(symbol: str) -> int:
    """Of a function of the C library. Raises UnsupportedError."""
    try:
        return ctypes.cast(_libc()[symbol], ctypes.c_void_p).value or 0
    except AttributeError:
        raise UnsupportedError(f"the C library has no {symbol}") from None
