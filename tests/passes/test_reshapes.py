"""Reshape targets computed from dynamic shapes."""

from __future__ import annotations

import numpy as np

from lpir.frontends.onnx import read_onnx
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, i64
from lpir.ops.boundary import constant, constant_data, parameter
from lpir.ops.builder import make, make_node
from lpir.passes.manager import transform
from lpir.passes.reshapes import resolve_reshapes
from tests.frontends.networks import evaluate, residual_network
from tests.tolerances import EXACT, assert_close


def dimension(x: Value, axis: int) -> Value:
    shape = make("ShapeOf", x, output_type=i64)
    return make("Gather", shape, constant([axis], np.int64), constant(0, np.int64), batch_dims=0)


def reshaped(x: Value, *parts: Value) -> Value:
    return make("Reshape", x, make("Concat", *parts, axis=0), special_zero=False)


def model_of(x: Node, y: Value) -> Model:
    return Model([make_node("Result", y)], [x])


def target(model: Model) -> list[int] | None:
    data = constant_data(model.results[0].inputs[0].node.inputs[1])
    return None if data is None else data.tolist()


def test_its_own_dimensions_stay() -> None:
    x = parameter([-1, -1, 12], f32, "x")
    y = make("Relu", x.output)
    model = model_of(x, reshaped(y, dimension(x.output, 0), dimension(x.output, 1), constant([3, 4], np.int64)))
    assert resolve_reshapes(model) == 1
    assert target(model) == [0, 0, 3, 4]
    assert str(model.results[0].inputs[0].shape) == "[?,?,3,4]"
    assert resolve_reshapes(model) == 0
    x_data = np.arange(24, dtype=np.float32).reshape(1, 2, 12)
    assert_close(evaluate(model, {"x": x_data})[0], x_data.reshape(1, 2, 3, 4), EXACT)


def test_one_other_length_is_the_rest() -> None:
    x = parameter([-1, -1, 12], f32, "x")
    model = model_of(x, reshaped(x.output, dimension(x.output, 1), constant([12], np.int64)))
    assert resolve_reshapes(model) == 1
    assert target(model) == [-1, 12]


def test_two_other_lengths_stay() -> None:
    x = parameter([-1, -1, 12], f32, "x")
    model = model_of(x, reshaped(x.output, dimension(x.output, 1), dimension(x.output, 0), constant([12], np.int64)))
    assert resolve_reshapes(model) == 0


def test_a_sum_that_may_broadcast_is_not_followed() -> None:
    """x + y may have y's length where x has 1."""
    x, y = parameter([-1, -1], f32, "x"), parameter([-1, -1], f32, "y")
    total = make("Add", x.output, y.output)
    parts = [dimension(x.output, 0), dimension(x.output, 1), constant([1], np.int64)]
    model = Model([make_node("Result", reshaped(total, *parts))], [x, y])
    assert resolve_reshapes(model) == 0


def test_lengths_pass_transposes_and_products() -> None:
    x = parameter([-1, -1, 12], f32, "x")
    turned = make("Transpose", x.output, constant([1, 0, 2], np.int64))
    y = make("MatMul", turned, constant(np.ones((12, 6)), np.float32), transpose_a=False, transpose_b=False)
    model = model_of(x, reshaped(y, dimension(x.output, 1), dimension(x.output, 0), constant([2, 3], np.int64)))
    assert resolve_reshapes(model) == 1
    assert target(model) == [0, 0, 2, 3]


def test_a_dynamic_batch_leaves_no_shape_arithmetic() -> None:
    model = transform(read_onnx(residual_network()))
    assert "ShapeOf" not in {n.op.type_name for n in model.nodes()}
    assert str(model.outputs[0].shape) == "[?,5]"
