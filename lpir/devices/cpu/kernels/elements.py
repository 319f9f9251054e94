"""What kernels that move elements ask about a node: sizes of elements, shapes, operations by name."""

from __future__ import annotations

from lpir.devices.cpu.codegen.emitter import size_of
from lpir.devices.cpu.codegen.vector import memory_type
from lpir.errors import LpirError
from lpir.ir.graph import Node, Value
from lpir.ir.op import REGISTRY, Op
from lpir.ir.types import ElementType


def registered(*names: str) -> tuple[type[Op], ...]:
    """The public operations of these names."""
    import lpir.ops  # noqa: F401  registers them

    return tuple(REGISTRY[name] for name in names if name in REGISTRY)


def element_size(type: ElementType) -> int | None:
    """Bytes of an element that can be moved; None for packed types."""
    try:
        return size_of(memory_type(type))
    except LpirError:
        return None


def not_movable(node: Node) -> str | None:
    """Why the elements of input 0 cannot be moved, or None."""
    type = node.inputs[0].element_type
    return f"elements of type {type} are packed" if element_size(type) is None else None


def shape_of(value: Value) -> tuple[int, ...]:
    """The static shape of a value."""
    return value.shape.to_static()
