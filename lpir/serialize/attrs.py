"""Attribute text <-> dataclass fields, by the type of the field."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from lpir.errors import FileError, UnsupportedError
from lpir.ir.op import Op
from lpir.ir.shape import PartialShape
from lpir.ir.types import BY_NAME, ElementType
from lpir.record import record

# element types of the format that lpir has no arithmetic for
OTHER_ELEMENT_TYPES = frozenset(("u2", "u3", "u6", "nf4", "f8e4m3", "f8e5m2", "f4e2m1", "f8e8m0", "string"))
INT64 = (-(1 << 63), (1 << 63) - 1)


@record
class Attribute:
    """One attribute of an operation: its field, its XML name, and the type of its value (or None if `optional`).

    element: of a tuple, the type of one value.
    """

    field: str
    name: str
    type: Any
    optional: bool
    default: Any
    element: Any


def attributes_of(op: type[Op]) -> tuple[Attribute, ...]:
    """The attributes of an operation class, in order. A field whose metadata has "xml": None is not written."""
    if op not in _ATTRIBUTES:
        _ATTRIBUTES[op] = _attributes_of(op)
    return _ATTRIBUTES[op]


_ATTRIBUTES: dict[type[Op], tuple[Attribute, ...]] = {}


def _attributes_of(op: type[Op]) -> tuple[Attribute, ...]:
    hints = typing.get_type_hints(op)
    found = []
    for f in dataclasses.fields(op):
        name = f.metadata.get("xml", f.name)
        if name is not None and f.init:
            kind, optional = _without_none(hints[f.name])
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            is_tuple = typing.get_origin(kind) is tuple or kind is tuple
            element = (typing.get_args(kind) or (int, ...))[0] if is_tuple else None
            found.append(Attribute(f.name, name, kind, optional, default, element))
    return tuple(found)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        rest = [a for a in typing.get_args(hint) if a is not type(None)]
        return rest[0], len(rest) < len(typing.get_args(hint))
    return hint, False


def decode(op: type[Op], texts: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `op` from attribute texts.

    Absent ones keep their defaults, unknown ones are ignored as in OpenVINO. Raises FileError that names the attribute.
    """
    values: dict[str, Any] = {}
    for attribute in attributes_of(op):
        text = texts.get(attribute.name)
        if text is None:
            if attribute.default is dataclasses.MISSING:
                raise FileError(f"attribute {attribute.name!r} is missing")
            continue
        try:
            values[attribute.field] = _parse(attribute, text)
        except UnsupportedError:
            raise
        except ValueError as error:
            raise FileError(f"attribute {attribute.name}={_short(text)!r}: {error}") from None
    return values


def _parse(attribute: Attribute, text: str) -> Any:
    kind = attribute.type
    if attribute.element is not None:
        parts = [p.strip() for p in text.split(",")] if text.strip() else []
        return tuple([parse_scalar(attribute.element, p) for p in parts])
    if kind is str and isinstance(attribute.default, str):
        # OpenVINO reads enumerations in any case
        return text.lower() if attribute.default.islower() else text.upper() if attribute.default.isupper() else text
    return parse_scalar(kind, text)


def parse_scalar(kind: Any, text: str) -> Any:
    """One value of a simple type. Raises ValueError (InputError is one) or UnsupportedError."""
    if kind is bool:
        return _parse_bool(text)
    if kind is int:
        return parse_int(text)
    if kind is float:
        return float(text)
    if kind is ElementType:
        return parse_element_type(text)
    if kind is PartialShape:
        return parse_shape(text)
    if kind is str:
        return text
    raise ValueError(f"lpir has no text form for {kind}")


def _parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("true", "1", "yes"):
        return True
    if lowered in ("false", "0", "no"):
        return False
    raise ValueError("must be true or false")


@functools.lru_cache(4096)
def parse_int(text: str) -> int:
    """A decimal integer of 64 bits. Raises ValueError."""
    if len(text) < 19 and text.isascii() and text.isdigit():
        return int(text)
    if not re.fullmatch(r"\s*[-+]?[0-9]{1,20}\s*", text):
        raise ValueError("must be an integer")
    value = int(text)
    if not INT64[0] <= value <= INT64[1]:
        raise ValueError("does not fit in 64 bits")
    return value


def parse_element_type(text: str) -> ElementType:
    """An element type by its lower-case name. Raises ValueError, or UnsupportedError for types without arithmetic."""
    if text in OTHER_ELEMENT_TYPES:
        raise UnsupportedError(f"element type {text} is not supported; lpir has {', '.join(BY_NAME)}")
    if text not in BY_NAME:
        raise ValueError(f"no such element type; it must be one of {', '.join(BY_NAME)}")
    return BY_NAME[text]


def parse_shape(text: str) -> PartialShape:
    """A partial shape whose lengths fit in 64 bits. Raises ValueError."""
    if re.search(r"[0-9]{20}", text):
        raise ValueError("a dimension does not fit in 64 bits")
    shape = PartialShape.parse(text)
    if shape.dims is not None and any(max(d.lo, d.hi or 0) > INT64[1] for d in shape.dims):
        raise ValueError("a dimension does not fit in 64 bits")
    return shape


def encode(op: Op) -> dict[str, str]:
    """The attribute texts of `op` by XML name, in order; attributes that are None are left out."""
    texts = {}
    for attribute in attributes_of(type(op)):
        value = getattr(op, attribute.field)
        if value is not None:
            texts[attribute.name] = to_text(value)
    if texts.get("auto_pad") in ("same_upper", "same_lower", "valid"):
        # pads mean nothing then; OpenVINO writes zeros
        for name in ("pads_begin", "pads_end"):
            if name in texts:
                texts[name] = ", ".join("0" for _ in texts[name].split(",") if texts[name])
    return texts


def to_text(value: Any) -> str:
    """OpenVINO's text of one attribute value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(to_text(v) for v in value)
    if isinstance(value, float):
        return format(value, ".17g")
    if isinstance(value, PartialShape):
        return "..." if value.dims is None else str(value)[1:-1]
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
