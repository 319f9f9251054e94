"""A tensor as a user hands it over: a NumPy array with an element type."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.ir.op import Array
from lpir.ir.types import ElementType, as_element_type, from_dtype


class Tensor:
    """An array, copied or (with `shared_memory`) seen in place.

    `Tensor(array)`, or `Tensor(element_type, shape)` for zeros.
    """

    def __init__(self, array: Any, shape: Any = None, shared_memory: bool = False) -> None:
        if shape is not None:
            self.data: Array = np.zeros(tuple(shape), as_element_type(array).dtype)
        else:
            self.data = np.asarray(array) if shared_memory else np.array(array)

    @property
    def element_type(self) -> ElementType:
        return from_dtype(self.data.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def byte_size(self) -> int:
        return self.data.nbytes

    def get_element_type(self) -> ElementType:
        return self.element_type

    def get_shape(self) -> tuple[int, ...]:
        return self.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self.data, dtype)

    def __repr__(self) -> str:
        return f"<Tensor: {self.element_type}{list(self.shape)}>"
