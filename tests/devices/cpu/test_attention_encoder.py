"""A transformer encoder with FakeQuantize where NNCF puts it: attention is one step, the rest flows as codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lpir
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import constant, parameter
from lpir.ops.builder import make
from lpir.ops.lowered_attention import LoweredAttention
from lpir.passes.lowprec import lower
from lpir.runtime.interpreter import Interpreter
from tests.devices.cpu.harness import HOST_ISAS, Array
from tests.passes.networks import Builder, finish
from tests.tolerances import EXACT, Tolerance, assert_close

TOKENS, HEADS, WIDTH, INNER = 21, 3, 48, 96
ISA_NAMES = [isa.name for isa in HOST_ISAS]
# sums of softmax and MVN in another order move a value across a rounding of the next FakeQuantize now and then
FLIPPED = Tolerance("FLIPPED", "a code that flips at a tie, carried through three products", of_max=0.02)
FLOATS = Tolerance("FLOATS", "float sums of a whole encoder in another order", rel=2e-5, of_max=2e-5)


def symmetric(limit: float) -> tuple[float, float]:
    return -limit, limit * 127 / 128


class Encoder(Builder):
    """Layers over [1, TOKENS, channels]."""

    def __init__(self, quantized: bool) -> None:
        super().__init__(3)
        self.quantized = quantized

    def quantize(self, x: Value, name: str, limit: float = 4.0) -> Value:
        return self.fake_quantize(x, *symmetric(limit), name) if self.quantized else x

    def dense(self, x: Value, inputs: int, outputs: int, name: str) -> Value:
        weights = self.weights((outputs, inputs), name=f"{name}/w")
        x = make("MatMul", x, weights, transpose_a=False, transpose_b=True, name=name)
        return make("Add", x, constant(self.rng.normal(size=(1, 1, outputs)).astype(np.float32)), name=f"{name}/bias")

    def normalize(self, x: Value, name: str) -> Value:
        gain, shift = (self.rng.uniform(0.5, 1.5, (1, 1, WIDTH)).astype(np.float32) for _ in range(2))
        y = make("MVN", x, constant(np.array([2])), eps=1e-6, name=f"{name}/mvn")
        return make("Add", make("Multiply", y, constant(gain)), constant(shift), name=name)

    def heads(self, x: Value, order: tuple[int, ...]) -> Value:
        split = make("Reshape", x, constant(np.array([0, 0, HEADS, WIDTH // HEADS])), special_zero=True)
        return make("Transpose", split, constant(np.array(order)))

    def attention(self, x: Value, mask: Value, turned: bool, whole: bool) -> Value:
        q, k, v = (self.dense(x, WIDTH, WIDTH, name) for name in "qkv")
        q, k = self.quantize(q, "q/fq", 3.0), self.quantize(k, "k/fq", 2.5)
        if whole:
            parts = [self.heads(part, (0, 2, 1, 3)) for part in (q, k, v)]
            return self.joined(make("ScaledDotProductAttention", *parts, mask, name="scores"))
        right = self.heads(k, (0, 2, 3, 1) if turned else (0, 2, 1, 3))
        scores = make(
            "MatMul", self.heads(q, (0, 2, 1, 3)), right, transpose_a=False, transpose_b=not turned, name="scores"
        )
        scaled = make("Multiply", scores, constant(np.float32(0.25)), name="scale")
        weights = make("Softmax", make("Add", scaled, mask, name="mask"), axis=-1, name="softmax")
        mixed = make("MatMul", weights, self.heads(v, (0, 2, 1, 3)), transpose_a=False, transpose_b=False, name="mixed")
        return self.joined(mixed)

    def joined(self, mixed: Value) -> Value:
        back = make("Transpose", mixed, constant(np.array([0, 2, 1, 3])), name="back")
        return make("Reshape", back, constant(np.array([0, 0, WIDTH])), special_zero=True, name="joined")

    def smooth(self, x: Value, name: str) -> Value:
        """SmoothQuant's Multiply in front of a FakeQuantize."""
        return make("Multiply", x, constant(self.rng.uniform(0.5, 1.0, (1, 1, WIDTH)).astype(np.float32)), name=name)


def encoder(quantized: bool = True, turned: bool = False, whole: bool = False) -> Model:
    """`turned`: keys are transposed once more; `whole`: attention is one public operation."""
    b = Encoder(quantized)
    tokens = parameter((1, TOKENS, WIDTH), f32, "tokens")
    # the last tokens are padding
    mask = constant(
        np.where(np.arange(TOKENS) < 17, 0, np.finfo(np.float32).min).astype(np.float32).reshape(1, 1, 1, -1)
    )
    x = b.normalize(tokens.output, "first")
    y = b.attention(b.quantize(b.smooth(x, "smooth1"), "x/fq"), mask, turned, whole)
    y = b.dense(b.quantize(b.smooth(y, "smooth2"), "joined/fq"), WIDTH, WIDTH, "out")
    x = b.normalize(make("Add", x, y, name="residual1"), "second")
    y = make("Gelu", b.dense(b.quantize(b.smooth(x, "smooth3"), "second/fq"), WIDTH, INNER, "inner"), name="gelu")
    y = b.dense(b.quantize(y, "gelu/fq", 6.0), INNER, WIDTH, "outer")
    return finish(b.normalize(make("Add", x, y, name="residual2"), "third"), tokens)


