"""Where quantizers go: which tensors get a FakeQuantize, and which of their readers see it.

Every float input of an operation that computes in INT8 asks for a quantizer. A request moves up through operations that
only move values, as long as every reader of the tensor asks for one; where it stops, one quantizer serves them all.
One pass over the nodes, last to first, settles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lpir.ir.graph import Node, Use, Value
from lpir.ir.model import Model
from lpir.ops.boundary import constant_data
from lpir.quantize.patterns import ignored_nodes
from lpir.quantize.structure import Structure
from lpir.quantize.traits import CONVOLUTIONS, KEEPS_CHANNELS, MOVEMENT, Traits
from lpir.record import record


@record
class ActivationQuantizer:
    """`value` is quantized for `uses`.

    axis: the axis with one range an index, or None. symmetric: zero in the middle is required. group: quantizers of the
    same group (inputs of one Concat) get the same limits.
    """

    value: Value
    uses: tuple[Use, ...]
    axis: int | None
    symmetric: bool
    group: int | None


@record
class WeightQuantizer:
    """The constant `value` is quantized for `uses`, one range for each index along `axes`."""

    value: Value
    uses: tuple[Use, ...]
    axes: tuple[int, ...]


@dataclass
class Placement:
    """All quantizers of a model, and why nodes that could be quantized are not."""

    activations: list[ActivationQuantizer]
    weights: list[WeightQuantizer]
    ignored: dict[str, str] = field(default_factory=dict)

    def dump(self) -> str:
        """One line a quantizer, for people and golden files."""
        lines = []
        for a in self.activations:
            kind = ("symmetric" if a.symmetric else "any") + ("" if a.axis is None else f", axis {a.axis}")
            kind += "" if a.group is None else f", group {a.group}"
            lines.append(f"{a.value.name} [{kind}] -> {_readers(a.uses)}")
        lines += [f"{w.value.name} [weight, axes {list(w.axes)}] -> {_readers(w.uses)}" for w in self.weights]
        lines += [f"{name}: float, {why}" for name, why in sorted(self.ignored.items())]
        return "\n".join(lines) + "\n"


@dataclass
class _Request:
    """What the readers of a tensor ask for. `firm`: worth a quantizer of its own."""

    firm: bool
    axis: int | None = None
    symmetric: bool = False
    groups: frozenset[int] = frozenset()


def place(
    model: Model,
    traits: Traits,
    *,
    transformer: bool = False,
    symmetric: bool = True,
    per_channel_depthwise: bool = False,
    ignored: Mapping[str, str] | None = None,
) -> Placement:
    """Quantizers for a float model. `ignored`: node name -> why it stays float, added to what patterns find."""
    structure = Structure(model)
    skipped = ignored_nodes(structure, transformer)
    skipped |= {id(n): ignored[n.name] for n in structure.nodes if ignored and n.name in ignored}
    per_channel = per_channel_depthwise and traits.per_channel_depthwise
    placer = _Placer(structure, traits, skipped, transformer, symmetric, per_channel)
    return placer.run()


class _Placer:
    def __init__(
        self,
        structure: Structure,
        traits: Traits,
        skipped: dict[int, str],
        transformer: bool,
        symmetric: bool,
        per_channel: bool,
    ) -> None:
        self.structure = structure
        self.traits = traits
        self.skipped = skipped
        self.transformer = transformer
        self.symmetric = symmetric
        self.per_channel = per_channel
        # what a movement node asks of its inputs, once its own readers are settled
        self.passed: dict[int, _Request] = {}
        self.groups = _Groups()
        self.found: list[tuple[Value, list[Use], _Request]] = []

    def run(self) -> Placement:
        for node in reversed(self.structure.nodes):
            self.settle(node)
        activations = [
            ActivationQuantizer(value, tuple(uses), r.axis, r.symmetric or self.symmetric, self.groups.number(r.groups))
            for value, uses, r in reversed(self.found)
        ]
        ignored = {}
        for node in self.structure.nodes:
            if id(node) in self.skipped and self.wants_int8(node):
                ignored[node.name] = self.skipped[id(node)]
        return Placement(activations, self.weights(), ignored)

    def wants_int8(self, node: Node) -> bool:
        return node.op.type_name in self.traits.linear | self.traits.quantizable

    def settle(self, node: Node) -> None:
        """Decides about each output of `node`, whose readers are settled: pass the requests up, or quantize here."""
        merged = [self.merge(value) for value in node.outputs]
        if self.can_pass(node, merged):
            request = self.combine([r for _, r, _ in merged if r is not None])
            if node.op.type_name not in KEEPS_CHANNELS:
                request.axis = None
            if node.op.type_name == "Concat":
                request = _Request(True, None, request.symmetric, request.groups | {self.groups.new()})
            self.passed[id(node)] = request
            return
        for value, (uses, asked, _) in zip(node.outputs, merged, strict=True):
            if asked is not None and asked.firm:
                self.found.append((value, uses, asked))

    def can_pass(self, node: Node, merged: list[tuple[list[Use], _Request | None, bool]]) -> bool:
        kind = node.op.type_name
        if kind not in MOVEMENT or kind not in self.traits.movement or id(node) in self.skipped:
            return False
        ports = MOVEMENT[kind]
        sources = node.inputs if ports is None else [node.inputs[p] for p in ports]
        if not all(self.structure.is_data(v) for v in sources) or not all(complete for *_, complete in merged):
            return False
        if kind == "Pad" and len(node.inputs) > 3 and not _pads_zero(node):
            return False
        return any(r is not None for _, r, _ in merged)

    def merge(self, value: Value) -> tuple[list[Use], _Request | None, bool]:
        """(the readers that ask, their common request, whether every reader asks)."""
        if not self.structure.is_data(value):
            return [], None, not value.uses
        asked = [(use, self.request(use)) for use in value.uses]
        uses = [use for use, r in asked if r is not None]
        requests = [r for _, r in asked if r is not None]
        return uses, self.combine(requests) if requests else None, len(uses) == len(asked)

    def combine(self, requests: list[_Request]) -> _Request:
        axes = {r.axis for r in requests}
        groups = frozenset().union(*(r.groups for r in requests))
        self.groups.join(groups)
        return _Request(
            any(r.firm for r in requests),
            axes.pop() if len(axes) == 1 else None,
            any(r.symmetric for r in requests),
            groups,
        )

    def request(self, use: Use) -> _Request | None:
        """What one reader asks for, or None if it reads floats."""
        node, kind = use.node, use.node.op.type_name
        if id(node) in self.passed:
            ports = MOVEMENT[kind]
            return self.passed[id(node)] if ports is None or use.index in ports else None
        if id(node) in self.skipped:
            return None
        if kind in CONVOLUTIONS and kind in self.traits.linear:
            if use.index != 0 or constant_data(node.inputs[1]) is None:
                return None
            depthwise = kind == "GroupConvolution" and node.inputs[1].shape[2].hi == 1
            return _Request(True, 1 if depthwise and self.per_channel else None)
        if kind == "MatMul" and kind in self.traits.linear:
            both = all(self.structure.is_data(v) for v in node.inputs)
            return _Request(True, symmetric=both and self.transformer)
        if kind in self.traits.quantizable:
            if kind in MOVEMENT or use.index >= self.data_ports(node):
                return None
            if kind == "Add" and self.traits.fused_addition and use == self.fused_operand(node):
                return None
            # a function of one tensor and constants belongs to what computes that tensor
            return _Request(self.structure.root(node.outputs[0]) is node.outputs[0])
        return None

    def fused_operand(self, add: Node) -> Use | None:
        """The operand that a layer computes for this addition alone, when the other comes from elsewhere.

        The device adds in the layer's epilogue, in float: an 8-bit copy of that operand would only lose accuracy.
        """
        for port in (1, 0):
            value, other = add.inputs[port], add.inputs[1 - port]
            root = self.structure.root(value)
            kind = root.node.op.type_name
            if kind not in self.traits.linear or id(root.node) in self.skipped or root is self.structure.root(other):
                continue
            if self.structure.is_data(other) and value.shape == other.shape and self.is_private(value, root):
                return next(u for u in value.uses if u.node is add)
        return None

    def is_private(self, value: Value, root: Value) -> bool:
        """Whether a chain of single readers leads from `root` to `value` and its one reader."""
        while len(value.uses) == 1:
            if value is root:
                return True
            sources = [v for v in value.node.inputs if self.structure.is_data(v)]
            if len(sources) != 1:
                return False
            value = sources[0]
        return False

    def data_ports(self, node: Node) -> int:
        return 2 if node.op.type_name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum") else 1

    def weights(self) -> list[WeightQuantizer]:
        found: dict[tuple[int, tuple[int, ...]], tuple[Value, list[Use]]] = {}
        for node in self.structure.nodes:
            if id(node) in self.skipped:
                continue
            for use, axes in weight_uses(node, self.traits):
                value = node.inputs[use]
                if value.element_type.is_float and self.is_worth(node, use):
                    found.setdefault((id(value), axes), (value, []))[1].append(Use(node, use))
        return [WeightQuantizer(value, tuple(uses), axes) for (_, axes), (value, uses) in found.items()]

    def is_worth(self, node: Node, port: int) -> bool:
        """A weight of a layer whose data is no float tensor (or a constant) stays float."""
        return node.op.type_name == "Gather" or self.structure.is_data(node.inputs[1 - port])


def weight_uses(node: Node, traits: Traits) -> list[tuple[int, tuple[int, ...]]]:
    """(input number, axes with a scale of their own) of each constant weight of a node."""
    kind = node.op.type_name
    if kind in CONVOLUTIONS and kind in traits.linear and constant_data(node.inputs[1]) is not None:
        return [(1, CONVOLUTIONS[kind])]
    if kind == "MatMul" and kind in traits.linear:
        found = []
        for port, transposed in ((0, bool(getattr(node.op, "transpose_a", False))), (1, node.op.transpose_b)):  # type: ignore[attr-defined]
            data = constant_data(node.inputs[port])
            if data is not None:
                found.append((port, _matmul_axes(data.ndim, port, bool(transposed))))
        return found
    if kind == "Gather":
        data, axis = constant_data(node.inputs[0]), constant_data(node.inputs[2])
        if data is not None and data.ndim == 2 and axis is not None and int(axis.reshape(-1)[0]) == 0:
            return [(0, (0,))]
    return []


def _matmul_axes(rank: int, port: int, transposed: bool) -> tuple[int, ...]:
    """All axes but the contracted one."""
    if rank < 2:
        return ()
    last = (port == 0) != transposed
    contracted = rank - 1 if last else rank - 2
    return tuple(a for a in range(rank) if a != contracted)


def _pads_zero(node: Node) -> bool:
    fill = constant_data(node.inputs[3])
    return fill is not None and not np.any(fill)


def _readers(uses: tuple[Use, ...]) -> str:
    return ", ".join(f"{u.node.name}.{u.index}" for u in uses)


class _Groups:
    """Sets of numbers that are joined as requests meet."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def new(self) -> int:
        self.parent.append(len(self.parent))
        return self.parent[-1]

    def top(self, item: int) -> int:
        while self.parent[item] != item:
            item = self.parent[item]
        return item

    def join(self, items: frozenset[int]) -> None:
        tops = sorted({self.top(i) for i in items})
        for other in tops[1:]:
            self.parent[other] = tops[0]

    def number(self, items: frozenset[int]) -> int | None:
        return self.top(min(items)) if items else None
