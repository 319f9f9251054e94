"""Small models for runtime tests."""

from __future__ import annotations

from typing import Any

import numpy as np

import lpir.ops  # noqa: F401
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import ElementType, f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make


def linear(shape: Any = (2, 3), name: str = "linear") -> Model:
    """`y = x @ ones(3, 4)` with the tensor names "x" and "y"."""
    p = parameter(shape, f32, "input")
    p.outputs[0].names = {"x"}
    weights = constant(np.ones((3, 4), np.float32))
    y = make("MatMul", p.outputs[0], weights, name="matmul", transpose_a=False, transpose_b=False)
    y.names = {"y"}
    return Model([Node(Result(), [y], "output")], [p], name)


def two_inputs(type: ElementType = f32) -> Model:
    """Outputs `a + b` and `reshape(a, [4])` of two inputs `[2, 2]`."""
    a, b = parameter([2, 2], type, "a"), parameter([2, 2], type, "b")
    total = make("Add", a.outputs[0], b.outputs[0], name="sum")
    flat = make("Reshape", a.outputs[0], constant(np.array([4], np.int64)), name="flat", special_zero=False)
    return Model([Node(Result(), [total], "r0"), Node(Result(), [flat], "r1")], [a, b], "two")