def projections() -> Model:
    """What attention reads: the codes of q."""
    b = Encoder(True)
    tokens = parameter((1, TOKENS, WIDTH), f32, "tokens")
    q = b.quantize(b.dense(b.quantize(tokens.output, "x/fq"), WIDTH, WIDTH, "q"), "q/fq", 3.0)
    return finish(b.heads(q, (0, 2, 1, 3)), tokens)


def feed_forward() -> Model:
    """Codes to codes through GELU, whose saturating pack replaces the clamp."""
    b = Encoder(True)
    tokens = parameter((1, TOKENS, WIDTH), f32, "tokens")
    hidden = b.dense(b.quantize(tokens.output, "x/fq"), WIDTH, INNER, "inner")
    return finish(b.quantize(make("Gelu", hidden, name="gelu"), "gelu/fq", 0.7), tokens)


def tokens() -> Array:
    return np.random.default_rng(5).normal(size=(1, TOKENS, WIDTH)).astype(np.float32)


def on_cpu(model: Model, isa: str, threads: int = 2) -> Array:
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa, "INFERENCE_NUM_THREADS": threads})
    return np.asarray(compiled.create_infer_request().infer([tokens()])[0])


def by_reference(model: Model) -> Array:
    """The lowered graph in NumPy."""
    return np.asarray(Interpreter(lower.lower_model(model)).create_runner().run([tokens()])[0])


@pytest.mark.parametrize("isa", ISA_NAMES)
@pytest.mark.parametrize(("turned", "whole"), [(False, False), (True, False), (False, True)])
def test_quantized_encoder(isa: str, turned: bool, whole: bool) -> None:
    model = encoder(turned=turned, whole=whole)
    assert_close(on_cpu(model, isa), by_reference(model), FLIPPED)


@pytest.mark.parametrize("isa", ISA_NAMES)
def test_float_encoder(isa: str) -> None:
    model = encoder(quantized=False)
    assert_close(on_cpu(model, isa), by_reference(model), FLOATS)


@pytest.mark.parametrize("isa", ISA_NAMES)
@pytest.mark.parametrize("part", [projections, feed_forward])
def test_codes_are_bit_identical(isa: str, part: Callable[[], Model]) -> None:
    model = part()
    assert_close(on_cpu(model, isa), by_reference(model), EXACT)


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_joining_changes_no_bit_of_the_reference(
    quantized: bool, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = encoder(quantized, turned)
    joined = by_reference(model)
    monkeypatch.setattr(lower, "join_attention", lambda lowered: None)
    assert_close(joined, by_reference(model), EXACT)


def test_attention_is_one_operation() -> None:
    lowered = lower.lower_model(encoder())
    kinds = [n.op.type_name for n in lowered.nodes()]
    assert kinds.count("LoweredAttention") == 1
    assert not {"LoweredSoftmax", "Transpose"} & set(kinds)
    (op,) = [n.op for n in lowered.nodes() if isinstance(n.op, LoweredAttention)]
    assert op.head_axes == (2, 2, 2, 2)
    # SmoothQuant and the FakeQuantize behind the joined heads are its epilogue
    assert op.epilogue.type.name == "u8"


def test_the_public_operation_multiplies_codes() -> None:
    lowered = lower.lower_model(encoder(whole=True))
    (node,) = [n for n in lowered.nodes() if isinstance(n.op, LoweredAttention)]
    assert [v.element_type.name for v in node.inputs[:3]] == ["u8", "u8", "f32"]
    assert not [n for n in lowered.nodes() if n.op.type_name == "Transpose"]
    assert lowered.rt_info["precision"]["scores"] == "INT8"
    assert not lowered.rt_info["refused"]


def test_nothing_runs_through_eval() -> None:
    explanation = lpir.compile_model(encoder(), "CPU").explain()
    assert not explanation.refused()
    rows = {r.name: r for r in explanation.rows}
    assert rows["scores"].kernel == "attention"
    assert all(rows[name].part_of == "scores" for name in ("scale", "mask", "softmax", "mixed", "back", "joined/fq"))
    assert not [r.name for r in explanation.rows if r.kernel == "eval"]


def test_a_softmax_that_others_read_stays() -> None:
    b = Encoder(False)
    x = parameter((1, TOKENS, WIDTH), f32, "tokens")
    q = b.heads(x.output, (0, 2, 1, 3))
    weights = make("Softmax", make("MatMul", q, q, transpose_a=False, transpose_b=True), axis=-1)
    mixed = make("MatMul", weights, q, transpose_a=False, transpose_b=False)
    total = make("ReduceSum", weights, constant(np.array([3])), keep_dims=True)
    lowered = lower.lower_model(finish(make("Add", mixed, total), x))
    assert "LoweredSoftmax" in [n.op.type_name for n in lowered.nodes()]
