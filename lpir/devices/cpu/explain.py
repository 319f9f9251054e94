"""What each public operation of a model runs in on the CPU."""

from __future__ import annotations

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.plan import Plan
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.runtime.explain import Explanation, Row


def explain_plan(model: Model, lowered: Model, plan: Plan, isa: Isa) -> Explanation:
    """A row for each operation of the public `model`, from its lowered form and the kernels of the plan."""
    nodes = [n for n in model.nodes() if n.op.type_name not in ("Parameter", "Result", "Constant")]
    own, guests = _kernels(plan, {n.name: n.op.type_name for n in nodes})
    precision = lowered.rt_info.get("precision", {})
    refused = lowered.rt_info.get("refused", {})
    rows = []
    for node in nodes:
        kernels, guest = own.get(node.name), guests.get(node.name)
        runs = kernels is not None or guest is not None
        host, where = guest if guest and not kernels else ("", "")
        rows.append(
            Row(
                name=node.name,
                type=node.op.type_name,
                precision=_precision(node, precision.get(node.name, "")) if runs else "-",
                kernel=", ".join(kernels) if kernels else where or "folded",
                reasons=tuple(refused.get(node.name, ())),
                part_of=host,
            )
        )
    return Explanation(f"CPU ({isa.name})", tuple(rows))


def _precision(node: Node, lowered: str) -> str:
    """INT8 if the lowering says so, else the type that the operation computes in."""
    if lowered == "INT8" or not node.outputs:
        return lowered or "-"
    return node.outputs[0].element_type.precision


def _kernels(plan: Plan, types: dict[str, str]) -> tuple[dict[str, list[str]], dict[str, tuple[str, str]]]:
    """The kernels that public nodes have to themselves, and for those that work inside one: whose, and where in it."""
    own: dict[str, list[str]] = {}
    guests: dict[str, tuple[str, str]] = {}
    for node, choice in plan.choices.values():
        names = node.source or [node.name]
        # FakeQuantize only changes the form of what another operation computes
        host = next((n for n in names if types.get(n) != "FakeQuantize"), names[0])
        shown = f"{choice.name} ({choice.note})" if choice.note else choice.name
        if shown not in own.setdefault(host, []):
            own[host].append(shown)
        epilogue = hasattr(node.op, "epilogue") and names[0] == host
        where = f"in epilogue of {choice.name}" if epilogue else f"inside {choice.name}"
        for name in names:
            if name != host:
                guests.setdefault(name, (host, where))
    # a change of shape costs nothing where a kernel runs too
    own = {name: [k for k in found if k != "alias"] or found for name, found in own.items()}
    return own, guests
