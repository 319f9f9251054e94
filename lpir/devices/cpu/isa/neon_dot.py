"""NEON with dot products (ARMv8.2 dotprod: Cortex-A76, Neoverse N1, Apple M1): `sdot` of codes made signed."""

from lpir.devices.cpu.isa.dots import sdot, shifted_sdot
from lpir.devices.cpu.isa.record import Isa

ISA = Isa(
    name="neon_dot",
    cpu="generic",
    features="+dotprod",
    bits=128,
    registers=32,
    dot=sdot,
    exact=True,
    masks=False,
    proof="sdot",
    requires=frozenset({"dotprod"}),
    arch="aarch64",
    # LLVM loads rows ahead of their use, and keeps both forms of their bytes
    spare=6,
    shifted_dot=shifted_sdot,
    shift=128,
)
