"""What each operation of a compiled model runs in, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lpir.record import record

WIDTH = 120


@record
class Row:
    """One public operation: its precision ("INT8", "FP32", "I64", ... or "-" when nothing runs for it) and kernel.

    `reasons` says why an operation that the IR wanted in INT8 is not. `part_of`: the operation whose kernel computes
    this one too, in its epilogue or in the same pass; "" for an operation with a kernel of its own.
    """

    name: str
    type: str
    precision: str
    kernel: str
    reasons: tuple[str, ...] = ()
    part_of: str = ""

    @property
    def is_folded(self) -> bool:
        """Whether it was computed when the model was compiled, so that nothing runs for it."""
        return self.precision == "-"

    @property
    def counts(self) -> bool:
        """Whether it is in the numbers of the summary: it computes, by itself, something other than codes."""
        return not (self.is_folded or self.part_of or self.kernel == "alias" or self.type == "FakeQuantize")


@record
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

    def counts(self) -> dict[str, int]:
        """Precision -> number of operations with a kernel of their own, INT8 first; FakeQuantize is not counted."""
        found = Counter(r.precision for r in self.rows if r.counts)
        return dict(sorted(found.items(), key=lambda item: (item[0] != "INT8", item[0])))

    def summary(self) -> str:
        """One line: the device, and how many operations run in which precision."""
        counts = self.counts()
        total = sum(counts.values())
        others = [f"{n} in {p}" for p, n in counts.items() if p != "INT8"]
        first = f"{counts.get('INT8', 0)} of {total} operations run in INT8" if total else "nothing to run"
        inside = sum(1 for r in self.rows if r.part_of)
        folded = sum(1 for r in self.rows if r.is_folded)
        parts = [", ".join([first, *others]), f"{len(self.refused()) or 'none'} refused"]
        parts += [f"{inside} more inside their kernels"] if inside else []
        parts += [f"{folded} folded"] if folded else []
        return f"{self.device}: {'; '.join(parts)}"

    def reasons(self) -> dict[str, list[Row]]:
        """Why operations do not run in INT8: reason -> the operations, most frequent first."""
        found: dict[str, list[Row]] = {}
        for row in self.refused():
            for reason in row.reasons:
                found.setdefault(reason, []).append(row)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "device": self.device,
            "summary": self.summary(),
            "counts": self.counts(),
            "refused": len(self.refused()),
            "rows": [asdict(r) for r in self.rows],
        }

    def text(self, folded: bool = False, width: int = WIDTH) -> str:
        """The summary, why INT8 was refused, and a table of at most `width` columns.

        folded: also what was computed at compile time (weights that are decoded, shapes).
        """
        reasons = self.reasons()
        numbers = {reason: index for index, reason in enumerate(reasons, 1)}
        lines = [self.summary(), *_reason_lines(reasons, numbers, width)]
        heads = ("operation", "type", "precision", "kernel")
        lines += _table(heads, [_cells(r, numbers) for r in self.rows if not r.is_folded], width)
        if folded and (rest := [r for r in self.rows if r.is_folded]):
            lines += ["", "Computed once, when the model was compiled:", *_names(rest, width)]
        return "\n".join(lines)

    def refused_text(self, width: int = WIDTH) -> str:
        """The summary, and the operations that were refused INT8 by reason."""
        reasons = self.reasons()
        lines = [self.summary()]
        for reason, rows in reasons.items():
            lines += ["", f"{reason}:", *_names(rows, width)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


def _names(rows: list[Row], width: int) -> list[str]:
    return _table(("operation", "type"), [(r.name, r.type) for r in rows], width)


def _cells(row: Row, numbers: dict[str, int]) -> tuple[str, ...]:
    """One line of the table; what runs inside another operation's kernel is indented below it."""
    marks = "".join(f" [{numbers[r]}]" for r in row.reasons)
    if row.part_of:
        return f"  {row.name}", row.type, marks.strip(), row.kernel
    return row.name, row.type, f"{row.precision}{marks}", row.kernel


def _reason_lines(reasons: dict[str, list[Row]], numbers: dict[str, int], width: int) -> Iterator[str]:
    """`[1] reason: n operations (Add, Multiply)`."""
    if reasons:
        yield "refused INT8, because:"
    for reason, rows in reasons.items():
        types = ", ".join(f"{n} {t}" for t, n in sorted(Counter(r.type for r in rows).items()))
        yield f"  [{numbers[reason]}] {reason}: {types}"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> list[str]:
    """Aligned columns under a ruled header; the first column (names) gives way when space is short."""
    if not rows:
        return []
    cells = [heads, *rows]
    widths = [max(len(c[i]) for c in cells) for i in range(len(heads))]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = max(min(widths[0], width - rest), 20)
    lines = ["  ".join(_fit(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return ["", lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _fit(text: str, width: int) -> str:
    """`text` padded to `width`, or cut in its middle: the ends of names tell them apart."""
    if len(text) <= width:
        return text.ljust(width)
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
