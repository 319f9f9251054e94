"""AVX2 with the VEX form of VNNI (Alder Lake, Zen 5)."""

from lpir.devices.cpu.isa.dots import vpdpbusd
from lpir.devices.cpu.isa.record import Isa

ISA = Isa(
    name="avx_vnni",
    cpu="x86-64-v3",
    features="+avxvnni",
    bits=256,
    registers=16,
    dot=vpdpbusd,
    exact=True,
    masks=False,
    proof="vpdpbusd",
    requires=frozenset({"avx2", "fma", "bmi2", "f16c", "avxvnni"}),
)
