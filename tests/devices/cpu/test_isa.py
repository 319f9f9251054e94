"""Every instruction set compiles the INT8 kernels on any x86 host, with the instruction that makes it worth having."""

from __future__ import annotations

import re

import pytest

from lpir.devices.cpu.codegen.jit import assembly
from lpir.devices.cpu.isa import Isa, all_isas, by_name, host_isa
from lpir.devices.cpu.kernels import idepthwise, igemm
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand
from lpir.ir.types import f32, i32, u8
from lpir.scalar.expr import cast, clamp, input_, rint_i32

REQUANT = cast(rint_i32(clamp(cast(input_(0, i32), f32) * input_(1) + input_(2), 0.0, 255.0)) + 3, u8)
OPERANDS = [Operand("vector", f32), Operand("vector", f32)]


def finish() -> Epilogue:
    return Epilogue(REQUANT, OPERANDS)


ISAS = pytest.mark.parametrize("isa", all_isas(), ids=lambda isa: isa.name)
X86_ISAS = [isa for isa in all_isas() if isa.is_x86]


def test_order() -> None:
    assert [isa.name for isa in all_isas()] == ["generic", "avx2", "avx_vnni", "avx512", "avx512_vnni"]
    assert host_isa().available()
    assert by_name("avx2").lanes() == 8


@ISAS
def test_product_contains_its_dot(isa: Isa) -> None:
    gemm = igemm.build(isa, 196, 64, 384, (0,), finish())
    assert isa.proof in assembly([gemm.kernel.text], isa)


@ISAS
def test_depthwise_contains_its_dot(isa: Isa) -> None:
    block = idepthwise.block_bytes(isa, 192)
    text = idepthwise.build(isa, idepthwise.Shape(3, 3, 1, 1), block, False, finish()).text
    proof = "vpmaddwd" if idepthwise.uses_words(isa) else isa.proof
    assert proof in assembly([text], isa)


@pytest.mark.parametrize("shape", [(196, 64, 384), (3136, 144, 24), (49, 320, 960), (1, 1000, 1280)])
@pytest.mark.parametrize("isa", X86_ISAS, ids=lambda isa: isa.name)
def test_inner_loop_keeps_its_sums_in_registers(isa: Isa, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    lines = assembly([igemm.build(isa, m, n, k, (0,), finish()).kernel.text], isa).splitlines()
    first = next(i for i, line in enumerate(lines) if isa.proof in line)
    start = max(i for i in range(first) if lines[i].startswith(".LBB"))
    end = next(i for i in range(first, len(lines)) if re.match(r"\tj\w+\s", lines[i]))
    assert not [line for line in lines[start:end] if "rsp" in line and "mm" in line]
