"""A model of which some shapes depend on values: the part before them is native, the rest runs node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lpir.errors import UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ops.boundary import Constant, Parameter, Result
from lpir.ops.lowered_detection import FirstRows, PaddedSuppression
from lpir.ops.sorting import NonMaxSuppression
from lpir.runtime.device import Executable, Runner
from lpir.runtime.explain import Explanation, Row
from lpir.runtime.interpreter import Interpreter
from lpir.runtime.profile import ProfilingInfo

# more rows than this are not reserved for boxes that may be selected
MOST_ROWS = 1 << 20


def pad_suppressions(model: Model) -> None:
    """Splits each NonMaxSuppression of static inputs in two: a padded one, and the choice of the rows that count."""
    for node in model.nodes():
        if not isinstance(node.op, NonMaxSuppression) or not all(v.shape.is_static for v in node.inputs):
            continue
        rows = node.outputs[0].shape[0].hi
        if not rows or rows > MOST_ROWS:
            continue
        padded = Node(PaddedSuppression(node.op, rows), node.inputs, node.name)
        *found, count = padded.outputs
        chosen = [Node(FirstRows(), [v, count], node.name).output for v in found]
        for old, new in zip(node.outputs, (*chosen, count), strict=True):
            new.names = set(old.names)
            old.replace_all_uses_with(new)
        node.detach()


def split(model: Model) -> tuple[Model, Model] | None:
    """`(head, tail)`: the outputs of the static head are the inputs of the tail; None when nothing static computes.

    Changes `model`: see `pad_suppressions`.
    """
    pad_suppressions(model)
    head: set[int] = set()
    for node in model.nodes():
        static = all(v.shape.is_static for v in node.outputs)
        if static and node.op.type_name != "Result" and all(id(v.node) in head for v in node.inputs):
            head.add(id(node))
    cut: dict[int, Value] = {}
    for node in model.nodes():
        for value in node.inputs:
            if id(node) not in head and id(value.node) in head and not isinstance(value.node.op, Constant):
                cut[id(value)] = value
    if all(isinstance(v.node.op, Parameter) for v in cut.values()):
        return None
    return _head(model, list(cut.values())), _tail(model, head, list(cut.values()))


def _head(model: Model, cut: Sequence[Value]) -> Model:
    results = [Node(Result(), [v], f"cut_{i}") for i, v in enumerate(cut)]
    try:
        return Model(results, model.parameters, model.name).clone()
    finally:
        for node in results:
            node.detach()


def _tail(model: Model, head: set[int], cut: Sequence[Value]) -> Model:
    copies: dict[tuple[int, int], Value] = {}
    parameters = []
    for index, value in enumerate(cut):
        node = Node(Parameter(value.shape, value.element_type), (), f"cut_{index}")
        copies[(id(value.node), value.index)] = node.outputs[0]
        parameters.append(node)

    def replace(node: Node, inputs: list[Value]) -> list[Value] | None:
        if id(node) not in head or isinstance(node.op, Constant):
            return None
        # what the tail does not read of the head is never looked at
        return [copies.get((id(node), v.index), v) for v in node.outputs]

    # a Parameter among the model's own would be copied as one, so none is listed before the end
    tail = Model(model.results, [], model.name, model.sinks).clone(replace)
    tail.parameters = parameters
    return tail


class SplitExecutable(Executable):
    """A native head and an interpreted tail of the model `whole`."""

    def __init__(self, head: Executable, tail: Interpreter, whole: Model) -> None:
        self.head, self.tail, self.whole = head, tail, whole

    def create_runner(self) -> Runner:
        return SplitRunner(self.head.create_runner(), self.tail.create_runner())

    def explain(self) -> Explanation:
        first, second = self.head.explain(), self.tail.explain()
        known = {row.name for row in first.rows if row.precision != "-"}
        rest = {row.name: row for row in second.rows if row.name not in known}
        rows: list[Row] = [rest.pop(row.name, row) for row in first.rows]
        return Explanation(first.device, (*rows, *rest.values()))

    def runtime_model(self) -> Model:
        return self.whole

    def properties(self) -> dict[str, Any]:
        return self.head.properties()

    def export_model(self, prefix: str = "lpir_model", soname: str = "") -> bytes:
        kinds = ", ".join(sorted({n.op.type_name for n in self.tail.order}))
        raise UnsupportedError(f"the model cannot be a library: shapes depend on values from here on: {kinds}")


class SplitRunner(Runner):
    """Runs the head, then the tail on its outputs."""

    def __init__(self, head: Runner, tail: Runner) -> None:
        self.head, self.tail = head, tail

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return self.tail.run(self.head.run(inputs))

    def profiling_info(self) -> list[ProfilingInfo]:
        return [*self.head.profiling_info(), *self.tail.profiling_info()]

    def forget(self) -> None:
        self.head.forget()
        self.tail.forget()
