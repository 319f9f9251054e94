"""From a public model to a lowered one of static shapes."""

from __future__ import annotations

from collections.abc import Sequence

from lpir.errors import ModelError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ops.boundary import Constant
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.evaluate import Variables, evaluate_node

# operations whose value may change between inferences though their inputs do not
_LIVE = ("ReadValue", "Assign", "RandomUniform", "Parameter", "Result")


def is_static(model: Model) -> bool:
    """Whether every value has a static shape."""
    return all(v.shape.is_static for n in model.nodes() for v in n.outputs)


def is_stateful(model: Model) -> bool:
    """Whether inferences depend on earlier ones."""
    return any(n.op.type_name in ("ReadValue", "Assign") for n in model.nodes())


def specialize(model: Model, shapes: Sequence[tuple[int, ...]]) -> Model:
    """A copy for these input shapes, with what they decide folded. Raises ModelError when they do not fit."""
    copy = model.clone()
    copy.reshape(dict(enumerate(shapes)))
    return fold(copy)


def fold(model: Model) -> Model:
    """A copy in which shape arithmetic is constant.

    Float constants of the file stay as they are: the lowering reads compressed and quantized weights from them.
    """
    found: set[int] = set()

    def constants(node: Node, arrays: Sequence[object]) -> list[Value]:
        values = [
            Node(Constant(a, v.element_type), (), node.name).output  # type: ignore[arg-type]
            for a, v in zip(arrays, node.outputs, strict=False)
        ]
        for old, new in zip(node.outputs, values, strict=True):
            new.names = set(old.names)
        found.update(id(v) for v in values)
        kept.extend(values)
        return values

    # so that no id in `found` is used again
    kept: list[Value] = []

    def replace(node: Node, inputs: list[Value]) -> list[Value] | None:
        static = getattr(node.op, "static_value", None)
        if static is not None:
            array = static([v.shape for v in inputs])
            return None if array is None else constants(node, [array])
        ops = [v.node.op for v in inputs]
        arrays = [op.data for op in ops if isinstance(op, Constant)]
        if not inputs or node.op.type_name in _LIVE or len(arrays) < len(inputs):
            return None
        if any(v.element_type.is_float for v in node.outputs) and not any(id(v) in found for v in inputs):
            return None
        return constants(node, evaluate_node(node, arrays, Variables()))

    return model.clone(replace)


def lower(model: Model, low_precision: bool) -> Model:
    """The lowered form of a static model. Raises ModelError when a shape is dynamic."""
    if not is_static(model):
        raise ModelError("the model has shapes that depend on its values")
    return lower_model(model, low_precision=low_precision)
