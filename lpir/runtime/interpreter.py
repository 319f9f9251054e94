"""A model run node by node, each by its operation's `eval`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lpir.errors import UnsupportedError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.runtime.device import Executable, Runner
from lpir.runtime.evaluate import Variables, evaluate_node
from lpir.runtime.explain import Explanation, Row
from lpir.runtime.profile import ProfilingInfo


class Interpreter(Executable):
    """Nodes in topological order, each with the values that die after it."""

    def __init__(self, model: Model, device: str = "REFERENCE", profile: bool = False) -> None:
        self.model = model
        self.device = device
        self.profile = profile
        nodes = [n for n in model.nodes() if n.op.type_name not in ("Parameter", "Result")]
        self.order = [n for n in nodes if n.op.type_name != "Constant"]
        self.constants = {id(n.outputs[0]): n.op.eval()[0] for n in nodes if n.op.type_name == "Constant"}
        self.dying = _dying(model, self.order)

    def create_runner(self) -> Runner:
        return InterpreterRunner(self)

    def runtime_model(self) -> Model | None:
        return self.model

    def export_model(self, prefix: str = "lpir_model", soname: str = "") -> bytes:
        kinds = ", ".join(sorted({n.op.type_name for n in self.order}))
        raise UnsupportedError(f"the model cannot be exported: it runs in Python, operation by operation: {kinds}")

    def explain(self) -> Explanation:
        rows = [
            Row(n.name, n.op.type_name, n.outputs[0].element_type.precision if n.outputs else "-", "eval")
            for n in self.order
        ]
        return Explanation(self.device, tuple(rows))


class InterpreterRunner(Runner):
    """Values by identity; only variables outlive an inference."""

    def __init__(self, executable: Interpreter) -> None:
        self.executable = executable
        self.variables = Variables()
        self.times: list[ProfilingInfo] = []

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        exe = self.executable
        values: dict[int, Array] = dict(exe.constants)
        values |= {id(v): x for v, x in zip(exe.model.inputs, inputs, strict=True)}
        self.times = []
        for node, dying in zip(exe.order, exe.dying, strict=True):
            start = time.perf_counter()
            results = evaluate_node(node, [values[id(v)] for v in node.inputs], self.variables)
            values.update((id(v), r) for v, r in zip(node.outputs, results, strict=False))
            if exe.profile:
                seconds = time.perf_counter() - start
                self.times.append(ProfilingInfo(node.name, node.op.type_name, "eval", seconds))
            for key in dying:
                values.pop(key, None)
        return [values[id(r.inputs[0])].copy(order="C") for r in exe.model.results]

    def profiling_info(self) -> list[ProfilingInfo]:
        return self.times

    def reset_state(self) -> None:
        self.variables.reset()


def _dying(model: Model, order: list[Node]) -> list[list[int]]:
    """For each node the values that nothing reads after it."""
    last: dict[int, int] = {}
    for position, node in enumerate(order):
        for value in (*node.outputs, *node.inputs):
            last[id(value)] = position
    for result in model.results:
        last.pop(id(result.inputs[0]), None)
    dying: list[list[int]] = [[] for _ in order]
    for key, position in last.items():
        dying[position].append(key)
    return dying
