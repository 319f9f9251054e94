"""Public operations become the lowered dialect: FakeQuantize turns into 8-bit codes that flow between operations.

One walk in topological order. For each value the walk keeps its forms (`forms.Form`): real numbers or codes, channels
first or last; a form is made when a consumer asks for it. A rule a type of operation (`rules_*.py`) says how it is
lowered; an operation without a rule is copied and runs through its own `eval`.
"""

from __future__ import annotations

import importlib
import pkgutil

from lpir.errors import ModelError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ops.boundary import Constant
from lpir.passes.lowprec.attention import join_attention
from lpir.passes.lowprec.forms import Lowering
from lpir.passes.lowprec.fuse import fuse
from lpir.passes.lowprec.rules import RULES, copy_node
from lpir.passes.lowprec.rules_elementwise import register_elementwise
from lpir.passes.lowprec.second import give_codes_too


def lower_model(model: Model, low_precision: bool = True) -> Model:
    """A new model in the lowered dialect. `model` must be static; it is not changed.

    With `low_precision` False, FakeQuantize is executed as it stands and everything runs in float. Each lowered node's
    `source` names the public nodes that it stands for. In the result's rt_info, "precision" maps the name of each
    public node to "INT8" or "FP32", and "refused" that of each that the IR wanted in INT8 to the reasons why it is not.
    Raises ModelError for a dynamic shape.
    """
    state = Lowering(low_precision)
    refused: dict[str, list[str]] = {}
    precision: dict[str, str] = {}
    parameters: dict[int, Node] = {}
    nodes = model.nodes()
    for node in nodes:
        for value in node.outputs:
            if not value.shape.is_static:
                raise ModelError(f"{node} has the dynamic shape {value.shape}; reshape the model first")
        state.current, state.refused, state.precision = node, [], "FP32"
        if node.op.type_name == "Parameter":
            parameters[id(node)] = Node(node.op, (), node.name)
            parameters[id(node)].outputs[0].names = set(node.outputs[0].names)
            state.set_real(node.outputs[0], parameters[id(node)].outputs[0])
        elif node.op.type_name not in ("Result", "Constant") and not _is_known(state, node):
            RULES.get(node.op.type_name, copy_node)(state, node)
        # nodes of an unrolled loop share its name
        if precision.get(node.name) != "INT8":
            precision[node.name] = state.precision
        if state.refused:
            refused[node.name] = state.refused
    state.current = None
    results = [_result(state, node) for node in model.results]
    lowered = Model(results, [parameters[id(p)] for p in model.parameters], model.name)
    fuse(lowered)
    join_attention(lowered)
    give_codes_too(lowered)
    lowered.rt_info = {"refused": refused, "precision": precision}
    return lowered


def _result(state: Lowering, node: Node) -> Node:
    result = Node(node.op, [state.real(node.inputs[0])], node.name)
    result.outputs[0].names = set(node.outputs[0].names)
    return result


def _is_known(state: Lowering, node: Node) -> bool:
    """Whether the node's outputs are known now, so that nothing has to run for it; they are computed when asked for."""
    if (static := getattr(node.op, "static_value", None)) is not None:
        state.constants[id(node.outputs[0])] = static([v.shape for v in node.inputs])
        return True
    if not all(
        isinstance(v.node.op, Constant) or id(v) in state.known or id(v) in state.constants for v in node.inputs
    ):
        return False
    state.known.update(id(v) for v in node.outputs)
    return True


def _load_rules() -> None:
    package = importlib.import_module("lpir.passes.lowprec")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("rules_"):
            importlib.import_module(f"lpir.passes.lowprec.{module.name}")
    register_elementwise()


_load_rules()
