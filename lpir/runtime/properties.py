"""Properties that a model is compiled with, under OpenVINO's names."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

from lpir.errors import InputError
from lpir.record import record

UNLIMITED = 2**31 - 1


@record
class Property:
    """A setting: its name, default and allowed values.

    kind: "bool" (also YES/NO, TRUE/FALSE), "int" (from `minimum` to `maximum`; a word in `choices` stands for the
    minimum), "str" (also a path), or "choice" (one of `choices`, any case).
    """

    name: str
    kind: str
    default: Any
    about: str
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = UNLIMITED

    def parse(self, value: Any) -> Any:
        """`value` as Python type. Raises InputError that says what is allowed."""
        found = getattr(self, "_" + self.kind)(value)
        if found is None:
            raise InputError(f"property {self.name} cannot be {value!r}; it takes {self.allowed()}")
        return found

    def allowed(self) -> str:
        """The allowed values in words."""
        if self.kind == "int":
            words = f", or {', '.join(self.choices)}" if self.choices else ""
            most = f" and at most {self.maximum}" if self.maximum < UNLIMITED else ""
            return f"an integer of at least {self.minimum}{most}{words}"
        return {"bool": "YES or NO", "str": "text"}.get(self.kind, ", ".join(self.choices))

    def _bool(self, value: Any) -> bool | None:
        if isinstance(value, str):
            return {"YES": True, "TRUE": True, "ON": True, "NO": False, "FALSE": False, "OFF": False}.get(value.upper())
        return bool(value) if np.ndim(value) == 0 and value in (0, 1) else None

    def _int(self, value: Any) -> int | None:
        if self._choice(value) is not None:
            return self.minimum
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            return None
        whole = isinstance(value, str) or number == value
        return number if whole and self.minimum <= number <= self.maximum and not isinstance(value, bool) else None

    def _str(self, value: Any) -> str | None:
        return str(value) if isinstance(value, str | PathLike) else None

    def _choice(self, value: Any) -> str | None:
        text = str(value).upper()
        return next((c for c in self.choices if c.upper() == text), None)


# more than any machine has processors
MOST_THREADS = 4096
HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
COMMON = (
    Property("PERFORMANCE_HINT", "choice", "LATENCY", "what to tune for", HINTS),
    Property("PERFORMANCE_HINT_NUM_REQUESTS", "int", 0, "how many requests the caller will run at once; 0: not said"),
    Property(
        "NUM_STREAMS", "int", 1, "requests that run side by side; 0 or AUTO: chosen here", ("AUTO",), 0, MOST_THREADS
    ),
    Property("INFERENCE_NUM_THREADS", "int", 0, "threads of one inference; 0: all cores", maximum=MOST_THREADS),
    Property("INFERENCE_PRECISION_HINT", "choice", "f32", "type of float operations", ("f32",)),
    Property("EXECUTION_MODE_HINT", "choice", "PERFORMANCE", "speed or accuracy", ("PERFORMANCE", "ACCURACY")),
    Property("CACHE_DIR", "str", "", "folder that keeps compiled models for the next process; empty: none"),
    Property("PERF_COUNT", "bool", False, "measure each operation"),
    Property("LP_TRANSFORMS_MODE", "bool", True, "run FakeQuantize as integer arithmetic; NO: as it stands"),
)
