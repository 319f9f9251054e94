"""Weights as INT8 codes: `FakeQuantize(Constant)` -> `Constant(i8) -> Convert -> [Subtract] -> Multiply`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import ElementType, i4, i8, u4, u8
from lpir.ops.boundary import constant, constant_data
from lpir.ops.builder import make, make_node
from lpir.ops.quantization import FakeQuantize
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

# what float32 arithmetic leaves of an exact zero, and of an exact integer (as OpenVINO has them)
ZERO = float(np.finfo(np.float32).eps)
INTEGER = 1e-4


@record
class Codes:
    """`real = scale * (data - zero_point)`; `zero_point` is None when it is zero. `scale` has the limits' shape."""

    data: Array
    element_type: ElementType
    scale: Array
    zero_point: Array | None


def encode(weight: Array, limits: tuple[Array, Array, Array, Array], levels: int) -> Codes:
    """The codes that FakeQuantize(weight, *limits, levels) gives on the integer range, with scale and zero point.

    float32 arithmetic, in the order of OpenVINO's compress_quantize_weights. `levels`: 3 to 256.
    """
    il, ih, ol, oh = (np.asarray(a, np.float32) for a in limits)
    unsigned = bool(np.all(ol >= 0) and np.all(oh >= 0))
    wide = levels > 16
    element_type = (u8 if wide else u4) if unsigned else (i8 if wide else i4)
    low = 0 if unsigned else -(levels // 2)
    # FakeQuantize onto the integers first..last is exactly its level number plus first
    last = np.float32(low + levels - 1)
    first = np.float32(low)
    fake = FakeQuantize(levels).eval(weight.astype(np.float32), il, ih, np.full_like(il, first), np.full_like(ih, last))
    data = np.rint(fake[0])
    ol, oh = np.broadcast_arrays(ol, oh)
    scale = ((oh - ol) / np.float32(levels - 1)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        zero_point = np.where(scale == 0, np.float32(0), first - ol / scale).astype(np.float32)
    if np.all(np.abs(zero_point) < ZERO):
        return Codes(data.astype(element_type.dtype), element_type, scale, None)
    moved = np.rint(data - zero_point)
    lowest, highest = element_type.limits
    fits = moved.size == 0 or (float(moved.min()) >= lowest and float(moved.max()) <= highest)
    if fits and np.all(np.abs(moved - (data - zero_point)) < INTEGER):
        return Codes(moved.astype(element_type.dtype), element_type, scale, None)
    return Codes(data.astype(element_type.dtype), element_type, scale, zero_point)


def compress_weights(model: Model) -> int:
    """Replaces every FakeQuantize of a constant by its codes, in place; the number of replaced nodes.

    Left alone: 2 or more than 256 levels, weights or limits that are no constants, weights of type f64, other
    broadcasting than NumPy's.
    """
    count = 0
    for node in model.nodes():
        if node.op.type_name == "FakeQuantize" and _compress(node):
            count += 1
    return count


def _compress(node: Node) -> bool:
    levels = int(getattr(node.op, "levels", 0))
    source = _weight(node.inputs[0])
    limits = tuple(constant_data(v) for v in node.inputs[1:])
    if source is None or not 2 < levels <= 256 or getattr(node.op, "auto_broadcast", "numpy") != "numpy":
        return False
    il, ih, ol, oh = limits
    if il is None or ih is None or ol is None or oh is None:
        return False
    weight = constant_data(source)
    if weight is None or node.output.element_type.name not in ("f32", "f16", "bf16"):
        return False
    if not all(np.isfinite(a.astype(np.float32)).all() for a in (weight, il, ih, ol, oh)):
        return False
    codes = encode(weight, (il, ih, ol, oh), levels)
    if codes.data.shape != tuple(weight.shape):
        return False
    value = decode_nodes(codes, node.output.element_type, node.name, source.node.name)
    value.node.rt_info = dict(node.rt_info)
    node.output.replace_all_uses_with(value)
    node.detach()
    return True


def decode_nodes(codes: Codes, element_type: ElementType, name: str, source: str) -> Value:
    """The nodes that give the weight back as `element_type`; the last one is called `name`."""
    quantized = constant(codes.data, codes.element_type, name=source)
    value = make_node("Convert", quantized, name=f"{name}/convert", destination_type=element_type).output
    if codes.zero_point is not None:
        zero_point = constant(codes.zero_point.astype(element_type.dtype), name=f"{name}/zero_point")
        value = make("Subtract", value, zero_point, name=f"{name}/subtract")
    scale = constant(codes.scale.astype(element_type.dtype), name=f"{name}/scale")
    return make("Multiply", value, scale, name=name)


def _weight(value: Value) -> Value | None:
    """The constant behind `value`, through one Convert."""
    if value.node.op.type_name == "Convert":
        value = value.node.inputs[0]
    return value if constant_data(value) is not None else None
