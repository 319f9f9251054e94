"""Operations that an exporter spelled out become one again: GELU, Swish, HSwish, Mish, layer normalization, softmax.

Products are compared as sets of factors times one number, so the order in which an exporter multiplies does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ops.boundary import constant, constant_data
from lpir.ops.builder import make
from lpir.passes.rewrite import apply_rewrites, close, is_op, rewrite, sample, scalar, single_use, with_scalar


def compose(model: Model) -> int:
    """Applies the rewrites of this module until none fires; returns how often one did."""
    return apply_rewrites(model, RULES)


@dataclass
class Product:
    """`number * factors[0] * factors[1] ...`."""

    number: float = 1.0
    factors: list[Value] = field(default_factory=list)

    def split(self, wanted: Callable[[Value], Value | None]) -> tuple[Value, list[Value]] | None:
        """What `wanted` finds in the first factor where it finds something, and the other factors."""
        for index, value in enumerate(self.factors):
            found = wanted(value)
            if found is not None:
                return found, self.factors[:index] + self.factors[index + 1 :]
        return None


# no formula that an exporter writes out is deeper
MAX_DEPTH = 8


def product_of(value: Value, depth: int = 0) -> Product:
    """The factors of a tree of multiplications and divisions by numbers that nothing outside reads."""
    node = value.node
    result = Product()
    if is_op(value, "Multiply", "Divide") and (depth == 0 or single_use(value)) and depth < MAX_DEPTH:
        a, b = node.inputs
        number = scalar(b)
        if is_op(value, "Divide"):
            if number:
                inner = product_of(a, depth + 1)
                return Product(inner.number / number, inner.factors)
        else:
            for side in (product_of(a, depth + 1), product_of(b, depth + 1)):
                result.number *= side.number
                result.factors += side.factors
            return result
    constant_number = scalar(value)
    if constant_number is not None:
        return Product(constant_number)
    return Product(1.0, [value])


def plus_number(value: Value, number: float) -> Value | None:
    """`y` when `value` is `y + number`."""
    if not is_op(value, "Add"):
        return None
    found = with_scalar(value.node)
    return found[0] if found is not None and close(found[1], number) else None


def one_plus(value: Value, kind: str) -> Value | None:
    """`y` when `value` is `1 + kind(y)`."""
    inner = plus_number(value, 1.0)
    return inner.node.inputs[0] if inner is not None and is_op(inner, kind) else None


def times_number(value: Value) -> tuple[Value, float] | None:
    """`y` and the number when `value` is `y * number` (or `y / number`, or just `y`)."""
    product = product_of(value) if is_op(value, "Multiply", "Divide") else Product(1.0, [value])
    return (product.factors[0], product.number) if len(product.factors) == 1 else None


def f(number: float) -> Value:
    return constant(number, np.float32)


def example_gelu(x: Value) -> Value:
    inner = make("Add", make("Erf", make("Divide", x, f(math.sqrt(2)))), f(1.0))
    return make("Multiply", make("Multiply", x, inner), f(0.5))


@rewrite("Multiply", "Divide", example=lambda: sample(example_gelu, (2, 8)), exact=False)
def gelu_from_erf(node: Node) -> Value | None:
    """`0.5 * x * (1 + erf(x / sqrt(2)))`."""
    product = product_of(node.outputs[0])
    found = product.split(lambda v: one_plus(v, "Erf"))
    if found is None or len(found[1]) != 1 or not close(product.number, 0.5):
        return None
    inner, x = times_number(found[0]), found[1][0]
    if inner is None or inner[0] is not x or not close(inner[1], math.sqrt(0.5)):
        return None
    return make("Gelu", x, approximation_mode="ERF")


def example_gelu_tanh(x: Value) -> Value:
    cube = make("Multiply", make("Power", x, f(3.0)), f(0.044715))
    inner = make("Tanh", make("Multiply", make("Add", x, cube), f(math.sqrt(2 / math.pi))))
    return make("Multiply", make("Multiply", f(0.5), x), make("Add", inner, f(1.0)))


@rewrite("Multiply", "Divide", example=lambda: sample(example_gelu_tanh, (2, 8)), exact=False)
def gelu_from_tanh(node: Node) -> Value | None:
    """`0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`."""
    product = product_of(node.outputs[0])
    found = product.split(lambda v: one_plus(v, "Tanh"))
    if found is None or len(found[1]) != 1 or not close(product.number, 0.5):
        return None
    x, inner = found[1][0], product_of(found[0])
    if not close(inner.number, math.sqrt(2 / math.pi)):
        return None
    total = inner.split(lambda v: v if is_op(v, "Add") and _is_sum(v, x, 3) else None)
    if total is not None and not total[1]:
        return make("Gelu", x, approximation_mode="TANH")
    square = inner.split(lambda v: plus_number(v, 1.0))
    if square is not None and square[1] == [x] and _is_cubic(square[0], x, 2):
        return make("Gelu", x, approximation_mode="TANH")
    return None


def _is_sum(total: Value, x: Value, power: int) -> bool:
    a, b = total.node.inputs
    return (a is x and _is_cubic(b, x, power)) or (b is x and _is_cubic(a, x, power))


def _is_cubic(value: Value, x: Value, power: int) -> bool:
    """Whether `value` is `0.044715 * x^power`."""
    product = product_of(value)
    if not close(product.number, 0.044715, 1e-3):
        return False
    count = 0
    for factor in product.factors:
        if factor is x:
            count += 1
        elif is_op(factor, "Power") and factor.node.inputs[0] is x:
            count += int(scalar(factor.node.inputs[1]) or 0)
        elif is_op(factor, "Multiply") and factor.node.inputs[0] is x and factor.node.inputs[1] is x:
            count += 2
        else:
            return False
    return count == power


@rewrite("Multiply", example=lambda: sample(lambda x: make("Multiply", x, make("Sigmoid", x)), (2, 8)), exact=False)
def swish_from_sigmoid(node: Node) -> Value | None:
    """`x * sigmoid(beta * x)`."""
    for x, gate in (node.inputs, node.inputs[::-1]):
        if not is_op(gate, "Sigmoid"):
            continue
        inner = gate.node.inputs[0]
        if inner is x:
            return make("Swish", x)
        scaled = times_number(inner)
        if scaled is not None and scaled[0] is x:
            return make("Swish", x, constant(scaled[1], x.element_type))
    return None


def example_hard_sigmoid(x: Value) -> Value:
    return make("Divide", make("Clamp", make("Add", x, f(3.0)), min=0.0, max=6.0), f(6.0))


@rewrite("Multiply", "Divide", example=lambda: sample(example_hard_sigmoid, (2, 8)), exact=False)
def hsigmoid_from_clamp(node: Node) -> Value | None:
    """`clamp(x + 3, 0, 6) / 6`, and `x * clamp(x + 3, 0, 6) / 6` as HSwish."""
    product = product_of(node.outputs[0])
    found = product.split(_relu6_of_plus_3)
    if found is None or not close(product.number, 1 / 6):
        return None
    x, others = found
    if not others:
        return make("HSigmoid", x)
    return make("HSwish", x) if others == [x] else None


def _relu6_of_plus_3(value: Value) -> Value | None:
    """`x` when `value` is `clamp(x + 3, 0, 6)`."""
    if not is_op(value, "Clamp") or value.node.op.attributes() != {"min": 0.0, "max": 6.0}:
        return None
    return plus_number(value.node.inputs[0], 3.0)


@rewrite("HardSigmoid", example=lambda: sample(lambda x: make("HardSigmoid", x, f(1 / 6), f(0.5)), (2, 8)), exact=False)
def hsigmoid_from_hard_sigmoid(node: Node) -> Value | None:
    """`clamp(x / 6 + 0.5, 0, 1)`."""
    alpha, beta = scalar(node.inputs[1]), scalar(node.inputs[2])
    return make("HSigmoid", node.inputs[0]) if close(alpha, 1 / 6) and close(beta, 0.5) else None


@rewrite("Multiply", example=lambda: sample(lambda x: make("Multiply", x, make("HSigmoid", x)), (2, 8)), exact=False)
def hswish_from_hsigmoid(node: Node) -> Value | None:
    """`x * hsigmoid(x)`."""
    for x, gate in (node.inputs, node.inputs[::-1]):
        if is_op(gate, "HSigmoid") and gate.node.inputs[0] is x:
            return make("HSwish", x)
    return None


@rewrite(
    "Multiply",
    example=lambda: sample(lambda x: make("Multiply", make("Tanh", make("SoftPlus", x)), x), (2, 8)),
    exact=False,
)
def mish_from_tanh(node: Node) -> Value | None:
    """`x * tanh(softplus(x))`."""
    for x, gate in (node.inputs, node.inputs[::-1]):
        soft = gate.node.inputs[0] if is_op(gate, "Tanh") else None
        if soft is not None and is_op(soft, "SoftPlus") and soft.node.inputs[0] is x:
            return make("Mish", x)
    return None


def axes_of(value: Value) -> list[int] | None:
    """The axes, counted from the front and sorted, of a reduction that keeps its dimensions."""
    node, rank = value.node, value.shape.rank
    data = constant_data(node.inputs[1]) if len(node.inputs) > 1 else None
    if rank is None or data is None or not node.op.attributes().get("keep_dims"):
        return None
    return sorted(int(a) % rank for a in data.reshape(-1))


def example_layer_norm(x: Value) -> Value:
    axes = constant([-1], np.int64)
    d = make("Subtract", x, make("ReduceMean", x, axes, keep_dims=True))
    variance = make("ReduceMean", make("Power", d, f(2.0)), axes, keep_dims=True)
    return make("Divide", d, make("Sqrt", make("Add", variance, f(1e-5))))


@rewrite("Divide", "Multiply", example=lambda: sample(example_layer_norm, (2, 8)), exact=False)
def mvn_from_means(node: Node) -> Value | None:
    """`(x - mean) / sqrt(mean((x - mean)^2) + eps)`; the scale and the shift that follow stay."""
    found = _centered_over_deviation(node)
    if found is None:
        return None
    centered, inside = found
    x, mean = centered.node.inputs
    total = with_scalar(inside.node) if is_op(inside, "Add") else None
    if (
        total is None
        or not is_op(mean, "ReduceMean")
        or mean.node.inputs[0] is not x
        or not is_op(total[0], "ReduceMean")
    ):
        return None
    axes = axes_of(mean)
    if axes is None or axes_of(total[0]) != axes or not _is_square(total[0].node.inputs[0], centered):
        return None
    positions = constant(axes, np.int64)
    return make("MVN", x, positions, normalize_variance=True, eps=total[1], eps_mode="INSIDE_SQRT")


def _centered_over_deviation(node: Node) -> tuple[Value, Value] | None:
    """`x - mean` and what is under the root, in `(x - mean) / sqrt(.)` or `(x - mean) * (1 / sqrt(.))`."""
    a, b = node.inputs
    if is_op(node.outputs[0], "Divide"):
        return (a, b.node.inputs[0]) if is_op(a, "Subtract") and is_op(b, "Sqrt") else None
    for centered, inverse in ((a, b), (b, a)):
        if not is_op(centered, "Subtract"):
            continue
        if is_op(inverse, "Power") and scalar(inverse.node.inputs[1]) == -0.5:
            return centered, inverse.node.inputs[0]
        if is_op(inverse, "Divide") and scalar(inverse.node.inputs[0]) == 1 and is_op(inverse.node.inputs[1], "Sqrt"):
            return centered, inverse.node.inputs[1].node.inputs[0]
    return None


def _is_square(value: Value, centered: Value) -> bool:
    """Whether `value` is `centered^2`; exporters may compute the difference twice."""
    if is_op(value, "Power"):
        return scalar(value.node.inputs[1]) == 2 and _same_difference(value.node.inputs[0], centered)
    return is_op(value, "Multiply") and all(_same_difference(v, centered) for v in value.node.inputs)


def _same_difference(a: Value, b: Value) -> bool:
    return a is b or (is_op(a, "Subtract") and all(p is q for p, q in zip(a.node.inputs, b.node.inputs, strict=True)))


def example_softmax(x: Value) -> Value:
    axes = constant([1], np.int64)
    e = make("Exp", make("Subtract", x, make("ReduceMax", x, axes, keep_dims=True)))
    return make("Divide", e, make("ReduceSum", e, axes, keep_dims=True))


@rewrite("Divide", example=lambda: sample(example_softmax, (2, 8)), exact=False)
def softmax_from_exp(node: Node) -> Value | None:
    """`exp(x - max(x)) / sum(exp(x - max(x)))` along one axis; the shift may be missing."""
    e, total = node.inputs
    if not is_op(e, "Exp") or not is_op(total, "ReduceSum") or total.node.inputs[0] is not e:
        return None
    axes = axes_of(total)
    if axes is None or len(axes) != 1:
        return None
    x = e.node.inputs[0]
    if is_op(x, "Subtract"):
        source, top = x.node.inputs
        if is_op(top, "ReduceMax") and top.node.inputs[0] is source and axes_of(top) == axes:
            x = source
    return make("Softmax", x, axis=axes[0])


RULES = (
    gelu_from_erf,
    gelu_from_tanh,
    swish_from_sigmoid,
    hsigmoid_from_clamp,
    hsigmoid_from_hard_sigmoid,
    hswish_from_hsigmoid,
    mish_from_tanh,
    mvn_from_means,
    softmax_from_exp,
)
