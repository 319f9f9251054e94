"""Every kernel on every instruction set that runs here or can be emulated, on ordinary and adversarial inputs."""

from __future__ import annotations

import dataclasses

import pytest

from lpir.devices.cpu.isa import Isa, all_isas, host_isa
from lpir.devices.cpu.kernels.base import Kernel
from lpir.devices.cpu.select import all_kernels
from scripts import check_isa
from tests.devices.cpu.problems import problems_for, timed_problems

KERNELS = pytest.mark.parametrize("kernel", all_kernels(), ids=lambda kernel: kernel.name)


def runnable() -> list[object]:
    """Instruction sets; those that could be emulated are skipped where the emulator is missing."""
    found: list[object] = []
    for isa in all_isas():
        if isa.available():
            found.append(pytest.param(isa, id=isa.name))
        elif isa.arch == "aarch64":
            why = check_isa.how(isa)
            found.append(pytest.param(isa, id=isa.name, marks=pytest.mark.skipif(why != "emulated", reason=why)))
    return found


@KERNELS
@pytest.mark.parametrize("isa", runnable())
def test_kernel_gives_what_the_reference_gives(isa: Isa, kernel: Kernel) -> None:
    failures, proof = check_isa.check(isa, kernel, problems_for(kernel, isa))
    assert not failures, "\n".join(failures)
    if kernel.name.startswith("igemm"):
        assert (isa.pair_proof or isa.proof) in proof


@KERNELS
def test_every_kernel_has_problems(kernel: Kernel) -> None:
    able = [isa for isa in all_isas() if problems_for(kernel, isa)]
    assert able
    assert problems_for(kernel, able[-1], timed_problems())


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_isa.main(["--quick", "--isa", "generic", "--isa", "neon_dot", "--isa", host_isa().name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "generic: native"
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0][2:] for row in rows] == ["kernel", *(kernel.name for kernel in all_kernels())]
    assert lines[-1] == "all cases passed"


def test_a_failure_is_a_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = next(kernel for kernel in all_kernels() if kernel.name == "table")
    wrong = [dataclasses.replace(p, inputs=p.inputs) for p in problems_for(kernel, host_isa())[:2]]
    vars(wrong[1])["expected"] = (wrong[1].expected[0] ^ 1,)
    monkeypatch.setattr(check_isa, "all_kernels", lambda: (kernel,))
    monkeypatch.setattr(check_isa, "problems_for", lambda *_: wrong)
    assert check_isa.main(["--isa", host_isa().name]) == 1
    out = capsys.readouterr().out
    assert "| table | 2 |" in out
    assert "1 of 2 passed" in out
    assert f"{host_isa().name} table: {wrong[1].name}: " in out
