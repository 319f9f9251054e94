"""Constants and control flow that is decided when the model is read."""

from __future__ import annotations

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.records import Graph, Tensor
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value


@operator("Constant")
def constant_value(c: Call) -> Value:
    given = c.operator.attributes
    tensor = given.get("value")
    if isinstance(tensor, Tensor):
        return c.const(tensor.data, tensor.element_type)
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64)):
        if name in given:
            return c.const(given[name], dtype)
    if "value_ints" in given:
        return c.const(given["value_ints"], np.int64)
    raise UnsupportedError(f"a constant given as {', '.join(given) or 'nothing'} is not supported")


@operator("If")
def if_(c: Call) -> list[Value]:
    """The branch that a constant condition chooses."""
    chosen = "then_branch" if bool(c.known(0, "the condition").reshape(-1)[0]) else "else_branch"
    body = c.operator.attributes.get(chosen)
    if not isinstance(body, Graph):
        raise ModelError(f"{chosen} is missing")
    return c.body(body)
