"""Every operation, on each of its samples: shapes are inferred as computed, and OpenVINO gives the same result."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import lpir.ops  # noqa: F401
from lpir.errors import LpirError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY, Arg, Case, Op, TensorType
from lpir.ir.shape import ANY, PartialShape
from lpir.ir.types import from_dtype
from lpir.ops.boundary import Constant, Parameter, Result
from lpir.serialize.xml_write import to_bytes
from tests.tolerances import EXACT, F32_CHAIN, Array, Tolerance, assert_close

# they hold data instead of computing it
BOUNDARY = {"Parameter", "Constant", "Result"}
CASES = [pytest.param(c, id=f"{n}-{c.name}") for n, cls in sorted(REGISTRY.items()) for c in cls.cases()]

# operations that round as OpenVINO's reference does, operation by operation
EXACTLY = {
    *("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Mod", "FloorMod", "SquaredDifference", "Abs"),
    *("Negative", "Sign", "Floor", "Ceiling", "Round", "Sqrt", "Relu", "Clamp", "PRelu", "Convert", "ConvertLike"),
    *("Select", "FakeQuantize", "ReduceMax", "ReduceMin"),
}
CANCELLED = Tolerance("CANCELLED", "1 + erf(x) and ln(1 + e^x) cancel in float32", abs=5e-7, rel=1e-6)
OF_ONE = {"Gelu": CANCELLED, "Mish": CANCELLED, "SoftPlus": CANCELLED}


def tolerance_of(op: Op) -> Tolerance:
    return EXACT if op.type_name in EXACTLY else OF_ONE.get(op.type_name, F32_CHAIN)


def args_of(case: Case, known: set[int]) -> list[Arg]:
    return [
        Arg(from_dtype(x.dtype), PartialShape.of(x.shape), x if i in known else None) for i, x in enumerate(case.inputs)
    ]


def inferred(case: Case, known: set[int]) -> list[TensorType] | None:
    try:
        return case.op.infer(args_of(case, known))
    except LpirError:
        return None


def constants_of(case: Case) -> set[int]:
    """Inputs that shape inference must know: without them the result is refused or less precise."""
    known = set(range(len(case.inputs)))
    full = case.op.infer(args_of(case, known))
    for index in sorted(known):
        if inferred(case, known - {index}) == full:
            known.discard(index)
    return known


def model_of(case: Case, known: set[int]) -> Model:
    """The operation between Parameters (Constants for the inputs `known`) and Results."""
    sources: list[Node] = []
    for i, x in enumerate(case.inputs):
        boundary = Constant(x) if i in known else Parameter(PartialShape.of(x.shape), from_dtype(x.dtype))
        sources.append(Node(boundary, (), f"input{i}"))
    node = Node(case.op, [s.output for s in sources], "operation")
    results = [Node(Result(), [v], f"result{i}") for i, v in enumerate(node.outputs)]
    return Model(results, [s for i, s in enumerate(sources) if i not in known])


@cache
def core() -> Any:
    openvino = pytest.importorskip("openvino")
    return openvino.Core()


def openvino_results(case: Case) -> list[Array]:
    """OpenVINO's reference evaluator, or its CPU device for what that cannot do."""
    known = constants_of(case)
    try:
        return run_openvino(case, known)
    except RuntimeError:
        # some operations of the CPU device take constants only
        return run_openvino(case, known | set(range(1, len(case.inputs))))


def run_openvino(case: Case, known: set[int]) -> list[Array]:
    import openvino as ov

    xml, weights = to_bytes(model_of(case, known))
    model = core().read_model(xml, ov.Tensor(np.frombuffer(weights or b"\0", np.uint8).copy()))
    tensors = [ov.Tensor(np.array(x, order="C")) for i, x in enumerate(case.inputs) if i not in known]
    if all(o.get_partial_shape().is_static for o in model.outputs):
        outputs = [ov.Tensor(o.get_element_type(), o.get_partial_shape().to_shape()) for o in model.outputs]
        try:
            if model.evaluate(outputs, tensors):
                return [np.array(t.data) for t in outputs]
        except RuntimeError:
            # an operation without a reference
            outputs.clear()
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    request.infer(dict(enumerate(tensors)))
    return [np.array(request.get_output_tensor(i).data) for i in range(len(model.outputs))]


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - BOUNDARY))
def test_every_operation_has_samples_and_says_what_it_is(name: str) -> None:
    cls = REGISTRY[name]
    assert cls.cases(), f"{name} has no cases()"
    # a dataclass without a docstring gets its signature as one
    assert not (cls.__doc__ or f"{name}(").startswith(f"{name}("), f"{name} has no docstring"
    names = [c.name for c in cls.cases()]
    assert len(set(names)) == len(names), f"two samples of {name} have one name"


@pytest.mark.parametrize("case", CASES)
def test_infer_agrees_with_eval(case: Case) -> None:
    outputs = case.op.eval(*case.inputs)
    types = case.op.infer(args_of(case, set(range(len(case.inputs)))))
    assert len(types) == len(outputs)
    for tensor_type, array in zip(types, outputs, strict=True):
        assert tensor_type.element_type == from_dtype(array.dtype)
        assert tensor_type.shape.allows(array.shape), f"{tensor_type.shape} does not allow {array.shape}"


@pytest.mark.parametrize("case", CASES)
def test_infer_of_dynamic_shapes_allows_the_result(case: Case) -> None:
    """With dimensions or the rank of the data unknown, inference says less, never something wrong."""
    outputs = case.op.eval(*case.inputs)
    known = constants_of(case)
    for unknown in ("dimensions", "rank"):
        args = []
        for i, arg in enumerate(args_of(case, known)):
            if i in known:
                args.append(arg)
                continue
            shape = PartialShape(None) if unknown == "rank" else PartialShape([ANY] * len(arg.shape))
            args.append(arg._replace(shape=shape, value=None))
        types = case.op.infer(args)
        for tensor_type, array in zip(types, outputs, strict=True):
            assert tensor_type.shape.allows(array.shape), f"{unknown}: {tensor_type.shape} does not allow {array.shape}"


@pytest.mark.parametrize("case", CASES)
def test_openvino_gives_the_same(case: Case) -> None:
    expected = openvino_results(case)
    actual = case.op.eval(*case.inputs)
    assert len(actual) == len(expected)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a, e, tolerance_of(case.op), f"{case.op} output {index}")
