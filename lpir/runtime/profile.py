"""Times of the operations of one inference, and what the machine would allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import timedelta

from lpir.record import record


@record
class Bound:
    """The least time that the machine needs for an operation, by its arithmetic or its memory, whichever is slower.

    by: the instruction that does the arithmetic, or "memory". rate: what the machine then does in a second,
    multiply-adds or bytes.
    """

    seconds: float
    by: str
    rate: float

    def __str__(self) -> str:
        unit = "GB/s" if self.by == "memory" else "GMAC/s"
        return f"{self.rate / 1e9:.0f} {unit} {self.by}"


@record
class ProfilingInfo:
    """One operation of the last inference.

    exec_type: the kernel; status: "EXECUTED" or "OPTIMIZED_OUT" (fused into another operation). macs: multiply-adds, 0
    for an operation without products; nbytes: inputs and outputs, each counted once. bound: None where the device does
    not know one. refused: kernels that were asked before the one that runs, and why they cannot.
    """

    node_name: str
    node_type: str
    exec_type: str
    seconds: float
    macs: int = 0
    nbytes: int = 0
    bound: Bound | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    status: str = "EXECUTED"

    @property
    def real_time(self) -> timedelta:
        """`seconds`, to the microsecond."""
        return timedelta(seconds=self.seconds)

    cpu_time = real_time

    @property
    def gmacs(self) -> float:
        """10^9 multiply-adds a second."""
        return self.macs / self.seconds / 1e9 if self.seconds > 0 else 0.0

    @property
    def share(self) -> float | None:
        """The bound's part of the time: 1 is as fast as the machine allows."""
        return self.bound.seconds / self.seconds if self.bound and self.seconds > 0 else None
