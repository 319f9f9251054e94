"""Every instruction set compiles the INT8 kernels on any host, with the instruction that makes it worth having."""

from __future__ import annotations

import re

import pytest

from lpir.devices.cpu.codegen import jit
from lpir.devices.cpu.codegen.jit import assembly
from lpir.devices.cpu.codegen.processor import arm_features
from lpir.devices.cpu.isa import Isa, all_isas, by_name, host_isa
from lpir.devices.cpu.kernels import elementwise, idepthwise, table
from lpir.devices.cpu.kernels.depthwise_weights import Shape
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand
from lpir.devices.cpu.kernels.product_int8 import gemm_builder
from lpir.ir.types import f32, i32, u8
from lpir.ops.lowered import expanded
from lpir.scalar.expr import apply, cast, clamp, input_, rint_i32

REQUANT = cast(rint_i32(clamp(cast(input_(0, i32), f32) * input_(1) + input_(2), 0.0, 255.0)) + 3, u8)
OPERANDS = [Operand("vector", f32), Operand("vector", f32)]


def finish() -> Epilogue:
    return Epilogue(REQUANT, OPERANDS)


ISAS = pytest.mark.parametrize("isa", all_isas(), ids=lambda isa: isa.name)
# those with instructions of their own
NAMED = [isa for isa in all_isas() if isa.arch != "any"]
# vectors on the stack, and how an inner loop ends
STACK = {"x86_64": r"\(%rsp\).*mm|mm.*\(%rsp\)", "aarch64": r"\b(q|v)\d+.*\[sp"}
JUMP = {"x86_64": r"\tj\w+\s", "aarch64": r"\tb\.\w+\s"}


def test_order() -> None:
    order = [isa.name for isa in all_isas()]
    assert order == ["generic", "neon_dot", "neon_i8mm", "avx2", "avx_vnni", "avx512", "avx512_vnni", "amx"]
    assert host_isa().available()
    assert by_name("avx2").lanes() == 8


def test_arm_features_are_bits_of_the_kernel() -> None:
    assert arm_features(0, 0) == set()
    assert arm_features(1 << 1 | 1 << 20, 0) == {"neon", "dotprod"}
    assert arm_features(1 << 20, 1 << 13) == {"dotprod", "i8mm"}


@pytest.mark.parametrize(
    ("features", "expected"), [(set(), "generic"), ({"dotprod"}, "neon_dot"), ({"dotprod", "i8mm"}, "neon_i8mm")]
)
def test_choice_on_an_arm_machine(features: set[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "host_arch", lambda: "aarch64")
    monkeypatch.setattr(jit, "host_features", lambda: frozenset(features))
    assert [isa for isa in all_isas() if isa.available()][-1].name == expected


def product_proof(isa: Isa, rows: int) -> str:
    """The instruction of a product: one that takes two rows, where there are two."""
    return isa.pair_proof if isa.pair_dot and rows > 1 else isa.proof


@ISAS
@pytest.mark.parametrize("rows", [1, 196])
def test_product_contains_its_dot(isa: Isa, rows: int) -> None:
    gemm = gemm_builder(isa)(isa, rows, 64, 384, (0,), finish())
    assert product_proof(isa, rows) in assembly([gemm.kernel.text], isa)


@ISAS
def test_depthwise_contains_its_dot(isa: Isa) -> None:
    text = idepthwise.build(isa, Shape(3, 3, 1, 1, not isa.exact), 1, False, finish(), frozenset()).text
    proof = isa.proof if isa.exact else "vpmaddwd"
    assert proof in assembly([text], isa)


@pytest.mark.parametrize("shape", [(196, 64, 384), (3136, 144, 24), (49, 320, 960), (1, 1000, 1280)])
@pytest.mark.parametrize("isa", NAMED, ids=lambda isa: isa.name)
def test_inner_loop_keeps_its_sums_in_registers(isa: Isa, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    lines = assembly([gemm_builder(isa)(isa, m, n, k, (0,), finish()).kernel.text], isa).splitlines()
    first = next(i for i, line in enumerate(lines) if product_proof(isa, m) in line)
    start = max(i for i in range(first) if lines[i].startswith(".LBB"))
    end = next(i for i in range(first, len(lines)) if re.match(JUMP[isa.arch], lines[i]))
    assert not [line for line in lines[start:end] if re.search(STACK[isa.arch], line)]


@pytest.mark.parametrize("isa", NAMED, ids=lambda isa: isa.name)
def test_tables_are_looked_up_in_registers(isa: Isa) -> None:
    instruction, count = ("tbx", 3) if isa.arch == "aarch64" else ("pshufb", 16)
    assert assembly([table.kernel(isa, 1).text], isa).count(instruction) == count


def test_one_module_of_many_kernels_has_each_table_once() -> None:
    """Where LLVM's execution engine loads code, kernels of one model are one module."""
    isa = by_name("generic")
    exprs = [expanded(apply("erf", input_(0)) * factor + input_(1)) for factor in (2.0, 3.0)]
    texts = {elementwise.kernel(isa, e, (f32, f32), 1, (True, m)).text for e in exprs for m in (True, False)}
    assert len(texts) == 4
    assert assembly(texts, isa).count(".globl") == 4
