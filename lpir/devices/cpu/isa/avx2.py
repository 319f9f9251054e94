"""AVX2 without VNNI: `vpmaddubsw`, made exact by the weight packer."""

from lpir.devices.cpu.isa.dots import vpmaddubsw
from lpir.devices.cpu.isa.record import Isa

ISA = Isa(
    name="avx2",
    cpu="x86-64-v3",
    features="",
    bits=256,
    registers=16,
    dot=vpmaddubsw,
    exact=False,
    masks=False,
    proof="vpmaddubsw",
    requires=frozenset({"avx2", "fma", "bmi2", "f16c"}),
)
