"""Puts FakeQuantize nodes where the placement says."""

from __future__ import annotations

from collections.abc import Sequence

from lpir.ir.graph import Node, Value
from lpir.ops.boundary import constant, constant_data
from lpir.ops.builder import make_node
from lpir.quantize.placement import ActivationQuantizer, WeightQuantizer
from lpir.quantize.ranges import Range, weight_range


def fake_quantize(value: Value, limits: Range, name: str) -> Node:
    """`FakeQuantize(value)` whose output limits equal the input limits."""
    low = constant(limits.low, value.element_type, name=f"{name}/low")
    high = constant(limits.high, value.element_type, name=f"{name}/high")
    return make_node("FakeQuantize", value, low, high, low, high, name=name, levels=limits.levels)


def insert_activations(quantizers: Sequence[ActivationQuantizer], limits: Sequence[Range | None]) -> list[Node]:
    """One FakeQuantize for each quantizer that has limits, read by its uses only."""
    made = []
    for quantizer, limit in zip(quantizers, limits, strict=True):
        if limit is None:
            continue
        node = fake_quantize(quantizer.value, limit, f"{quantizer.value.node.name}/fq_output_{quantizer.value.index}")
        for use in quantizer.uses:
            use.node.set_input(use.index, node.output)
        made.append(node)
    return made


def insert_weights(quantizers: Sequence[WeightQuantizer]) -> list[Node]:
    """One FakeQuantize for each weight: symmetric, -127..127, a scale for each output channel."""
    made = []
    for quantizer in quantizers:
        data = constant_data(quantizer.value)
        if data is None:
            continue
        first = quantizer.uses[0]
        limits = weight_range(data, quantizer.axes)
        node = fake_quantize(quantizer.value, limits, f"{first.node.name}/fq_weights_{first.index}")
        for use in quantizer.uses:
            use.node.set_input(use.index, node.output)
        made.append(node)
    return made
