"""AVX-512 with VNNI (Ice Lake, Zen 4 and later)."""

from lpir.devices.cpu.isa.dots import vpdpbusd
from lpir.devices.cpu.isa.record import Isa

ISA = Isa(
    name="avx512_vnni",
    cpu="x86-64-v4",
    features="+avx512vnni",
    bits=512,
    registers=32,
    dot=vpdpbusd,
    exact=True,
    masks=True,
    proof="vpdpbusd",
    requires=frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512vnni"}),
)
