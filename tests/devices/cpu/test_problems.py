"""Every kernel on every instruction set that runs here or can be emulated, on ordinary and adversarial inputs."""

from __future__ import annotations

import pytest

from lpir.devices.cpu.isa import Isa, all_isas
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
    assert check_isa.main(["--quick", "--isa", "generic", "--isa", "avx512_vnni"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "generic: native"
    rows = [line.split(" | ") for line in lines if line.startswith("| generic")]
    assert [row[1] for row in rows] == [kernel.name for kernel in all_kernels()]
    assert lines[-1] == "all cases passed"
