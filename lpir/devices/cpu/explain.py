"""What each public operation of a model runs in on the CPU."""

from __future__ import annotations

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.plan import Plan
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.runtime.explain import Explanation, Row


def explain_plan(model: Model, lowered: Model, plan: Plan, isa: Isa) -> Explanation:
    """A row for each operation of the public `model`, from its lowered form and the kernels of the plan."""
    kernels = _kernels(plan)
    precision = lowered.rt_info.get("precision", {})
    refused = lowered.rt_info.get("refused", {})
    rows = []
    for node in model.nodes():
        if node.op.type_name in ("Parameter", "Result", "Constant"):
            continue
        names = kernels.get(node.name)
        rows.append(
            Row(
                name=node.name,
                type=node.op.type_name,
                precision=_precision(node, precision.get(node.name, "")) if names else "-",
                kernel=", ".join(dict.fromkeys(names)) if names else "folded or fused",
                reasons=tuple(refused.get(node.name, ())),
            )
        )
    return Explanation(f"CPU ({isa.name})", tuple(rows))


def _precision(node: Node, lowered: str) -> str:
    """INT8 if the lowering says so, else the type that the operation computes in."""
    if lowered == "INT8" or not node.outputs:
        return lowered or "-"
    return node.outputs[0].element_type.precision


def _kernels(plan: Plan) -> dict[str, list[str]]:
    """Names of the kernels that work for each public node."""
    found: dict[str, list[str]] = {}
    for node, choice in plan.choices.values():
        for name in node.source or [node.name]:
            found.setdefault(name, []).append(choice.name)
    return found
