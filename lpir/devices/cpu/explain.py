"""What each public operation of a model runs in on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.plan import Plan
from lpir.ir.model import Model
from lpir.record import record
from lpir.runtime.explain import Explanation, Row


@record
class Operation:
    """What there is to say of a public operation once its model is gone: `precision` is that of its first output."""

    name: str
    type: str
    precision: str


def operations_of(model: Model) -> tuple[Operation, ...]:
    """The operations of a public model that compute, in order."""
    nodes = [n for n in model.nodes() if n.op.type_name not in ("Parameter", "Result", "Constant")]
    return tuple(
        [Operation(n.name, n.op.type_name, n.outputs[0].element_type.precision if n.outputs else "-") for n in nodes]
    )


def explain_plan(operations: Sequence[Operation], lowered: Model, plan: Plan, isa: Isa) -> Explanation:
    """A row for each operation of a public model, from its lowered form and the kernels of the plan."""
    own, guests = _kernels(plan, {n.name: n.type for n in operations})
    precision = lowered.rt_info.get("precision", {})
    refused = lowered.rt_info.get("refused", {})
    rows = []
    for node in operations:
        kernels, guest = own.get(node.name), guests.get(node.name)
        runs = kernels is not None or guest is not None
        host, where = guest if guest and not kernels else ("", "")
        rows.append(
            Row(
                name=node.name,
                type=node.type,
                # INT8 if the lowering says so, else the type that the operation computes in
                precision=("INT8" if precision.get(node.name) == "INT8" else node.precision) if runs else "-",
                kernel=", ".join(kernels) if kernels else where or "folded",
                reasons=tuple(refused.get(node.name, ())),
                part_of=host,
            )
        )
    return Explanation(f"CPU ({isa.name})", tuple(rows))


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
