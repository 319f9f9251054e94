"""Reads a model of any supported format, told apart by its first bytes and its suffix."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lpir.errors import FileError
from lpir.ir.model import Model

READERS = {".onnx": "onnx"}


def import_model(path: str | os.PathLike[str]) -> Model:
    """The model in the file at `path`.

    Raises FileError for a damaged file or an unknown format, UnsupportedError that lists every missing operator.
    """
    suffix = Path(path).suffix.lower()
    if READERS.get(suffix) == "onnx":
        from lpir.frontends.onnx import read_onnx

        return read_onnx(path)
    raise FileError(f"{path}: unknown model format '{suffix}'; known: {', '.join(READERS)}")


def missing_message(origin: str, missing: Iterable[tuple[str, str]]) -> str:
    """One message for all unsupported operators, from pairs (operator, name of the node)."""
    first: dict[str, tuple[int, str]] = {}
    for kind, name in missing:
        count, seen = first.get(kind, (0, name))
        first[kind] = (count + 1, seen)
    listed = ", ".join(f"{k} ({n}, first '{name}')" for k, (n, name) in sorted(first.items()))
    plural = "operators are" if len(first) != 1 else "operator is"
    return (
        f"{origin}: {len(first)} {plural} not supported: {listed}\n"
        f"  try: cut the model at an earlier tensor (output=...), or see docs/operations.md"
    )
