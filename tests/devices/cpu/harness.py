"""Runs one kernel on arrays: a plan of one node, its threads one after the other between barriers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.codegen.jit import Jit
from lpir.devices.cpu.isa import Isa, all_isas
from lpir.devices.cpu.kernels.base import ALIGNMENT, SLACK, Kernel, Step
from lpir.ir.graph import Node, Value
from lpir.ir.op import Op
from lpir.ir.types import from_dtype
from lpir.ops.boundary import Constant, constant, parameter

Array = np.ndarray[Any, np.dtype[Any]]
HOST_ISAS = [isa for isa in all_isas() if isa.available()]
GUARD = 0xA5
T = TypeVar("T")
_JITS: dict[str, Jit] = {}


def aligned(nbytes: int, fill: int = GUARD) -> Array:
    """`nbytes` bytes with SLACK behind them, at a multiple of ALIGNMENT."""
    raw = np.full(nbytes + SLACK + ALIGNMENT, fill, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes + SLACK]


class Context:
    """A BuildContext whose buffers are arrays."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.memory: list[Array] = []
        self.values: dict[int, Ref] = {}

    def _place(self, data: Array | None, nbytes: int) -> Ref:
        memory = aligned(nbytes)
        if data is not None:
            memory[:nbytes] = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.memory.append(memory)
        return Ref(len(self.memory) - 1)

    def bind(self, value: Value, data: Array | None, nbytes: int) -> Ref:
        self.values[id(value)] = self._place(data, nbytes)
        return self.values[id(value)]

    def ref(self, value: Value) -> Ref:
        if id(value) not in self.values:
            assert isinstance(value.node.op, Constant)
            return self.bind(value, value.node.op.data, value.node.op.data.nbytes)
        return self.values[id(value)]

    def table(self, value: Value) -> Ref:
        return self.ref(value)

    def constant(self, array: Array, name: str = "") -> Ref:
        return self._place(array, array.nbytes)

    def scratch(self, nbytes: int, name: str = "") -> Ref:
        return self._place(None, nbytes)

    def pitch(self, value: Value) -> int:
        return value.shape.to_static()[-1] * value.element_type.dtype.itemsize

    def pick(self, question: str, options: Sequence[T]) -> T:
        return options[0]

    def address(self, ref: Ref) -> int:
        return int(self.memory[int(ref.buffer)].ctypes.data) + ref.offset


class Prepared:
    """The steps of one node, compiled and bound: call it to run them."""

    def __init__(self, steps: Sequence[Step], isa: Isa, ctx: Context) -> None:
        jit = _JITS.setdefault(isa.name, Jit(isa))
        for step in steps:
            jit.add(step.code.symbol, step.code.text)
        addresses = jit.compile()
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self.threads, self.context = ctx.threads, ctx
        self.calls = []
        for step in steps:
            words = [ctx.address(p) if isinstance(p, Ref) else int(p) & (2**64 - 1) for p in step.params]
            self.calls.append((kind(addresses[step.code.symbol]), (ctypes.c_uint64 * len(words))(*words)))

    def __call__(self) -> None:
        for call, words in self.calls:
            for tid in range(self.threads):
                call(words, tid, self.threads)


def make_node(op: Op, inputs: Sequence[Array], constants: Sequence[int] = ()) -> Node:
    """A node over parameters; inputs numbered in `constants` are Constants."""
    sources = [
        constant(x) if i in constants else parameter(x.shape, from_dtype(x.dtype), f"x{i}").output
        for i, x in enumerate(inputs)
    ]
    return Node(op, sources)


def build(
    kernel: Kernel, node: Node, inputs: Sequence[Array], isa: Isa, threads: int = 1
) -> tuple[list[Step], Context, list[Array]]:
    """The node's steps, their memory, and its output arrays (with guard bytes behind them in memory)."""
    assert kernel.applies(node, isa) is None, kernel.applies(node, isa)
    ctx = Context(threads)
    for value, data in zip(node.inputs, inputs, strict=True):
        ctx.bind(value, data, data.nbytes)
    outputs = []
    for value in node.outputs:
        shape, dtype = value.shape.to_static(), value.element_type.dtype
        nbytes = int(np.prod(shape)) * dtype.itemsize
        memory = ctx.memory[int(ctx.bind(value, None, nbytes).buffer)]
        outputs.append(memory[:nbytes].view(dtype).reshape(shape))
    return kernel.build(node, isa, ctx), ctx, outputs


def prepare(
    kernel: Kernel, node: Node, inputs: Sequence[Array], isa: Isa, threads: int = 1
) -> tuple[Prepared, list[Array]]:
    """The compiled node and its output arrays."""
    steps, ctx, outputs = build(kernel, node, inputs, isa, threads)
    return Prepared(steps, isa, ctx), outputs


def assert_guarded(ctx: Context) -> None:
    """Nothing behind any value was written."""
    for memory in ctx.memory:
        assert np.all(memory[-SLACK:] == GUARD), "bytes behind a value were written"


def run(
    kernel: Kernel, op: Op, inputs: Sequence[Array], isa: Isa, threads: int = 1, constants: Sequence[int] = ()
) -> list[Array]:
    """The outputs of `op` computed by `kernel`; asserts that nothing behind any value was written."""
    inputs = [np.ascontiguousarray(x).reshape(np.shape(x)) for x in inputs]
    prepared, outputs = prepare(kernel, make_node(op, inputs, constants), inputs, isa, threads)
    prepared()
    assert_guarded(prepared.context)
    return outputs
