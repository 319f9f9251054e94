"""NEON with 8-bit matrix instructions (ARMv8.6 i8mm: Neoverse V1, N2, Apple M2): `usdot`, `usmmla` for products."""

from lpir.devices.cpu.isa.dots import usdot, usmmla
from lpir.devices.cpu.isa.record import Isa

ISA = Isa(
    name="neon_i8mm",
    cpu="generic",
    features="+dotprod,+i8mm",
    bits=128,
    registers=32,
    dot=usdot,
    exact=True,
    masks=False,
    proof="usdot",
    requires=frozenset({"dotprod", "i8mm"}),
    arch="aarch64",
    spare=3,
    pair_dot=usmmla,
    pair_proof="usmmla",
)
