"""AVX-512 without VNNI (Skylake-X): `vpmaddubsw`, made exact by the weight packer."""

from lpir.devices.cpu.isa.dots import vpmaddubsw
from lpir.devices.cpu.isa.record import Isa

ISA = Isa(
    name="avx512",
    cpu="x86-64-v4",
    features="",
    bits=512,
    registers=32,
    dot=vpmaddubsw,
    exact=False,
    masks=True,
    proof="vpmaddubsw",
    requires=frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"}),
)
