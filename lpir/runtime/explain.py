"""What each operation of a compiled model runs in, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One public operation: its precision ("INT8", "FP32", "I64", ... or "-" when nothing runs for it) and kernel.

    `reasons` says why an operation that the IR wanted in INT8 is not.
    """

    name: str
    type: str
    precision: str
    kernel: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Rows in the order of the model; prints as a table."""

    device: str
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def refused(self) -> list[Row]:
        """Operations that the IR wanted in INT8 and that run in float."""
        return [r for r in self.rows if r.reasons]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"device": self.device, "rows": [asdict(r) for r in self.rows]}

    def __str__(self) -> str:
        header = ("operation", "type", "precision", "kernel", "why not INT8")
        cells = [header, *((r.name, r.type, r.precision, r.kernel, "; ".join(r.reasons)) for r in self.rows)]
        widths = [min(max(len(c[i]) for c in cells), 60) for i in range(4)]
        lines = ["  ".join([*(c[i].ljust(widths[i]) for i in range(4)), c[4]]).rstrip() for c in cells]
        lines.insert(1, "-" * len(lines[0]))
        count = Counter(r.precision for r in self.rows if r.precision != "-")
        total = ", ".join(f"{n} {p}" for p, n in sorted(count.items()))
        lines.append(f"{self.device}: {total or 'nothing to run'}; {len(self.refused())} refused INT8")
        return "\n".join(lines)
