"""One message for everything that an importer cannot do yet."""

from __future__ import annotations

from collections.abc import Iterable


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
