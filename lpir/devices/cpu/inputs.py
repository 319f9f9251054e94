"""Where the steps of a request read an input: in its own memory or, large and safe to read, in the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpir.ir.op import Array
from lpir.runtime.memory import SLACK

# an input of fewer bytes is copied sooner than pointed to
LARGE = 1 << 14
# memory is mapped, and so readable, in whole pages of a multiple of this
PAGE = 4096
# an array of parameter words, and those of them that point into an input: number of the word, distance from its start
Pointers = tuple[np.ndarray[Any, np.dtype[np.uint64]], Sequence[tuple[int, int]]]


class Input:
    """An input of a request; `pointers` to it may be moved, unless there are none."""

    def __init__(self, view: Array, pointers: Sequence[Pointers]) -> None:
        self.view, self.pointers = view, pointers
        self.address = _address(view)
        # what the steps point to
        self.source = view

    def put(self, array: Array) -> None:
        """Makes `array` what the next run reads; it must not change before that is over."""
        if array is self.source:
            return
        if self.pointers and array.nbytes >= LARGE and _readable(array):
            self._point(array, _address(array))
        else:
            self.reset()
            np.copyto(self.view, array)

    def reset(self) -> None:
        """Lets go of the caller's array."""
        if self.source is not self.view:
            self._point(self.view, self.address)

    def _point(self, array: Array, address: int) -> None:
        for words, places in self.pointers:
            for index, offset in places:
                words[index] = address + offset
        self.source = array


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _readable(array: Array) -> bool:
    """Whether kernels may read the array and SLACK bytes behind it: they lie on its last page."""
    end = _address(array) + array.nbytes
    return array.flags.aligned and array.flags.c_contiguous and (end - 1) // PAGE == (end + SLACK - 1) // PAGE
