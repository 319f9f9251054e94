"""Machine code of the matrix products: compiled for every x86 instruction set on any host, no spills in the loop."""

from __future__ import annotations

import re

import pytest

from lpir.devices.cpu.codegen.jit import assembly
from lpir.devices.cpu.isa import Isa, all_isas
from lpir.devices.cpu.kernels import fgemm
from lpir.devices.cpu.kernels.epilogue import Operand
from lpir.devices.cpu.kernels.fgemm import Shape
from lpir.devices.cpu.kernels.fgemm_print import Form, kernel
from lpir.ir.types import f32, i32
from lpir.ops.lowered import expanded
from lpir.scalar.expr import cast, clamp, erf, input_

X86 = [isa for isa in all_isas() if isa.is_x86]
RELU6 = clamp(input_(0) + input_(1), 0.0, 6.0)


def inner_loop(text: str, instruction: str) -> list[str]:
    """The lines of the loop with the most `instruction`s, up to its jump."""
    blocks = re.split(r"\n(?=\.LBB)", text)
    lines = max(blocks, key=lambda b: b.count(instruction)).splitlines()
    end = next(i for i, line in enumerate(lines) if re.match(r"\s+j[a-z]+\s", line))
    return lines[:end]


def stacked(lines: list[str]) -> list[str]:
    """Lines that move vectors to or from the stack."""
    return [line for line in lines if "(%rsp)" in line and re.search(r"%[yz]mm", line)]


@pytest.mark.parametrize("isa", X86, ids=lambda isa: isa.name)
@pytest.mark.parametrize("channels", [24, 64, 384])
def test_float_tiles_stay_in_registers(isa: Isa, channels: int) -> None:
    tile = fgemm.tiles(isa, Shape(1, 784, channels, 1, 96), True, 3)[0]
    for taps, parts, lines in ((False, False, 0), (True, False, 2), (True, True, 1), (True, True, 8)):
        form = Form(True, taps, False, taps, fgemm.unroll_of(tile, 96, 3), parts=parts, prefetch=lines)
        code, _ = kernel(isa, tile, form, RELU6, (Operand("vector", f32),))
        loop = inner_loop(assembly([code.text], isa), "vfmadd")
        assert sum("vfmadd" in line for line in loop) == tile.rows * tile.vectors * form.unroll
        assert sum("prefetch" in line for line in loop) == lines
        assert not stacked(loop)


@pytest.mark.parametrize("isa", X86, ids=lambda isa: isa.name)
def test_constants_of_a_long_epilogue_do_not_push_sums_to_the_stack(isa: Isa) -> None:
    x = input_(0) + input_(1)
    gelu = x * 0.5 * (erf(x * 0.70710678) + 1.0)
    operations = sum(1 for e in expanded(gelu).walk() if e.args)
    tile = fgemm.tiles(isa, Shape(1, 128, 1536, 1, 384), True, operations)[0]
    form = Form(True, True, False, False, fgemm.unroll_of(tile, 128, operations), parts=True, prefetch=1)
    code, _ = kernel(isa, tile, form, gelu, (Operand("vector", f32),))
    loop = inner_loop(assembly([code.text], isa), "vfmadd")
    assert sum("vfmadd" in line for line in loop) == tile.rows * tile.vectors * form.unroll
    assert not stacked(loop)


@pytest.mark.parametrize("isa", X86, ids=lambda isa: isa.name)
def test_codes_use_the_dot_product_or_words(isa: Isa) -> None:
    arithmetic = "bytes" if isa.exact else "words"
    tile = fgemm.tiles(isa, Shape(12, 128, 128, 1, 8), False, 2)[0]
    form = Form(False, False, False, False, 1, arithmetic, row_sums=True, column_sums=True)
    code, _ = kernel(isa, tile, form, cast(input_(0, i32), f32) * 0.1, ())
    instruction = isa.proof if isa.exact else "vpmaddwd"
    loop = inner_loop(assembly([code.text], isa), instruction)
    assert sum(instruction in line for line in loop) == tile.rows * tile.vectors
    assert not stacked(loop)
