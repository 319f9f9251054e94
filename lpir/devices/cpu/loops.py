"""Bodies of loops that stay loops: each is a compiled model of its own, run as often as the loop says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from lpir.ir.graph import Node, Value, arg_of
from lpir.ir.model import Model, copy_node
from lpir.ir.op import Array
from lpir.ops.boundary import Constant
from lpir.ops.loops import Iteration
from lpir.runtime.device import Executable, Runner


def compile_bodies(model: Model, compile: Callable[[Model], Executable]) -> None:
    """Compiles the body of every loop of `model`, for the types of its inputs."""
    for node in model.nodes():
        if isinstance(node.op, Iteration):
            body, kept = bound_body(node, node.op)
            node.op = dataclasses.replace(node.op, run=CompiledBody(compile(body), kept))


def bound_body(node: Node, op: Iteration) -> tuple[Model, list[int]]:
    """The body with what is the same in every iteration and constant inside it; and the parameters that are left."""
    body = op.typed_body([arg_of(v) for v in node.inputs])
    changing = {number for _, number in op.carried}
    whole = {p.inner: node.inputs[p.outer].node for p in op.reads if p.part is None and p.inner not in changing}
    constants = {id(body.parameters[i]): source for i, source in whole.items() if isinstance(source.op, Constant)}
    kept = [i for i, p in enumerate(body.parameters) if id(p) not in constants]

    def replaced(found: Node, _: list[Value]) -> list[Value] | None:
        source = constants.get(id(found))
        return copy_node(source, []).outputs if source else None

    body.parameters = [body.parameters[i] for i in kept]
    return body.clone(replaced), kept


class CompiledBody:
    """Runs a compiled body on those of its parameters that are `kept`; requests side by side have a runner each."""

    def __init__(self, executable: Executable, kept: Sequence[int]) -> None:
        self.executable, self.kept = executable, kept
        self._free: list[Runner] = []

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        try:
            runner = self._free.pop()
        except IndexError:
            runner = self.executable.create_runner()
        try:
            return runner.run([np.array(arrays[i], order="C") for i in self.kept])
        finally:
            runner.forget()
            self._free.append(runner)
