"""AVX-512 with VNNI, and AMX's tile registers for matrix products of bytes and bfloat16 (Sapphire Rapids and later)."""

from dataclasses import replace

from lpir.devices.cpu.isa.avx512_vnni import ISA as AVX512_VNNI

ISA = replace(
    AVX512_VNNI,
    name="amx",
    features=AVX512_VNNI.features + ",+amx-tile,+amx-int8,+amx-bf16",
    requires=AVX512_VNNI.requires | {"amx-tile", "amx-int8", "amx-bf16"},
    tiles=True,
)
