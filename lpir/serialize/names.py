"""Names in files: operation types and their opsets, and lists of tensor names."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from lpir.errors import FileError
from lpir.ir.op import REGISTRY, Op
from lpir.serialize.versions import HISTORY

# types that a file spells unlike their operation
XML_TYPES = {"Constant": "Const", "PRelu": "PReLU", "Relu": "ReLU", "Softmax": "SoftMax"}

# OpenVINO writes another version than the first opset that has the operation
XML_VERSIONS = {"LogicalXor": "opset2"}

# operations with a body of their own, as files spell them in lower case
BODY_TYPES = frozenset({"loop", "tensoriterator"})

LAST_FULL_OPSET = 16
# opset17 is a table of few operations in OpenVINO 2026.4
OPSET17 = frozenset({"Convert", "Parameter", "ShapeOf"})


def xml_type(type_name: str) -> str:
    """How a file spells an operation type."""
    return XML_TYPES.get(type_name, type_name)


def xml_version(op: Op) -> str:
    """The version that a file gives to an operation."""
    return XML_VERSIONS.get(op.type_name, op.version)


def find_type(text: str) -> type[Op] | None:
    """The operation that a file calls `text`, in any case; None if there is none."""
    if not _BY_LOWER or len(_BY_LOWER) < len(REGISTRY):
        _BY_LOWER.update({name.lower(): op for name, op in REGISTRY.items()})
        _BY_LOWER["const"] = REGISTRY["Constant"]
    return _BY_LOWER.get(text.lower())


_BY_LOWER: dict[str, type[Op]] = {}


@functools.cache
def opset_number(text: str) -> int:
    """8 of "opset8". Raises FileError for anything else."""
    match = re.fullmatch(r"opset([1-9]\d?)", text)
    if match is None:
        raise FileError(f"version {text!r} is not an operation set; OpenVINO has opset1 to opset{LAST_FULL_OPSET}")
    return int(match[1])


def version_in(op: type[Op], opset: int) -> int:
    """The version of `op` (the opset in which it appeared) that `opset` holds.

    Raises FileError if that opset lacks the operation.
    """
    history = HISTORY.get(op.type_name) or (opset_number(op.version),)
    name = xml_type(op.type_name)
    if opset > LAST_FULL_OPSET and not (opset == LAST_FULL_OPSET + 1 and op.type_name in OPSET17):
        raise FileError(f"opset{opset} has no {name}; use opset{history[-1]}")
    versions = [v for v in history if v <= opset]
    if not versions:
        raise FileError(f"opset{opset} has no {name}; it came with opset{history[0]}")
    return versions[-1]


def split_names(text: str) -> set[str]:
    """Tensor names of a comma-joined list; a backslash keeps the comma after it in the name."""
    if "," not in text:
        return {text} if text else set()
    return {part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text) if part}


def join_names(names: Iterable[str]) -> str:
    """The opposite of `split_names`, sorted. A backslash itself is not escaped (OpenVINO's format has no way to)."""
    return ",".join(name.replace(",", "\\,") for name in sorted(names))
