"""Runs float models for calibration: on a device, or node by node where each layer's result is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpir.errors import UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ops.boundary import Result
from lpir.runtime import registry
from lpir.runtime.device import Runner
from lpir.runtime.evaluate import Variables, evaluate_node

Array = np.ndarray[Any, np.dtype[Any]]


class TappedModel:
    """A model that also gives the values `taps`. Compiled once for each combination of input shapes."""

    def __init__(self, model: Model, taps: Sequence[Value], device: str) -> None:
        self.model = model
        self.taps = list(taps)
        self.device = device
        self._runners: dict[tuple[tuple[int, ...], ...], Runner] = {}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The taps' arrays, in order."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._runners:
            self._runners[shapes] = self._compile(shapes)
        return self._runners[shapes].run(inputs)

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> Runner:
        results = [Node(Result(), [v], f"tap_{i}") for i, v in enumerate(self.taps)]
        tapped = Model(results, self.model.parameters, self.model.name)
        try:
            copy = tapped.clone()
        finally:
            for node in results:
                node.detach()
        if not all(v.shape.is_static for v in copy.inputs):
            copy.reshape(dict(enumerate(shapes)))
        for name in (self.device, "REFERENCE"):
            try:
                device = registry.load(name)
                return device.compile(copy, device.configure(None)).create_runner()
            except UnsupportedError:
                if name == "REFERENCE":
                    raise
        raise UnsupportedError(f"no device can run model '{self.model.name}'")


class Lockstep:
    """Several samples through one graph side by side, node by node; tensors are kept while a later node reads them."""

    def __init__(self, model: Model, samples: Sequence[list[Array]]) -> None:
        self._order = iter([n for n in model.nodes() if n.op.type_name != "Result"])
        self._arrays: dict[int, list[Array]] = {}
        self._variables = [Variables() for _ in samples]
        self._waiting: dict[int, int] = {}
        for node in model.nodes():
            for value in node.inputs:
                self._waiting[id(value)] = self._waiting.get(id(value), 0) + 1
        self._given = {id(v): [s[i] for s in samples] for i, v in enumerate(model.inputs)}

    def run_to(self, node: Node) -> list[Array]:
        """Computes everything up to `node`, which must be ahead: one array a sample."""
        for current in self._order:
            self._compute(current)
            if current is node:
                break
        return self._arrays[id(node.output)]

    def replace(self, value: Value, arrays: list[Array]) -> None:
        """What later nodes read from `value` instead (one array: the same for all samples)."""
        self._arrays[id(value)] = arrays

    def _compute(self, node: Node) -> None:
        if id(node.outputs[0]) in self._given:
            self._arrays[id(node.output)] = self._given[id(node.output)]
            return
        inputs = [self._arrays[id(v)] for v in node.inputs]
        # what does not depend on the samples is one array for all of them
        times = max((len(a) for a in inputs), default=1)
        results = [
            evaluate_node(node, [a[i if len(a) > 1 else 0] for a in inputs], self._variables[i]) for i in range(times)
        ]
        for index, value in enumerate(node.outputs):
            self._arrays[id(value)] = [r[index] for r in results]
        for value in node.inputs:
            self._waiting[id(value)] -= 1
            if not self._waiting[id(value)]:
                del self._arrays[id(value)]
