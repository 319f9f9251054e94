"""Constant folding, merging of equal nodes, removal of unused ones."""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ir.types import f32, i64
from lpir.ops.boundary import Constant, constant
from lpir.ops.builder import make
from lpir.passes.cse import merge_equal_nodes
from lpir.passes.dce import remove_unused
from lpir.passes.fold import fold_constants
from lpir.passes.manager import transform
from lpir.passes.rewrite import sample
from tests.frontends.networks import evaluate
from tests.tolerances import EXACT, assert_close


def types_of(model: Model) -> list[str]:
    return [n.op.type_name for n in model.nodes() if n.op.type_name not in ("Parameter", "Constant", "Result")]


def ints(*values: int) -> Value:
    return constant(np.array(values, np.int64))


def test_arithmetic_on_constants_folds() -> None:
    model = sample(
        lambda x: make("Add", x, make("Multiply", constant(2.0, np.float32), constant(3.0, np.float32))), (2,)
    )
    assert fold_constants(model) == 1
    assert types_of(model) == ["Add"]
    assert_close(evaluate(model, {"x0": np.ones(2, np.float32)})[0], np.full(2, 7, np.float32), EXACT)


def shape_arithmetic(x: Value) -> Value:
    """x as [batch, the rest], by way of its shape."""
    batch = make(
        "Gather", make("ShapeOf", x, output_type=i64), constant(0, np.int64), constant(0, np.int64), batch_dims=0
    )
    target = make("Concat", make("Unsqueeze", batch, ints(0)), ints(-1), axis=0)
    return make("Reshape", x, target, special_zero=False)


def test_shape_arithmetic_folds_when_the_shape_is_known() -> None:
    model = sample(shape_arithmetic, (2, 3, 4))
    fold_constants(model)
    assert types_of(model) == ["Reshape"]
    assert str(model.outputs[0].shape) == "[2,12]"


def test_shape_arithmetic_stays_while_it_is_dynamic() -> None:
    model = sample(shape_arithmetic, (2, 3, 4))
    model.reshape([-1, 3, 4])
    fold_constants(model)
    assert "ShapeOf" in types_of(model)
    model.reshape([5, 3, 4])
    fold_constants(model)
    assert types_of(model) == ["Reshape"]


def test_known_part_of_a_dynamic_shape_folds() -> None:
    def channels(x: Value) -> Value:
        shape = make("ShapeOf", x, output_type=i64)
        return make("Gather", shape, constant(1, np.int64), constant(0, np.int64), batch_dims=0)

    model = sample(channels, (2, 3))
    fold_constants(model)
    assert types_of(model) == []


def test_compressed_weights_and_fake_quantize_stay() -> None:
    limits = [constant(v, np.float32) for v in (-1.0, 1.0, -1.0, 1.0)]

    def weights(x: Value) -> Value:
        codes = constant(np.arange(12).reshape(3, 4), np.int8)
        real = make("Multiply", make("Convert", codes, destination_type=f32), constant(np.ones((1, 4)), np.float32))
        fake = make("FakeQuantize", constant(np.ones((4, 2)), np.float32), *limits, levels=255)
        y = make("MatMul", x, real, transpose_a=False, transpose_b=False)
        return make("MatMul", y, fake, transpose_a=False, transpose_b=False)

    model = sample(weights, (2, 3))
    transform(model)
    assert sorted(types_of(model)) == ["Convert", "FakeQuantize", "MatMul", "MatMul", "Multiply"]


def test_a_large_broadcast_of_a_number_stays() -> None:
    model = sample(lambda x: make("Broadcast", constant(0.0, np.float32), ints(1 << 20), mode="numpy"), (1,))
    assert fold_constants(model) == 0


def test_equal_nodes_and_constants_merge() -> None:
    def twice(x: Value) -> Value:
        a = make("Add", x, constant(1.0, np.float32))
        b = make("Add", x, constant(1.0, np.float32))
        return make("Multiply", a, b)

    model = sample(twice, (2,))
    assert merge_equal_nodes(model) == 2
    assert types_of(model) == ["Add", "Multiply"]
    left, right = model.results[0].inputs[0].node.inputs
    assert left is right


def test_constants_of_other_types_do_not_merge() -> None:
    model = sample(
        lambda x: make("Reshape", x, make("Concat", ints(1), make("Convert", narrow(1), destination_type=i64), axis=0)),
        (1,),
    )
    assert merge_equal_nodes(model) == 0


def narrow(*values: int) -> Value:
    return constant(np.array(values, np.int32))


def test_unused_nodes_let_go() -> None:
    model = sample(lambda x: make("Relu", x), (2,))
    make("Exp", model.inputs[0])
    assert len(model.inputs[0].uses) == 2
    assert remove_unused(model) == 1
    assert len(model.inputs[0].uses) == 1


def test_folded_scalars_keep_their_rank() -> None:
    model = sample(lambda x: make("Add", x, make("Negative", constant(1.0, np.float32))), (2,))
    fold_constants(model)
    found = [n.op.data.shape for n in model.nodes() if isinstance(n.op, Constant)]
    assert found == [()]
