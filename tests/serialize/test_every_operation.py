"""Every case of every operation, as a file: equal when read back, and OpenVINO reads the same types from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import lpir.ops  # noqa: F401
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY, Case
from lpir.serialize.names import xml_version
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import to_bytes
from tests.serialize.oracle import evaluate, in_openvino, one_operation

CASES = [
    pytest.param(case, id=f"{name}-{i}{'-' + case.name if case.name else ''}")
    for name, op in sorted(REGISTRY.items())
    if name not in ("Parameter", "Constant", "Result")
    for i, case in enumerate(op.cases())
]


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: Case) -> None:
    model, inputs = one_operation(case)
    xml, weights = to_bytes(model)
    back = read_model(xml, weights)
    (node,) = [n for n in back.nodes() if n.name == "op"]
    assert type(node.op) is type(case.op)
    for field in dataclasses.fields(case.op):
        assert same(getattr(node.op, field.name), getattr(case.op, field.name), field.name, case), field.name
    assert [v.type for v in node.outputs] == [v.type for v in model.results[0].inputs[0].node.outputs]
    assert to_bytes(back) == (xml, weights)
    for actual, expected in zip(evaluate(back, *inputs), evaluate(model, *inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


def same(actual: Any, expected: Any, name: str, case: Case) -> bool:
    # pads mean nothing with these, and are written as zeros
    if name in ("pads_begin", "pads_end") and getattr(case.op, "auto_pad", "") in ("same_upper", "same_lower", "valid"):
        return len(actual) == len(expected)
    if isinstance(actual, Model):
        return to_bytes(actual) == to_bytes(expected)
    return bool(actual == expected)


@pytest.mark.parametrize("case", CASES)
def test_openvino_reads_it(case: Case) -> None:
    model, _ = one_operation(case)
    theirs = in_openvino(model)
    (op,) = [n for n in theirs.get_ops() if n.get_friendly_name() == "op"]
    assert op.get_type_info().version_id == xml_version(case.op)
    for ours, value in zip(model.results[0].inputs[0].node.outputs, op.outputs(), strict=True):
        assert value.get_element_type().get_type_name() == ours.element_type.name
        if ours.shape.is_static and value.get_partial_shape().is_static:
            assert tuple(value.get_shape()) == ours.shape.to_static()
