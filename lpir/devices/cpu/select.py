"""Which kernel runs a node: choose first, build later. The choice is pure, and says why faster kernels were refused.

What a kernel module must provide is written at the top of `kernels/base.py`.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from dataclasses import dataclass, field
from typing import Any

from lpir.devices.cpu import kernels
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import Kernel
from lpir.ir.graph import Node


@dataclass(frozen=True)
class Choice:
    """The kernel for a node (None: its operation's `eval`), and the reasons of those that were asked before."""

    kernel: Kernel | None
    refused: dict[str, str] = field(default_factory=dict)
    # nothing runs: the output is the input in another shape
    alias: bool = False

    @property
    def name(self) -> str:
        """What explain() prints."""
        return self.kernel.name if self.kernel else "alias" if self.alias else "eval"


@functools.cache
def all_kernels() -> tuple[Kernel, ...]:
    """Every kernel of the modules in `kernels`, smallest rank first."""
    found: list[Kernel] = []
    for info in pkgutil.iter_modules(kernels.__path__):
        module = importlib.import_module(f"{kernels.__name__}.{info.name}")
        found += getattr(module, "KERNELS", [])
    return tuple(sorted(found, key=lambda k: k.rank))


@functools.cache
def _kernels_for(op: Any) -> tuple[Kernel, ...]:
    return tuple(k for k in all_kernels() if issubclass(op, k.ops))


def choose(node: Node, isa: Isa) -> Choice:
    """The first kernel that applies to `node` on `isa`."""
    refused: dict[str, str] = {}
    if any(math.prod(v.shape.to_static()) == 0 for v in (*node.inputs, *node.outputs)):
        return Choice(None, {"native": "a tensor is empty"})
    for kernel in _kernels_for(node.op.__class__):
        why = kernel.applies(node, isa)
        if why is None:
            return Choice(kernel, refused)
        refused[kernel.name] = why
    return Choice(None, refused or {"native": f"no kernel for {node.op.type_name}"})
