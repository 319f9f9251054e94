"""Times of the operations of one inference."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class ProfilingInfo:
    """One operation of the last inference.

    status: "EXECUTED" or "OPTIMIZED_OUT" (fused into another operation); exec_type: the kernel and its precision.
    """

    node_name: str
    node_type: str
    exec_type: str
    real_time: timedelta
    cpu_time: timedelta
    status: str = "EXECUTED"

    @staticmethod
    def of(node_name: str, node_type: str, exec_type: str, seconds: float) -> ProfilingInfo:
        """An executed operation that took `seconds`."""
        time = timedelta(seconds=seconds)
        return ProfilingInfo(node_name, node_type, exec_type, time, time)
