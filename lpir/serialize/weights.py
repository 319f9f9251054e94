"""The .bin side: constants as views of a mapped file, sub-byte packing, and a writer that stores equal bytes once."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from lpir.errors import FileError, ModelError
from lpir.ir.mapped import MappedFile
from lpir.ir.op import Array
from lpir.ir.types import ElementType

Buffer = memoryview


def map_file(path: str | os.PathLike[str]) -> Buffer:
    """The bytes of a file, mapped read-only; they stay readable when the file is replaced. Raises FileError."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read the weights {os.fspath(path)}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_array(weights: Buffer, element_type: ElementType, shape: Sequence[int], offset: int, size: int) -> Array:
    """A constant of `shape` from `size` bytes at `offset`: a read-only view if elements are whole bytes, else a copy.

    Raises FileError, without the name of a layer or a file.
    """
    count = math.prod(shape)
    where = f"offset {offset}, size {size}, file of {len(weights)} bytes"
    if element_type.bits == 0:
        raise FileError("a constant cannot have element type dynamic")
    if min(shape, default=0) < 0 or offset < 0 or size < 0:
        raise FileError(f"negative length, offset or size ({where}, shape {list(shape)})")
    if offset + size > len(weights):
        raise FileError(f"the data lies outside the weights ({where})")
    if size < element_type.size_of(count):
        needed = element_type.size_of(count)
        raise FileError(f"{element_type}{list(shape)} needs {needed} bytes, but there are {size} ({where})")
    data = weights[offset : offset + element_type.size_of(count)]
    try:
        array = _unpack(data, element_type, count).reshape(tuple(shape))
    except (ValueError, OverflowError, MemoryError) as error:
        raise FileError(f"no array can have shape {list(shape)}: {error}") from None
    array.flags.writeable = False
    return array


def _unpack(data: Buffer, element_type: ElementType, count: int) -> Array:
    if count == 0:
        return np.empty(0, element_type.dtype)
    if element_type.bits >= 8:
        if element_type.name == "boolean":
            raw = np.frombuffer(data, np.uint8)
            # a byte that is neither 0 nor 1 is not a NumPy bool
            return raw.view(np.bool_) if raw.max() <= 1 else raw != 0
        # any alignment is fine here
        return np.frombuffer(data, element_type.dtype, count)
    raw = np.frombuffer(data, np.uint8)
    if element_type.name == "u1":
        return np.unpackbits(raw, count=count, bitorder="big")
    nibbles = np.empty(2 * raw.size, np.uint8)
    nibbles[0::2] = raw & 15
    nibbles[1::2] = raw >> 4
    # an unpacked element is the four bits in a byte, with or without sign
    return nibbles[:count].view(element_type.dtype)


def pack(array: Array, element_type: ElementType) -> Buffer:
    """The bytes of an array in a file. Raises ModelError if the array does not hold `element_type`."""
    if array.dtype != element_type.dtype or element_type.bits == 0:
        raise ModelError(f"an array of {array.dtype} cannot be written as {element_type}")
    flat = np.ascontiguousarray(array).reshape(-1)
    if element_type.bits >= 8:
        return flat.view(np.uint8).data
    if element_type.name == "u1":
        return np.packbits(flat, bitorder="big").data
    codes = np.zeros(flat.size + flat.size % 2, np.uint8)
    codes[: flat.size] = flat.astype(np.int8).view(np.uint8) & 15
    return (codes[0::2] | (codes[1::2] << np.uint8(4))).data


class WeightWriter:
    """Appends constants to a stream; bytes that are there already are not written again."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = 0
        self._offsets: dict[bytes, int] = {}

    def add(self, data: Buffer) -> int:
        """The offset of `data` in the stream. Raises OSError."""
        if len(data) == 0:
            return 0
        digest = hashlib.blake2b(data, digest_size=32).digest()
        if digest not in self._offsets:
            self.stream.write(data)
            self._offsets[digest] = self.size
            self.size += len(data)
        return self._offsets[digest]
