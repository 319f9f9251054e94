"""Constant folding."""

from __future__ import annotations

import math

import numpy as np

from lpir.errors import LpirError
from lpir.ir.graph import Node, Value, known_value
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ops.boundary import Constant

# a folded result may be this many elements, or as many as its inputs together: a broadcast of zeros stays a broadcast
MAX_GROWTH = 1 << 16
KEPT = frozenset(("Parameter", "Result", "Constant", "FakeQuantize", "FakeConvert", "ReadValue", "Assign"))
RANDOM = frozenset(("RandomUniform", "Multinomial"))


def fold_constants(model: Model) -> int:
    """Replaces nodes whose outputs are known by Constants, shape computations included; returns how many.

    FakeQuantize and the Convert of compressed weights (8 bits or fewer and a matrix, or marked `decompression`) stay,
    and with them everything that follows from them.
    """
    folded = 0
    for node in model.nodes():
        if node.op.type_name in KEPT or node.op.type_name in RANDOM or _is_decompression(node):
            continue
        arrays = _values(node)
        if arrays is None:
            continue
        # readers may infer more from a constant than from what it replaces, so types are inferred again afterwards
        for value, array in zip(node.outputs, arrays, strict=True):
            if value.uses:
                _replace(value, array)
        node.detach()
        folded += 1
    if folded:
        model.validate()
    return folded


def _replace(value: Value, array: Array) -> None:
    kind = value.element_type
    constant = Node(Constant(np.asarray(array, kind.dtype, order="C"), kind), (), value.name).output
    value.replace_all_uses_with(constant)


def _is_decompression(node: Node) -> bool:
    if node.op.type_name != "Convert":
        return False
    source, target = node.inputs[0], node.outputs[0].element_type
    if not isinstance(source.node.op, Constant):
        return False
    # numbers and vectors are arithmetic (zero points, quantized batch normalization), not weights
    small = source.element_type.is_integer and source.element_type.bits <= 8 and source.node.op.data.ndim > 1
    return "decompression" in node.rt_info or (small and target.is_float)


def _values(node: Node) -> list[Array] | None:
    """The outputs if they can be computed now, at a reasonable size."""
    try:
        known = [known_value(v) for v in node.outputs]
    except (LpirError, ValueError, IndexError, ArithmeticError, MemoryError):
        return None
    found = [v for v in known if v is not None]
    if len(found) == len(known):
        return found
    if not node.inputs or not all(isinstance(v.node.op, Constant) for v in node.inputs):
        return None
    data = [v.node.op.data for v in node.inputs if isinstance(v.node.op, Constant)]
    limit = max(MAX_GROWTH, sum(a.size for a in data))
    for value in node.outputs:
        if not value.shape.is_static or math.prod(value.shape.to_static()) > limit:
            return None
    try:
        return [np.asarray(a) for a in node.op.eval(*data)]
    except (LpirError, ValueError, IndexError, ArithmeticError, MemoryError):
        # the node says what is wrong when it runs
        return None
