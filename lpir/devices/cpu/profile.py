"""Times of nodes: steps that write down the time, so that a profiled model is one native call like any other."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lpir.devices.cpu.codegen.abi import Kernel, Ref
from lpir.devices.cpu.codegen.emitter import Function
from lpir.devices.cpu.kernels.base import Step
from lpir.devices.cpu.work import Work, work_of
from lpir.ir.graph import Node
from lpir.ir.op import Array
from lpir.record import record
from lpir.runtime.profile import ProfilingInfo

if TYPE_CHECKING:
    from lpir.devices.cpu.roofline import Roofline
    from lpir.devices.cpu.select import Choice

# a time is int64 seconds and nanoseconds, as `clock_gettime` writes them
STAMP_BYTES = 16


class Stamps:
    """Hands out the steps that write times, one behind the other, into a buffer of the plan."""

    def __init__(self, buffer: int) -> None:
        self.buffer = buffer
        self.count = 0

    def step(self) -> Step:
        """A step that writes the next time."""
        self.count += 1
        return Step.of(_stamp(), {"at": Ref(self.buffer, STAMP_BYTES * (self.count - 1))})


@functools.cache
def _stamp() -> Kernel:
    f = Function("stamp", {"at": "ptr"}, optimize=False)
    with f.if_(f.icmp("eq", f.tid, 0)):
        f.call("clock_gettime", "i32", f.const("i32", time.CLOCK_MONOTONIC), f.p["at"])
    return f.kernel()


def intervals(stamps: Array) -> list[float]:
    """Seconds between neighbors in `[n, 2]` times."""
    return [float(b[0] - a[0]) + 1e-9 * float(b[1] - a[1]) for a, b in pairwise(stamps)]


@record
class Layer:
    """What a profile says of a node besides its time."""

    name: str
    type: str
    kernel: str
    work: Work
    refused: dict[str, str]

    @staticmethod
    def of(node: Node, choice: Choice) -> Layer:
        return Layer(node.name, node.op.type_name, choice.name, work_of(node), choice.refused)

    @staticmethod
    def read(facts: dict[str, Any]) -> Layer:
        """What `facts` wrote."""
        return Layer(**{**facts, "work": Work(**facts["work"])})

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def profile(
    layers: Sequence[Layer], seconds: Sequence[float], constants: int, isa: str, threads: int
) -> list[ProfilingInfo]:
    """Each layer with its time and, as far as that can be measured here, what this machine allows.

    constants: bytes of the constants of the whole plan.
    """
    line = _roofline(isa, threads)
    return [
        ProfilingInfo(
            x.name,
            x.type,
            x.kernel,
            time,
            macs=x.work.macs,
            nbytes=x.work.nbytes,
            bound=line.bound(x.work, constants) if line else None,
            refused=x.refused,
        )
        for x, time in zip(layers, seconds, strict=True)
    ]


def _roofline(isa: str, threads: int) -> Roofline | None:
    try:
        # LLVM is needed, which a loaded model can do without
        from lpir.devices.cpu.roofline import roofline
    except ImportError:
        return None
    return roofline(isa, threads)
