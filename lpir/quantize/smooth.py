"""SmoothQuant: moves the outliers of activations into weights, where every output channel has a scale of its own.

The MatMuls by weights that read one value `x` become `(x / s) (s W)`, `s` a positive number for each summed channel:

    s = max |x|^alpha / max |W|^(1 - alpha)

with the alpha of `ALPHAS` whose quantized products come closest to the float ones. Source: arXiv 2211.10438; the search
for each value is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ops.boundary import constant, constant_data
from lpir.ops.builder import make
from lpir.quantize.execute import TappedModel
from lpir.quantize.observers import pick
from lpir.quantize.placement import Placement
from lpir.quantize.ranges import Range, asymmetric, weight_range
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95)
# samples that are looked at
SAMPLES = 10
# the largest magnitude of a channel counts as at least this
SMALLEST = 1e-5
# channels whose s would be smaller than that of so many others get theirs: values near 0 need no finer steps
LEAST_SHARE = 0.1


@record
class Group:
    """A value and the MatMuls by weights that read it."""

    value: Value
    layers: tuple[Node, ...]

    def weights(self) -> list[Array]:
        """Each layer's weight as [inputs, outputs]."""
        return [w.T if _is_turned(n) else w for n in self.layers if (w := constant_data(n.inputs[1])) is not None]


def smooth(
    model: Model, placement: Placement, samples: Iterable[list[Array]], device: str, report: Callable[[int], None]
) -> int:
    """Smooths what the MatMuls of `placement` read, in place; how many values. The model's outputs stay what they are,
    but for rounding."""
    groups = groups_of(placement)
    if not groups:
        return 0
    tapped = TappedModel(model, [g.value for g in groups], device)
    rows: list[list[Array]] = [[] for _ in groups]
    for index, sample in enumerate(samples):
        for seen, x in zip(rows, tapped.run(sample), strict=True):
            seen.append(pick(x, x.ndim - 1).T)
        report(index + 1)
    count = 0
    for group, seen in zip(groups, rows, strict=True):
        scale = best_scale(np.concatenate(seen), group.weights())
        if scale is not None:
            rescale(group, scale)
            count += 1
    model.validate()
    return count


def groups_of(placement: Placement) -> list[Group]:
    """Values that MatMuls by their own weights read, with those MatMuls."""
    quantized = {(id(use.node), use.index) for a in placement.activations for use in a.uses}
    found: dict[int, Group] = {}
    for weight in placement.weights:
        use = weight.uses[0]
        if len(weight.value.uses) > 1 or use.index != 1 or not _is_plain_product(use.node):
            continue
        value = use.node.inputs[0]
        # a quantizer may sit further up, where the value only moves: then it has other readers
        if (id(use.node), 0) in quantized:
            known = found.get(id(value), Group(value, ()))
            found[id(value)] = Group(value, (*known.layers, use.node))
    return list(found.values())


def best_scale(x: Array, weights: Sequence[Array]) -> Array | None:
    """`s` for rows `x` [positions, channels] and weights [channels, outputs]; None where 1 is best."""
    largest_x = np.maximum(np.abs(x).max(0), SMALLEST).astype(np.float64)
    largest_w = np.maximum(np.max([np.abs(w).max(1) for w in weights], axis=0), SMALLEST).astype(np.float64)
    best, least = None, error(x, weights, np.ones_like(largest_x))
    for alpha in ALPHAS:
        scale = largest_x**alpha / largest_w ** (1 - alpha)
        scale = np.maximum(scale, np.quantile(scale, LEAST_SHARE))
        found = error(x, weights, scale)
        if found < least:
            best, least = scale, found
    return best


def error(x: Array, weights: Sequence[Array], scale: Array) -> float:
    """The squared error of all products if `x / scale` and `scale * W` are quantized to 8 bits."""
    divided = (x / scale).astype(np.float32)
    codes = _quantized(divided, asymmetric(divided.min(), divided.max()))
    total = 0.0
    for w in weights:
        multiplied = (w * scale[:, None]).astype(np.float32)
        difference = codes @ _quantized(multiplied, weight_range(multiplied, (1,))) - x @ w
        total += float(np.square(difference, dtype=np.float64).sum())
    return total


def rescale(group: Group, scale: Array) -> None:
    """Divides the value by `scale` in front of the group's layers, and multiplies their weights by it."""
    value = group.value
    dtype = value.element_type.dtype
    inverse = constant((1.0 / scale).astype(dtype), value.element_type, name=f"{value.node.name}/smooth/scale")
    divided = make("Multiply", value, inverse, name=f"{value.node.name}/smooth")
    for node in group.layers:
        weight = node.inputs[1]
        data = constant_data(weight)
        assert data is not None
        scaled = data * (scale if _is_turned(node) else scale[:, None])
        node.set_input(0, divided)
        node.set_input(1, constant(scaled.astype(data.dtype), weight.element_type, name=weight.node.name))


def _quantized(x: Array, limits: Range) -> Array:
    codes = np.rint((np.clip(x, limits.low, limits.high) - limits.low) / limits.scale.astype(np.float32))
    return np.asarray(codes * limits.scale.astype(np.float32) + limits.low, np.float32)


def _is_plain_product(node: Node) -> bool:
    data = constant_data(node.inputs[1]) if node.op.type_name == "MatMul" else None
    return data is not None and data.ndim == 2 and not getattr(node.op, "transpose_a", False)


def _is_turned(node: Node) -> bool:
    """Whether the weight lies as [outputs, inputs]."""
    return bool(getattr(node.op, "transpose_b", False))
