"""Element types, with OpenVINO's names.

Each type knows its width in a file (`bits`), the NumPy type that holds one unpacked element (`dtype`) and its name on
an XML port (`precision`).
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np

from lpir.errors import UnsupportedError
from lpir.record import record


@record(eq=False)
class ElementType:
    """One element type. `kind`: "f" float, "i" signed, "u" unsigned, "b" boolean, "?" unknown.

    There is one object of each, copied and pickled as itself, so that comparing two is quick.
    """

    name: str
    precision: str
    bits: int
    kind: str

    def __reduce__(self) -> str | tuple[Any, ...]:
        return as_element_type, (self.name,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of one unpacked element; sub-byte types take a byte each."""
        return _DTYPES[self.name]

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_signed(self) -> bool:
        return self.kind in "if"

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value of an integer type."""
        if self.kind == "i":
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    def size_of(self, count: int) -> int:
        """Bytes that `count` elements take in a file."""
        if self.bits in (3, 6):
            per = 8 if self.bits == 3 else 4
            return 3 * -(-count // per)
        return -(-count * self.bits // 8)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


f64 = ElementType("f64", "FP64", 64, "f")
f32 = ElementType("f32", "FP32", 32, "f")
f16 = ElementType("f16", "FP16", 16, "f")
bf16 = ElementType("bf16", "BF16", 16, "f")
i64 = ElementType("i64", "I64", 64, "i")
i32 = ElementType("i32", "I32", 32, "i")
i16 = ElementType("i16", "I16", 16, "i")
i8 = ElementType("i8", "I8", 8, "i")
i4 = ElementType("i4", "I4", 4, "i")
u64 = ElementType("u64", "U64", 64, "u")
u32 = ElementType("u32", "U32", 32, "u")
u16 = ElementType("u16", "U16", 16, "u")
u8 = ElementType("u8", "U8", 8, "u")
u4 = ElementType("u4", "U4", 4, "u")
u1 = ElementType("u1", "BIN", 1, "u")
boolean = ElementType("boolean", "BOOL", 8, "b")
dynamic = ElementType("dynamic", "UNSPECIFIED", 0, "?")

ALL = (f64, f32, f16, bf16, i64, i32, i16, i8, i4, u64, u32, u16, u8, u4, u1, boolean, dynamic)
BY_NAME = {t.name: t for t in ALL}
BY_PRECISION = {t.precision: t for t in ALL}


class _Dtypes(dict[str, np.dtype[Any]]):
    """NumPy's types. Those of ml_dtypes join them when one is asked for: few models have any, importing takes 5 ms."""

    LATER: ClassVar[dict[str, str]] = {"bf16": "bfloat16", "i4": "int4", "u4": "uint4"}

    def __missing__(self, name: str) -> np.dtype[Any]:
        import ml_dtypes

        self[name] = np.dtype(getattr(ml_dtypes, self.LATER[name]))
        return self[name]


_DTYPES = _Dtypes(
    {
        "f64": np.dtype(np.float64),
        "f32": np.dtype(np.float32),
        "f16": np.dtype(np.float16),
        "i64": np.dtype(np.int64),
        "i32": np.dtype(np.int32),
        "i16": np.dtype(np.int16),
        "i8": np.dtype(np.int8),
        "u64": np.dtype(np.uint64),
        "u32": np.dtype(np.uint32),
        "u16": np.dtype(np.uint16),
        "u8": np.dtype(np.uint8),
        "u1": np.dtype(np.uint8),
        "boolean": np.dtype(np.bool_),
        "dynamic": np.dtype(np.object_),
    }
)
_BY_DTYPE = {np.dtype(d): BY_NAME[n] for n, d in _DTYPES.items() if n not in ("u1", "dynamic")}


@functools.cache
def _later() -> dict[np.dtype[Any], ElementType]:
    return {BY_NAME[name].dtype: BY_NAME[name] for name in _Dtypes.LATER}


def from_dtype(dtype: Any) -> ElementType:
    """The element type of a NumPy dtype. Raises UnsupportedError for strings, complex numbers and objects."""
    found = _BY_DTYPE.get(np.dtype(dtype)) or _later().get(np.dtype(dtype))
    if found is None:
        raise UnsupportedError(f"NumPy type {np.dtype(dtype)} has no element type; use one of {', '.join(BY_NAME)}")
    return found


def as_element_type(value: ElementType | str | Any) -> ElementType:
    """An element type from itself, its name ("f32"), or a NumPy dtype."""
    if isinstance(value, ElementType):
        return value
    if isinstance(value, str) and value in BY_NAME:
        return BY_NAME[value]
    return from_dtype(value)
