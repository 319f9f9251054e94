"""What OpenVINO's own shape inference says about an operation on partial shapes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import lpir.ops  # noqa: F401
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import Op
from lpir.ir.shape import Dimension, PartialShape
from lpir.ir.types import f32
from lpir.ops.boundary import Constant, Parameter, Result
from lpir.serialize.xml_write import to_bytes

# the text of a float32 partial shape, or a constant
Input = str | Sequence[Any] | np.ndarray[Any, np.dtype[Any]]


@cache
def core() -> Any:
    return pytest.importorskip("openvino").Core()


def both_shapes(op: Op, *inputs: Input) -> tuple[list[PartialShape], list[PartialShape]]:
    """The output shapes that lpir and OpenVINO infer; a text is a float32 Parameter's shape, the rest are constants."""
    import openvino as ov

    sources = []
    for i, given in enumerate(inputs):
        text = isinstance(given, str)
        boundary = Parameter(PartialShape.parse(given), f32) if text else Constant(np.asarray(given))  # type: ignore[arg-type]
        sources.append(Node(boundary, (), f"input{i}"))
    node = Node(op, [s.output for s in sources], "operation")
    results = [Node(Result(), [v], f"result{i}") for i, v in enumerate(node.outputs)]
    xml, weights = to_bytes(Model(results, [s for s in sources if isinstance(s.op, Parameter)]))
    model = core().read_model(xml, ov.Tensor(np.frombuffer(weights or b"\0", np.uint8).copy()))
    return [v.shape for v in node.outputs], [_shape_of(o.get_partial_shape()) for o in model.outputs]


def _shape_of(shape: Any) -> PartialShape:
    if shape.rank.is_dynamic:
        return PartialShape(None)
    return PartialShape(Dimension(d.min_length, None if d.max_length < 0 else d.max_length) for d in shape)
