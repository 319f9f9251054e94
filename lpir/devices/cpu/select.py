"""Which kernel runs a node: choose first, build later. The choice is pure, and says why faster kernels were refused.

What a kernel module must provide is written at the top of `kernels/base.py`.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from dataclasses import field

from lpir.devices.cpu import kernels
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import Kernel
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ir.types import bf16, f16
from lpir.ops.loops import Iteration
from lpir.record import record
from lpir.scalar.expr import Expr

# narrower instruction sets may lack conversions of f16
AVX_BITS = 256


@record
class Choice:
    """The kernel for a node (None: its operation's `eval`), and the reasons of those that were asked before."""

    kernel: Kernel | None
    refused: dict[str, str] = field(default_factory=dict)
    # nothing runs: the output is the input in another shape
    alias: bool = False
    # what was found out by measuring
    note: str = ""

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


_FOR: dict[type[Op], tuple[Kernel, ...]] = {}


def kernels_for(op: type[Op]) -> tuple[Kernel, ...]:
    """The kernels that name an operation, smallest rank first."""
    if op not in _FOR:
        _FOR[op] = tuple(k for k in all_kernels() if issubclass(op, k.ops))
    return _FOR[op]


def choose(node: Node, isa: Isa) -> Choice:
    """The first kernel that applies to `node` on `isa`."""
    refused: dict[str, str] = {}
    if isinstance(node.op, Iteration):
        return Choice(None, {"native": "Python counts the iterations"}, note="its body is compiled")
    why = _beyond(node, isa)
    if why is not None:
        return Choice(None, {"native": why})
    for kernel in kernels_for(type(node.op)):
        why = kernel.applies(node, isa)
        if why is None:
            return Choice(kernel, refused)
        refused[kernel.name] = why
    return Choice(None, refused or {"native": f"no kernel for {node.op.type_name}"})


def _beyond(node: Node, isa: Isa) -> str | None:
    """Why no native kernel may run the node at all, or None."""
    values = (*node.inputs, *node.outputs)
    if any(math.prod(v.shape.to_static()) == 0 for v in values):
        return "a tensor is empty"
    types = {v.element_type for v in values}
    for name in ("expr", "epilogue"):
        expr = getattr(node.op, name, None)
        if isinstance(expr, Expr):
            types |= {e.type for e in expr.walk()}
    # without the instructions LLVM calls functions of a run-time library that a process need not have
    if bf16 in types or (f16 in types and isa.bits < AVX_BITS):
        return f"{isa.name} does not convert 16-bit floats"
    return None
