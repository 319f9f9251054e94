"""What only a measurement settles (`BuildContext.pick`), measured on this machine when a model is compiled with TUNE.

    tuning = Tuning(isa, threads, folder)           # what earlier processes left in CACHE_DIR
    tuning.learn(node, kernel)                      # runs the kernel with each of its best options
    tuning.pick("igemm 1 x 3136 x 64 x ...", tiles)
    tuning.save()

Answers are kept by question, in a file for each instruction set and number of threads. Before each measurement the
first two caches are swept: in a network too, an inference comes back to weights that others have displaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.codegen.jit import Jit
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import SLACK, Kernel, Step
from lpir.devices.cpu.profile import STAMP_BYTES, Stamps, intervals
from lpir.devices.cpu.roofline import READ_BYTES, reading
from lpir.devices.cpu.select import choose
from lpir.devices.cpu.threads import ThreadPool, pool_for
from lpir.errors import FileError
from lpir.ir.graph import Node, Value
from lpir.ir.op import Array
from lpir.ir.types import f32
from lpir.ops.boundary import constant, constant_data, parameter
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul
from lpir.runtime.cache import write_file
from lpir.runtime.memory import allocate
from lpir.scalar.expr import input_

T = TypeVar("T")
MASK = 2**64 - 1

# options of a question that are measured, and how often
OPTIONS, ROUNDS = 6, 15
# bytes that each thread reads to sweep its caches
SWEEP = 4 << 20
# part of the first option's time that another must stay under: less is noise
GAIN = 0.97


class Tuning:
    """Answers for one instruction set and number of threads; with a folder they outlive the process."""

    def __init__(self, isa: Isa, threads: int, folder: Path | None = None) -> None:
        self.isa, self.threads = isa, threads
        self.path = folder / f"tuned-{isa.name}-{threads}.json" if folder else None
        self.answers = _read(self.path) if self.path else {}
        self._learnt = False

    def pick(self, question: str, options: Sequence[T]) -> T:
        """The answer that was found, or the first option."""
        answer = self.answers.get(question)
        return next((option for option in options if str(option) == answer), options[0])

    def learn(self, node: Node, kernel: Kernel) -> str:
        """Answers the questions that `kernel` asks for `node` and that have no answer yet.

        Returns what explain() should add: that a product of codes is faster in float, or "".
        """
        first = Trial(node, kernel, self.isa, self.threads, self.answers)
        for question, options in first.asked.items():
            if question in self.answers:
                continue
            trials = [
                Trial(node, kernel, self.isa, self.threads, {**self.answers, question: option}) for option in options
            ]
            times = race(trials, self.isa)
            best = min(range(len(times)), key=times.__getitem__)
            self.answers[question] = options[best if times[best] < GAIN * times[0] else 0]
            self._learnt = True
        return self._against_float(node, kernel)

    def _against_float(self, node: Node, kernel: Kernel) -> str:
        twin = float_twin(node)
        other = choose(twin, self.isa).kernel if twin else None
        if twin is None or other is None:
            return ""
        shapes = " ".join(str(list(v.shape.to_static())) for v in (*node.inputs[:2], *node.outputs))
        question = f"{kernel.name} {shapes} against FP32"
        if question not in self.answers:
            pairs = ((node, kernel), (twin, other))
            codes, floats = race([Trial(n, k, self.isa, self.threads, self.answers) for n, k in pairs], self.isa)
            slower = floats < GAIN * codes
            self.answers[question] = f"{1e6 * codes:.0f} us, FP32 takes {1e6 * floats:.0f}" if slower else ""
            self._learnt = True
        return self.answers[question]

    def save(self) -> None:
        """Writes what was learnt, beside what other processes wrote meanwhile. A folder that refuses is left alone."""
        if self.path and self._learnt:
            try:
                write_file(
                    self.path, json.dumps({**_read(self.path), **self.answers}, indent=1, sort_keys=True).encode()
                )
            except FileError:
                return
            self._learnt = False


def float_twin(node: Node) -> Node | None:
    """The product of a node of codes and constant weights in float32, without what becomes of it; None for others."""
    op = node.op
    if not isinstance(op, LoweredConvolution | LoweredMatMul) or not node.inputs[0].element_type.is_integer:
        return None
    weights = constant_data(node.inputs[1])
    if weights is None:
        return None
    x = parameter(node.inputs[0].shape.to_static(), f32, "x").output
    plain: LoweredConvolution | LoweredMatMul
    if isinstance(op, LoweredConvolution):
        plain = replace(op, x_zero_point=0, epilogue=input_(0, f32))
    else:
        plain = replace(op, a_zero_point=0, b_zero_point=0, epilogue=input_(0, f32))
    return Node(plain, [x, constant(weights.astype(np.float32))])


class Trial:
    """The steps of one node on memory of their own; the `BuildContext` that builds them.

    `answers` to questions, the first option where there is none; `asked`: the questions, and the best options of each.
    """

    def __init__(self, node: Node, kernel: Kernel, isa: Isa, threads: int, answers: Mapping[str, str]) -> None:
        self.node, self.threads, self.answers = node, threads, answers
        self.asked: dict[str, list[str]] = {}
        self._memory: list[Array] = []
        self._values: dict[int, Ref] = {}
        self.steps: list[Step] = kernel.build(node, isa, self)

    def ref(self, value: Value) -> Ref:
        if id(value) not in self._values:
            data = constant_data(value)
            dtype = value.element_type.dtype
            size = int(np.prod(value.shape.to_static())) * dtype.itemsize
            self._values[id(value)] = self.scratch(size) if data is None else self.constant(data)
        return self._values[id(value)]

    def table(self, value: Value) -> Ref:
        return self.ref(value)

    def constant(self, array: Array, name: str = "") -> Ref:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        ref = self.scratch(flat.size)
        self._memory[-1][: flat.size] = flat
        return ref

    def scratch(self, nbytes: int, name: str = "") -> Ref:
        self._memory.append(allocate(nbytes + SLACK))
        # as floats 0.75
        self._memory[-1].fill(0x3F)
        return Ref(len(self._memory) - 1)

    def pitch(self, value: Value) -> int:
        return value.shape.to_static()[-1] * value.element_type.dtype.itemsize

    def pick(self, question: str, options: Sequence[T]) -> T:
        best = options[:OPTIONS]
        self.asked[question] = [str(option) for option in best]
        answer = self.answers.get(question)
        return next((option for option in best if str(option) == answer), options[0])

    def measured(self, sweep: Array, isa: Isa) -> Bound:
        """The steps between two times, behind a sweep of the caches and a look at what the node before has written."""
        stamps = Stamps(int(self.scratch(2 * STAMP_BYTES).buffer))
        tensors = [self._values[id(v)] for v in self.node.inputs if constant_data(v) is None]
        sizes = [len(self._memory[int(ref.buffer)]) for ref in tensors]
        warm = [
            self._read(isa, ref, n) for ref, n in zip(tensors, sizes, strict=True) if n >= self.threads * READ_BYTES
        ]
        before = self._read(isa, int(sweep.ctypes.data), len(sweep))
        steps = [before, *warm, stamps.step(), *self.steps, stamps.step()]
        return Bound(steps, self._memory, self._memory[stamps.buffer][: 2 * STAMP_BYTES].view(np.int64).reshape(2, 2))

    def _read(self, isa: Isa, at: Ref | int, nbytes: int) -> Step:
        """A step in which each thread reads its part of some memory, in whole rounds of the loop."""
        part = nbytes // self.threads // READ_BYTES * READ_BYTES
        return Step.of(reading(isa), {"memory": at, "stride": part, "rounds": 1, "config": 0})


class Bound:
    """Steps with the memory that they work on; `stamps`: the times that they leave."""

    def __init__(self, steps: Sequence[Step], memory: Sequence[Array], stamps: Array) -> None:
        self.steps, self.stamps = steps, stamps
        starts = [int(part.ctypes.data) for part in memory]
        self._words = [
            np.array(
                [starts[int(w.buffer)] + w.offset if isinstance(w, Ref) else w & MASK for w in s.params], np.uint64
            )
            for s in steps
        ]

    def seconds(self, addresses: Mapping[str, int], pool: ThreadPool) -> float:
        """The time of one run."""
        rows = [(addresses[s.code.symbol], w.ctypes.data) for s, w in zip(self.steps, self._words, strict=True)]
        table = np.array(rows, np.uint64)
        pool.run(int(table.ctypes.data), len(table))
        return intervals(self.stamps)[0]


def race(trials: Sequence[Trial], isa: Isa) -> list[float]:
    """Seconds of each trial, medians of interleaved runs."""
    threads = trials[0].threads
    sweep = allocate(threads * SWEEP)
    bound = [trial.measured(sweep, isa) for trial in trials]
    jit = Jit(isa)
    for steps in bound:
        for step in steps.steps:
            jit.add(step.code.symbol, step.code.text)
    addresses, pool = jit.compile(), pool_for(threads, 0)
    rounds = [[steps.seconds(addresses, pool) for steps in bound] for _ in range(ROUNDS)]
    return [median(times) for times in zip(*rounds, strict=True)]


def _read(path: Path) -> dict[str, str]:
    """The answers in a file; none where it is missing or is no such file."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
