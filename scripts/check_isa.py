"""Every kernel of every instruction set that this machine runs or emulates, checked and timed: one table.

    python -m scripts.check_isa                 everything
    python -m scripts.check_isa --isa avx2      some instruction sets
    python -m scripts.check_isa --quick         an eighth of the problems, no timing

Cases are those of `tests/devices/cpu/problems.py`: random and adversarial inputs (all 255, weights of -128, zero points
on both sides, odd sizes, one channel), each compared with the lowered reference. Speed is that of one problem of middle
size on one thread: GMAC/s of products, G elements/s of output otherwise; "ok" where the instruction set is emulated.
Exit code 1 when a case fails.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpir.devices.cpu.codegen.jit import assembly
from lpir.devices.cpu.isa import Isa, all_isas, by_name
from lpir.devices.cpu.kernels.base import Kernel
from lpir.devices.cpu.select import all_kernels
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul
from lpir.ops.lowered_attention import LoweredAttention
from lpir.ops.lowered_compressed import CompressedMatMul
from lpir.ops.lowered_recurrent import Recurrence
from tests.devices.cpu.emulator import emulate, missing
from tests.devices.cpu.harness import Prepared, assert_guarded, build, prepare
from tests.devices.cpu.problems import Problem, problems_for, timed_problems
from tests.tolerances import assert_close

# instructions that multiply codes, those of the records and those that stand in for them
PRODUCTS = re.compile(r"\t(tdpbusd|vpdpbusd|vpmaddubsw|vpmaddwd|usmmla|usdot|sdot)\b")


@dataclass(frozen=True)
class Verdict:
    """What became of the cases of one kernel on one instruction set. `speed`: in G a second; None: not measured."""

    isa: Isa
    kernel: str
    cases: int
    failures: tuple[str, ...]
    proof: str
    speed: float | None
    unit: str


def how(isa: Isa) -> str:
    """How code for `isa` runs here: "native", "emulated", or why it does not."""
    if isa.available():
        return "native"
    return missing(isa) or "emulated"


def check(isa: Isa, kernel: Kernel, problems: Sequence[Problem]) -> tuple[list[str], str]:
    """What failed of `problems`, in words, and which instructions multiply codes in the code that ran."""
    built = [build(kernel, p.node(), [np.asarray(x) for x in p.inputs], isa, p.threads) for p in problems]
    if not built:
        return [], ""
    if isa.available():
        for steps, context, _ in built:
            Prepared(steps, isa, context)()
    else:
        emulate(isa, [(steps, context) for steps, context, _ in built])
    failures = []
    for problem, (_, context, outputs) in zip(problems, built, strict=True):
        try:
            assert_guarded(context)
            for actual, expected in zip(outputs, problem.expected, strict=False):
                assert_close(actual, expected, problem.tolerance)
        except AssertionError as error:
            failures.append(f"{isa.name} {kernel.name}: {problem.name}: {error}")
    texts = {step.code.symbol: step.code.text for steps, _, _ in built for step in steps}
    return failures, ", ".join(sorted(set(PRODUCTS.findall(assembly(texts.values(), isa)))))


def operations_of(problem: Problem) -> tuple[float, str]:
    """Work of a problem: multiply-adds of a product, else elements of its output."""
    out, op = math.prod(problem.expected[0].shape), problem.op
    if isinstance(op, LoweredConvolution):
        return out * math.prod(problem.inputs[1].shape[:-1]), "GMAC/s"
    if isinstance(op, LoweredMatMul | CompressedMatMul):
        return out * problem.inputs[0].shape[-1], "GMAC/s"
    if isinstance(op, Recurrence):
        return problem.inputs[0].size * problem.inputs[1].shape[0], "GMAC/s"
    if isinstance(op, LoweredAttention):
        q, k, v = (x.shape for x in problem.inputs[:3])
        return math.prod(q[:3]) * k[2] * (q[3] + v[3]), "GMAC/s"
    return out, "Gel/s"


def speed_of(isa: Isa, kernel: Kernel, rounds: int = 15) -> tuple[float | None, str]:
    """Operations a ns of the kernel's problem of middle size, the median of `rounds`; None where there is none."""
    problem = next(iter(problems_for(kernel, isa, timed_problems())), None)
    if problem is None or not isa.available():
        return None, ""
    run, _ = prepare(kernel, problem.node(), [np.asarray(x) for x in problem.inputs], isa)
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    count, unit = operations_of(problem)
    return count / float(np.median(times)), unit


def verdict(isa: Isa, kernel: Kernel, quick: bool) -> Verdict:
    """Checks and, unless `quick`, times one kernel."""
    problems = problems_for(kernel, isa)
    problems = problems[::8] if quick else problems
    failures, proof = check(isa, kernel, problems)
    speed, unit = (None, "") if quick else speed_of(isa, kernel)
    return Verdict(isa, kernel.name, len(problems), tuple(failures), proof, speed, unit)


def cell(v: Verdict) -> str:
    """One cell of the table: speed, "ok" where none is measured, how many passed where some did not."""
    if v.failures:
        return f"{v.cases - len(v.failures)} of {v.cases} passed"
    return "" if not v.cases else "ok" if v.speed is None else f"{v.speed:.3g}"


def row(verdicts: Sequence[Verdict]) -> str:
    """One line of the table, in Markdown: a kernel on every instruction set."""
    cases, unit = max(v.cases for v in verdicts), max(v.unit for v in verdicts)
    return f"| {' | '.join([verdicts[0].kernel, str(cases), unit, *map(cell, verdicts)])} |"


def proofs(verdicts: Sequence[Verdict]) -> str:
    """Which kernels multiply codes by which instructions."""
    found: dict[str, list[str]] = {}
    for v in verdicts:
        if v.proof:
            found.setdefault(v.proof, []).append(v.kernel)
    return "; ".join(f"{proof} in {', '.join(kernels)}" for proof, kernels in found.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", action="append", help="an instruction set (may be repeated); default: all")
    parser.add_argument("--quick", action="store_true", help="an eighth of the problems, no timing")
    options = parser.parse_args(arguments)
    isas = [by_name(name) for name in options.isa] if options.isa else list(all_isas())
    for isa in isas:
        print(f"{isa.name}: {how(isa)}")
    isas = [isa for isa in isas if how(isa) in ("native", "emulated")]
    names = [isa.name for isa in isas]
    print(f"\n| kernel | cases | | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    table: list[list[Verdict]] = []
    for kernel in all_kernels():
        table.append([verdict(isa, kernel, options.quick) for isa in isas])
        print(row(table[-1]), flush=True)
    print()
    for isa, own in zip(isas, zip(*table, strict=True), strict=True):
        print(f"{isa.name}: {proofs(own) or 'no instruction of its own'}")
    failures = [failure for verdicts in table for v in verdicts for failure in v.failures]
    print("\n".join(failures) or "all cases passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
