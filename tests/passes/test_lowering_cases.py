"""Every sample of every operation means the same after lowering."""

from __future__ import annotations

import pytest

import lpir.ops  # noqa: F401  registers the operations
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY, Case
from lpir.ir.types import from_dtype
from lpir.ops.boundary import Result, constant, parameter
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.tolerances import Tolerance, assert_close

LOWERED = Tolerance(
    "LOWERED", "a mean is a sum times a reciprocal, a resize a sum of gathers, exp a polynomial", rel=1e-4, abs=1e-5
)
CASES = [
    pytest.param(case, id=f"{name}-{case.name or index}")
    for name in sorted(REGISTRY)
    for index, case in enumerate(REGISTRY[name].cases())
]


@pytest.mark.parametrize("case", CASES)
def test_lowered_means_the_same(case: Case) -> None:
    data, *rest = case.inputs
    entry = parameter(data.shape, from_dtype(data.dtype), "x")
    node = Node(case.op, [entry.output, *(constant(a) for a in rest)], "node")
    model = Model([Node(Result(), [v], f"out{i}") for i, v in enumerate(node.outputs)], [entry])
    if not all(v.shape.is_static for v in node.outputs):
        # its length depends on the data, so it is never lowered
        assert case.op.type_name in ("NonZero", "NonMaxSuppression", "Range", "Loop")
        return
    expected = Interpreter(model).create_runner().run([data])
    actual = Interpreter(lower_model(model)).create_runner().run([data])
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want, LOWERED)
