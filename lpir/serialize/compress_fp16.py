"""Float constants stored as f16, by the rules of OpenVINO's `save_model(compress_to_fp16=True)`."""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY, Array
from lpir.ir.types import f16, f32, f64, i8
from lpir.ops.boundary import Constant

# a constant with at least this share of values outside f16's range stays as it is
KEEP_RATIO = 0.75
# a single value (a scale, an epsilon) stays as it is when its relative error would be larger
SINGLE_ERROR = 1e-4
F16_MAX = 65504.0
F16_TINY = 2.0**-24


def compress_to_fp16(model: Model) -> Model:
    """A copy whose f32 and f64 constants are `Constant f16 -> Convert`, marked as decompression.

    A quantized model (FakeQuantize, or int8 constants) is returned as it is.
    """
    if is_quantized(model):
        return model
    return model.clone(_compress)


def is_quantized(model: Model) -> bool:
    """Whether the model holds a FakeQuantize or an int8 constant."""
    return any(
        n.op.type_name == "FakeQuantize" or (isinstance(n.op, Constant) and n.op.element_type == i8)
        for n in model.nodes()
    )


def _compress(node: Node, inputs: list[Value]) -> list[Value] | None:
    op = node.op
    if not isinstance(op, Constant) or op.element_type not in (f32, f64):
        return None
    if not fits(op.data):
        return None
    data = np.clip(op.data, -F16_MAX, F16_MAX).astype(np.float16)
    stored = Node(Constant(data, f16), (), f"{node.name}_compressed")
    convert = Node(REGISTRY["Convert"](destination_type=op.element_type), [stored.output], node.name)  # type: ignore[call-arg]
    convert.rt_info = {**node.rt_info, "decompression": {"version": "0"}}
    convert.output.names = set(node.output.names)
    convert.output.rt_info = dict(node.output.rt_info)
    return [convert.output]


def fits(data: Array) -> bool:
    """Whether OpenVINO would store these values as f16."""
    if data.size == 0 or out_of_range(data) / data.size >= KEEP_RATIO:
        return False
    if data.size > 1:
        return True
    value = data.reshape(-1)[0].astype(np.float64)
    stored = data.reshape(-1)[0].astype(np.float16).astype(np.float64)
    return bool(abs(value - stored) <= SINGLE_ERROR * abs(stored))


def out_of_range(data: Array) -> int:
    """How many values overflow f16 or would become zero in it."""
    magnitude = np.abs(data)
    return int(np.count_nonzero((magnitude > F16_MAX) | ((magnitude < F16_TINY) & (magnitude > 0))))
