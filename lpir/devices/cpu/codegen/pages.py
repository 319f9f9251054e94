"""The memory that a large shared library takes while nobody runs it: it is given back, and read again when needed.

LLVM's initializers alone touch 35 MB of the library, and compiling touches 60 MB; models run without any of it.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import re
from pathlib import Path

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)")
_DIRTY = re.compile(r"Private_Dirty: +(\d+) kB")


@functools.cache
def clean_ranges(path: str) -> tuple[tuple[int, int], ...]:
    """Start and size of the mappings of a file that the process has not written to and cannot write to.

    Empty where the system does not tell. What the loader relocated is left out: it differs from the file.
    """
    try:
        lines = Path("/proc/self/smaps").read_text(errors="replace").splitlines()
    except OSError:
        return ()
    found: list[tuple[int, int]] = []
    at = (0, 0)
    for line in lines:
        if head := _HEAD.fullmatch(line):
            begin, end = int(head[1], 16), int(head[2], 16)
            at = (begin, end - begin) if head[4] == path and "w" not in head[3] else (0, 0)
        elif at[1] and (dirty := _DIRTY.fullmatch(line)) and dirty[1] == "0":
            found.append(at)
    return tuple(found)


def drop_pages(path: str) -> None:
    """Gives back the memory of a loaded file, as far as the file holds the same. Any thread may be using it."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    for begin, size in clean_ranges(path):
        madvise(begin, size, advice)
