"""Files mapped read-only: constants are views of them, and what is not needed for now costs no memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from lpir.ir.op import Array


class MappedFile(mmap.mmap):
    """A file's bytes. Made with `access=mmap.ACCESS_READ`: nothing is lost when pages are dropped."""

    def drop_pages(self) -> None:
        """Gives the memory back; the system reads what is asked for again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)


def file_of(array: Array) -> MappedFile | None:
    """The file that `array` is a view of, if it is one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, MappedFile) else None


def drop_pages(array: Array) -> None:
    """Gives back the memory of the file that `array` is a view of, if it is one."""
    if (file := file_of(array)) is not None:
        file.drop_pages()
