"""Every sample of every operation gives the same on every device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lpir
import lpir.ops
from lpir.devices.cpu.isa import all_isas, host_isa
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY, Case
from lpir.ir.types import from_dtype
from lpir.ops.boundary import Result, constant, parameter
from tests.tolerances import BF16_ROUNDING, EXACT, F16_ROUNDING, Tolerance, assert_close

DEVICE_F32 = Tolerance(
    "DEVICE_F32", "sums in another order, functions as polynomials that may cancel", rel=2e-5, of_max=2e-6, abs=2e-6
)
TOLERANCES = {"float32": DEVICE_F32, "float64": DEVICE_F32, "float16": F16_ROUNDING, "bfloat16": BF16_ROUNDING}

CASES = [
    pytest.param(case, id=f"{name}-{case.name or index}")
    for name, op in sorted(REGISTRY.items())
    for index, case in enumerate(op.cases())
]


def model_of(case: Case, all_parameters: bool) -> tuple[Model, list[Any]]:
    """The sample as a model. What looks like shapes, axes or weights is constant unless `all_parameters`."""
    parameters: list[Node] = []
    arrays: list[Any] = []
    values: list[Value] = []
    for index, array in enumerate(case.inputs):
        data = np.asarray(array)
        if index == 0 or (all_parameters and data.dtype.kind == "f" and data.ndim > 1):
            parameters.append(parameter(data.shape, from_dtype(data.dtype), f"x{index}"))
            arrays.append(data)
            values.append(parameters[-1].outputs[0])
        else:
            values.append(constant(data))
    node = Node(case.op, values, "node")
    results = [Node(Result(), [v], f"r{v.index}") for v in node.outputs]
    return Model(results, parameters), arrays


@pytest.mark.parametrize("all_parameters", [False, True], ids=["constants", "inputs"])
@pytest.mark.parametrize("case", CASES)
def test_cpu_agrees_with_the_reference(case: Case, all_parameters: bool) -> None:
    if case.op.type_name in ("Parameter", "Result", "Constant") or not case.inputs:
        return
    check(case, all_parameters, "auto")


@pytest.mark.parametrize("isa", [isa.name for isa in all_isas() if isa.available() and isa is not host_isa()])
@pytest.mark.parametrize("case", CASES)
def test_every_instruction_set_agrees_with_the_reference(case: Case, isa: str) -> None:
    if case.op.type_name in ("Parameter", "Result", "Constant") or not case.inputs:
        return
    check(case, False, isa)


def check(case: Case, all_parameters: bool, isa: str) -> None:
    """Compares CPU with REFERENCE, twice in the same buffers."""
    model, arrays = model_of(case, all_parameters)
    expected = lpir.compile_model(model, "REFERENCE")(arrays).to_tuple()
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa})
    for _ in range(2):
        for port, (a, e) in enumerate(zip(compiled(arrays).to_tuple(), expected, strict=True)):
            tolerance = EXACT if e.dtype.kind in "iub" else TOLERANCES.get(e.dtype.name, EXACT)
            assert_close(a, e, tolerance, f"{case.op} output {port}")


def test_there_are_samples() -> None:
    assert len(CASES) > 30
