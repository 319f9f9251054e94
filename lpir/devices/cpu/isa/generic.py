"""Any target that LLVM knows: 128-bit vectors, plain integer arithmetic."""

from lpir.devices.cpu.isa.dots import widening
from lpir.devices.cpu.isa.record import Isa

ISA = Isa(
    name="generic",
    cpu="",
    features="",
    bits=128,
    registers=16,
    dot=widening,
    exact=True,
    masks=False,
    proof="",
    requires=frozenset(),
    arch="any",
    dot_cost=12.0,
    spare=3,
)
