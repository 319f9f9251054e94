"""How much LLVM does with a text, told by its first line; without one: optimization passes, then code generation.

A module of its own, because loading a compiled model needs nothing else of the code generator.
"""

from __future__ import annotations

# values are computed once, loops entered at the top, invariants outside: passes are left out
AS_PRINTED = "; compiled as printed"
# it waits or calls more than it computes: code generation does not optimize either
QUICK = "; compiled quickly"
