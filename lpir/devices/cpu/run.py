"""A plan with memory: what one inference request of the CPU device is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Lock

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.codegen.jit import Jit
from lpir.devices.cpu.inputs import Input, Pointers
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import Step
from lpir.devices.cpu.plan import Callback, NativeSegment, Plan
from lpir.devices.cpu.profile import Layer, intervals, profile
from lpir.devices.cpu.threads import ThreadPool, pool_for
from lpir.ir.op import Array
from lpir.runtime.device import Runner
from lpir.runtime.evaluate import Variables, evaluate_node
from lpir.runtime.memory import allocate
from lpir.runtime.profile import ProfilingInfo

_LOCK = Lock()
# machine code of the whole process, by ISA
_CODE: dict[str, Jit] = {}


def code_for(isa: Isa) -> Jit:
    """The process's machine code for an instruction set."""
    with _LOCK:
        return _CODE.setdefault(isa.name, Jit(isa))


def compile_steps(isa: Isa, steps: Sequence[Step]) -> dict[str, int]:
    """The address of each step's function; only what the process has not seen is compiled."""
    jit = code_for(isa)
    for step in steps:
        jit.add(step.code.symbol, step.code.text)
    return jit.compile()


class BoundSegment:
    """A native segment whose references are addresses: one call runs all its steps."""

    def __init__(self, segment: NativeSegment, plan: Plan, addresses: dict[str, int], arena: Array) -> None:
        self.layers = [Layer.of(*x) for x in segment.nodes] if plan.stamps else []
        self.first_stamp = segment.first_stamp
        self.count = len(segment.steps)
        start = int(arena.ctypes.data)
        words: list[int] = []
        refs: list[tuple[int, Ref]] = []
        table: list[tuple[int, int]] = []
        for step in segment.steps:
            table.append((addresses[step.code.symbol], len(words)))
            refs += [(i, w) for i, w in enumerate(step.params, len(words)) if isinstance(w, Ref)]
            words += [plan.address(w, start) if isinstance(w, Ref) else w & (2**64 - 1) for w in step.params]
        # kept here, because the steps point into them
        self.words = np.array(words, np.uint64)
        base = int(self.words.ctypes.data)
        self.table = np.array([(f, base + 8 * at) for f, at in table], np.uint64).reshape(-1, 2)
        self.address = int(self.table.ctypes.data)
        # which words point into each movable input, and how far behind its start
        self.places = {b: [(i, r.offset) for i, r in refs if r.buffer == b] for b in plan.movable if b is not None}

    def pointers(self, buffer: int | None) -> list[Pointers]:
        """The words that point to a movable input."""
        return [] if buffer is None else [(self.words, self.places[buffer])]


class BoundCallback:
    """A callback whose inputs and outputs are views of the arena."""

    def __init__(self, callback: Callback, arena: Array, constants: Array) -> None:
        self.node = callback.node
        self.layer = Layer.of(callback.node, callback.choice)
        self.seconds = 0.0
        self.inputs = [x if isinstance(x, np.ndarray) else x.view(arena, constants) for x in callback.inputs]
        self.outputs = [x.view(arena, constants) for x in callback.outputs]

    def run(self, variables: Variables) -> None:
        """Computes the node into the arena."""
        start = time.perf_counter()
        for view, result in zip(self.outputs, evaluate_node(self.node, self.inputs, variables), strict=False):
            np.copyto(view, result)
        self.seconds = time.perf_counter() - start


class CpuRunner(Runner):
    """An arena, parameter words that point into it, and the segments in order."""

    def __init__(self, plan: Plan, addresses: dict[str, int], isa: Isa, threads: int, stream: int = 0) -> None:
        self.isa, self.threads, self.stream = isa, threads, stream
        # one thread needs no company, so requests of one thread run side by side
        self.own_pool = ThreadPool(1) if threads == 1 else None
        self.variables = Variables()
        self.constants = plan.constants
        self.arena = allocate(plan.arena_size)
        self.outputs = [slot.view(self.arena, plan.constants) for slot in plan.outputs]
        self.segments: list[BoundSegment | BoundCallback] = [
            BoundCallback(s, self.arena, plan.constants)
            if isinstance(s, Callback)
            else BoundSegment(s, plan, addresses, self.arena)
            for s in plan.segments
        ]
        native = [s for s in self.segments if isinstance(s, BoundSegment)]
        views = [slot.view(self.arena, plan.constants) for slot in plan.inputs]
        self.inputs = [
            Input(view, [p for segment in native for p in segment.pointers(buffer)])
            for view, buffer in zip(views, plan.movable, strict=True)
        ]
        self.stamps = plan.stamps.view(self.arena, plan.constants) if plan.stamps else None

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        for place, array in zip(self.inputs, inputs, strict=True):
            place.put(array)
        pool = self.own_pool or pool_for(self.threads, self.stream)
        for segment in self.segments:
            if isinstance(segment, BoundSegment):
                pool.run(segment.address, segment.count)
            else:
                segment.run(self.variables)
        return [view.copy() for view in self.outputs]

    def profiling_info(self) -> list[ProfilingInfo]:
        if self.stamps is None:
            return []
        layers, seconds = [], []
        for segment in self.segments:
            if isinstance(segment, BoundSegment):
                first = segment.first_stamp
                layers += segment.layers
                seconds += intervals(self.stamps[first : first + len(segment.layers) + 1])
            else:
                layers.append(segment.layer)
                seconds.append(segment.seconds)
        return profile(layers, seconds, self.constants.nbytes, self.isa.name, self.threads)

    def reset_state(self) -> None:
        self.variables.reset()

    def forget(self) -> None:
        for place in self.inputs:
            place.reset()
