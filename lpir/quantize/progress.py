"""How far a quantization is: a bar on a terminal, nothing in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

# called with (what is done, how many steps are over, how many there are or 0 when unknown)
Reporter = Callable[[str, int, int], None]


class Progress:
    """Use as a context manager. `show`: True for a bar when stderr is a terminal, False for none, or a Reporter."""

    def __init__(self, show: bool | Reporter) -> None:
        self._report = show if callable(show) else None
        self._stream = sys.stderr if show is True and sys.stderr.isatty() else None
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._plain = ""

    def __enter__(self) -> Progress:
        if self._stream is not None:
            self._bar = _rich_bar()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._plain and self._stream is not None:
            print(file=self._stream)

    def step(self, what: str, done: int, total: int = 0) -> None:
        """`done` of `total` steps of `what` are over."""
        if self._report is not None:
            self._report(what, done, total)
        elif self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total or None)
            self._bar.update(self._tasks[what], completed=done)
        elif self._stream is not None:
            self._plain = f"\r{what}: {done}" + (f"/{total}" if total else "")
            print(self._plain, end="", file=self._stream, flush=True)


def _rich_bar() -> Any:
    """A started bar of the package rich on stderr, or None where it is not installed."""
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    bar = Bar(console=Console(stderr=True), transient=True)
    bar.start()
    return bar
