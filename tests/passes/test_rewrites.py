"""Every rewrite fires on its example, keeps the answer, and then rests."""

from __future__ import annotations

import numpy as np
import pytest

import lpir.passes.batchnorm
import lpir.passes.compose
import lpir.passes.simplify
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ops.boundary import constant
from lpir.ops.builder import make
from lpir.passes.compose import compose
from lpir.passes.manager import transform
from lpir.passes.rewrite import REWRITES, apply_rewrites, sample
from lpir.passes.simplify import simplify
from tests.frontends.networks import Array, evaluate
from tests.tolerances import EXACT, Tolerance, assert_close

MODULES = (lpir.passes.simplify, lpir.passes.batchnorm, lpir.passes.compose)
RULES = {r.name for m in MODULES for r in m.RULES}
COMPOSED = Tolerance("COMPOSED", "one operation instead of several float32 ones", rel=2e-5, of_max=2e-6)


def feeds(model: Model) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    shapes = {v.node.name: [d.lo if d.is_static else 2 for d in v.shape] for v in model.inputs}
    # above zero, so that powers and roots are defined
    return {name: (rng.random(shape) * 3 + 0.1).astype(np.float32) for name, shape in shapes.items()}


def types_of(model: Model) -> list[str]:
    return [n.op.type_name for n in model.nodes() if n.op.type_name not in ("Parameter", "Constant", "Result")]


def test_every_rewrite_belongs_to_a_pass() -> None:
    assert set(REWRITES) == RULES


@pytest.mark.parametrize("name", sorted(REWRITES))
def test_fires_keeps_the_answer_and_rests(name: str) -> None:
    rule = REWRITES[name]
    model = rule.example()
    given = feeds(model)
    before = evaluate(model, given)
    assert apply_rewrites(model, [rule]) >= 1, "it does not fire on its example"
    model.validate()
    for actual, expected in zip(evaluate(model, given), before, strict=True):
        assert_close(actual, expected, EXACT if rule.exact else COMPOSED)
    assert apply_rewrites(model, [rule]) == 0, "it fires again on its own result"


def f(number: float) -> Value:
    return constant(number, np.float32)


def gelu_variants() -> dict[str, Model]:
    root = f(float(np.sqrt(2)))

    def erf(x: Value) -> Value:
        return make("Add", f(1.0), make("Erf", make("Divide", x, root)))

    def scaled(x: Value) -> Value:
        return make("Add", make("Erf", make("Multiply", x, f(float(np.sqrt(0.5))))), f(1.0))

    return {
        "half first": sample(lambda x: make("Multiply", make("Multiply", f(0.5), x), erf(x)), (2, 8)),
        "half on the gate": sample(lambda x: make("Multiply", x, make("Multiply", erf(x), f(0.5))), (2, 8)),
        "half last": sample(lambda x: make("Multiply", make("Multiply", erf(x), x), f(0.5)), (2, 8)),
        "divided by two": sample(lambda x: make("Divide", make("Multiply", x, scaled(x)), f(2.0)), (2, 8)),
        "of a sum": sample(lambda a, b: make("Multiply", (s := make("Add", a, b)), half(erf(s))), (2, 8), (8,)),
    }


def half(x: Value) -> Value:
    return make("Multiply", x, f(0.5))


@pytest.mark.parametrize("name", ["half first", "half on the gate", "half last", "divided by two", "of a sum"])
def test_gelu_in_every_order(name: str) -> None:
    model = gelu_variants()[name]
    given = feeds(model)
    before = evaluate(model, given)[0]
    compose(model)
    assert types_of(model)[-1] == "Gelu"
    assert_close(evaluate(model, given)[0], before, COMPOSED)


def test_gelu_with_another_number_stays() -> None:
    def almost(x: Value) -> Value:
        return half(make("Multiply", x, make("Add", make("Erf", make("Divide", x, f(1.5))), f(1.0))))

    model = sample(almost, (2, 8))
    assert compose(model) == 0


def test_layer_norm_over_other_axes_stays() -> None:
    def mixed(x: Value) -> Value:
        d = make("Subtract", x, make("ReduceMean", x, constant([0], np.int64), keep_dims=True))
        variance = make("ReduceMean", make("Multiply", d, d), constant([1], np.int64), keep_dims=True)
        return make("Divide", d, make("Sqrt", make("Add", variance, f(1e-5))))

    assert compose(sample(mixed, (2, 8))) == 0


def test_slice_backwards_stays() -> None:
    def reverse(x: Value) -> Value:
        one = [constant([v], np.int64) for v in (-1, -100, -1, 1)]
        return make("Slice", x, *one)

    assert simplify(sample(reverse, (2, 3))) == 0


def test_shared_weights_are_scaled_for_one_reader_only() -> None:
    """Two products of the same weights, one of them scaled."""
    weights = constant(np.eye(3), np.float32)

    def both(x: Value) -> Value:
        plain = make("MatMul", x, weights, transpose_a=False, transpose_b=False)
        scaled = make("MatMul", make("Relu", x), weights, transpose_a=False, transpose_b=False)
        return make("Concat", plain, make("Multiply", scaled, constant([1.0, 2.0, 3.0], np.float32)), axis=0)

    model = sample(both, (2, 3))
    given = feeds(model)
    before = evaluate(model, given)[0]
    transform(model)
    assert "Multiply" not in types_of(model)
    assert_close(evaluate(model, given)[0], before, EXACT)


def test_a_product_that_others_read_keeps_its_weights() -> None:
    weights = constant(np.eye(3), np.float32)

    def both(x: Value) -> Value:
        y = make("MatMul", x, weights, transpose_a=False, transpose_b=False)
        return make("Concat", y, make("Multiply", y, f(2.0)), axis=0)

    assert "Multiply" in types_of(transform(sample(both, (2, 3))))
