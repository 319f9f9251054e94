"""What FakeQuantize becomes: codes, exact sums, epilogues, tables, and reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpir.errors import ModelError
from lpir.ir.graph import Node, QuantType, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, u8
from lpir.ops.boundary import Constant, Result, constant, constant_data, parameter
from lpir.ops.builder import make
from lpir.ops.lowered import Elementwise, LoweredConvolution, LoweredMatMul, LoweredNormalize, Table
from lpir.passes.lowprec.clamps import drop_inner_clamps
from lpir.passes.lowprec.forms import quantize, quantize_expr
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import clamp, input_, rint_i32
from tests.passes.networks import GEOMETRY, Builder, finish, mobile_block
from tests.tolerances import EXACT, Tolerance, assert_close

GOLDEN = Path(__file__).parent.parent / "golden"
SAME_CODES = Tolerance(
    "SAME_CODES", "the same integer sums, scaled in another order of float operations", rel=1e-5, abs=1e-5
)


def run(model: Model, *inputs: np.ndarray) -> list[np.ndarray]:  # type: ignore[type-arg]
    return Interpreter(model).create_runner().run(inputs)


def test_mobile_block_is_lowered_as_recorded(golden: bool) -> None:
    """The lowered graph, line by line; renew with `pytest --golden`."""
    text, path = lower_model(mobile_block()).dump(), GOLDEN / "mobile_block.txt"
    if golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("low_precision", [True, False])
def test_mobile_block_agrees_with_the_formula(low_precision: bool) -> None:
    model = mobile_block()
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    assert_close(run(lower_model(model, low_precision), x)[0], run(model, x)[0], SAME_CODES)


def test_nothing_was_refused() -> None:
    lowered = lower_model(mobile_block())
    assert lowered.rt_info["refused"] == {}
    precision = lowered.rt_info["precision"]
    assert {n for n, p in precision.items() if p == "INT8"} >= {"conv1", "conv2", "depthwise", "mean", "flat", "fc"}


def test_sums_are_exact_at_the_extremes() -> None:
    """All activations 255, all weights +-127: int32 sums equal int64 arithmetic."""
    b, channels = Builder(), 512
    image = parameter((1, channels, 4, 4), f32, "x")
    x = b.fake_quantize(image.output, 0, 255, "fq")
    sign = np.where(np.arange(8)[:, None, None, None] % 2, 1, -1)
    codes = (127 * sign * np.ones((8, channels, 3, 3))).astype(np.int8)
    wide = make("Convert", constant(codes), destination_type=f32)
    x = make("Convolution", x, make("Multiply", wide, constant(np.float32(1.0))), name="conv", **GEOMETRY)
    data = np.full((1, channels, 4, 4), 255, np.float32)
    y = run(lower_model(finish(x, image)), data)[0]
    assert y[0, 1, 1, 1] == np.float32(255 * 127 * channels * 9)
    assert y[0, 0, 2, 2] == np.float32(-255 * 127 * channels * 9)


@given(
    st.floats(-4, 4, width=32),
    st.integers(0, 255),
    st.floats(0.0009765625, 2, width=32),
)
def test_codes_follow_the_formula(x: float, zero_point: int, scale: float) -> None:
    """One step off at most, and only within 2 ulp of a tie."""
    inverse = float(np.float32(1 / np.float64(np.float32(scale))))
    got = int(evaluate(quantize_expr(input_(0), inverse, zero_point, 256), [np.array([x], np.float32)])[0])
    place = np.float64(np.float32(x)) / np.float64(np.float32(scale)) + zero_point
    exact = int(np.clip(np.rint(place), 0, 255))
    if got != exact:
        distance = abs(place - np.floor(place) - 0.5)
        assert abs(got - exact) == 1
        assert distance <= 2 * np.spacing(np.float32(max(abs(place), abs(place - zero_point))))


@given(
    st.lists(st.tuples(st.floats(-4, 4, width=32), st.integers(0, 255)), min_size=2, max_size=8),
    st.floats(0.0009765625, 2, width=32),
)
def test_codes_with_zero_points_of_their_own_follow_the_formula(rows: list[tuple[float, int]], scale: float) -> None:
    """The same, where each channel has a zero point."""
    x = np.array([[r[0] for r in rows]], np.float32)
    zero_points = np.array([r[1] for r in rows], np.int32)
    quant = QuantType(u8, np.full(len(rows), scale, np.float32), 0, 1, zero_points)
    op, inputs = quantize(parameter(x.shape, f32, "x").output, quant, 256, False)
    (codes,) = op.eval(x, *(constant_data(v) for v in inputs[1:]))
    places = (x.astype(np.float64) / np.float64(np.float32(scale)) + zero_points)[0]
    for got, place, zero_point in zip(codes[0].astype(int), places, zero_points, strict=True):
        exact = int(np.clip(np.rint(place), 0, 255))
        assert abs(got - exact) <= 1
        if got != exact:
            distance = abs(place - np.floor(place) - 0.5)
            assert distance <= 2 * np.spacing(np.float32(max(abs(place), abs(place - zero_point))))


def test_nan_becomes_the_nearest_even_zero_point() -> None:
    for zero_point, code in ((0, 0), (1, 0), (128, 128), (255, 254)):
        assert evaluate(quantize_expr(input_(0), 2.0, zero_point, 256), [np.array([np.nan], np.float32)])[0] == code


@given(
    st.floats(-10, 10, width=32),
    st.floats(-3, 3, width=32),
    st.floats(0, 8, width=32),
    st.floats(0.0078125, 64, width=32),
    st.integers(0, 128),
)
def test_dropping_clamps_changes_no_bit(x: float, low: float, width: float, factor: float, offset: int) -> None:
    inside = clamp(input_(0), low, float(np.float32(low + width))) * factor
    expr = rint_i32(clamp(inside + float(offset) if offset else inside, 0.0, 255.0))
    values = np.array([x, low, low + width, np.nan, np.inf, -np.inf, 0.0], np.float32)
    assert_close(evaluate(drop_inner_clamps(expr), [values]), evaluate(expr, [values]), EXACT)


def test_relu6_before_a_quantization_of_0_to_6_is_dropped() -> None:
    expr = rint_i32(clamp(clamp(input_(0), 0.0, 6.0) * 42.5, 0.0, 255.0))
    assert str(drop_inner_clamps(expr)) == "rint_i32:i32(minimum(maximum(mul(x0, 42.5), 0.0), 255.0))"


def test_a_unary_chain_between_codes_is_a_table() -> None:
    b = Builder()
    image = parameter((1, 4, 8), f32, "x")
    codes = b.fake_quantize(image.output, -4, 4 * 127 / 128, "fq0")
    moved = make("Transpose", codes, constant(np.array([0, 2, 1])), name="moved")
    y = b.fake_quantize(make("Gelu", moved, approximation_mode="ERF", name="gelu"), -1, 127 / 128 * 4, "fq1")
    lowered = lower_model(finish(y, image))
    assert [n.op.type_name for n in lowered.nodes()].count(Table.type_name) == 1


def test_embedding_rows_stay_in_8_bits() -> None:
    b = Builder()
    indices = parameter((1, 5), f32.__class__("i64", "I64", 64, "i"), "ids")
    x = make("Gather", b.weights((30, 8), name="table"), indices.output, constant(np.int64(0)), name="embedding")
    lowered = lower_model(finish(x, indices))
    stored = [n.op.data for n in lowered.nodes() if isinstance(n.op, Constant) and n.op.data.shape == (30, 8)]
    assert [a.dtype for a in stored] == [np.int8]
    ids = np.array([[0, 29, 3, 3, 7]])
    assert_close(run(lowered, ids)[0], run(finish(x, indices), ids)[0], EXACT)


def _convolution(weights: Value, x: Value) -> Value:
    return make("Convolution", x, weights, name="conv", **GEOMETRY)


def test_refusals_say_why() -> None:
    b = Builder()
    image = parameter((1, 4, 6, 6), f32, "x")
    quantized = b.fake_quantize(image.output, -1, 127 / 128, "fq")
    float_weights = constant(b.rng.normal(size=(4, 4, 3, 3)).astype(np.float32))
    cases = {
        "the weights are not 8-bit constants": _convolution(float_weights, quantized),
        "the input 'x' is not quantized": _convolution(b.weights((4, 4, 3, 3)), image.output),
        "varies inside an output channel": _convolution(b.weights((4, 4, 3, 3), 2), quantized),
    }
    for reason, value in cases.items():
        refused = lower_model(finish(value, image)).rt_info["refused"]
        assert reason in refused["conv"][0]
    ends = ([-1, -2, -3, 0], [254, 253, 252, 255])
    limits = [constant(np.array(v, np.float32).reshape(1, 4, 1, 1)) for v in ends * 2]
    apart = make("FakeQuantize", image.output, *limits, levels=256, name="apart")
    for shape, type, reason in (
        ((4, 4, 3, 3), "Convolution", "several outputs"),
        ((4, 2, 1, 3, 3), "GroupConvolution", "several outputs"),
        ((4, 1, 1, 11, 11), "GroupConvolution", "81 taps"),
    ):
        weights = b.weights(shape, 2 if type == "GroupConvolution" else 1)
        value = make(type, apart, weights, name="conv", **GEOMETRY | {"pads_begin": (5, 5), "pads_end": (5, 5)})
        assert reason in lower_model(finish(value, image)).rt_info["refused"]["conv"][0]
    odd = b.fake_quantize(image.output, -1, 0.9, "odd")
    refused = lower_model(finish(_convolution(b.weights((4, 4, 3, 3)), odd), image)).rt_info["refused"]
    assert "zero is not on a level" in refused["odd"][0]
    wide = b.fake_quantize(image.output, -1, 1, "wide", levels=65536)
    assert "65536 levels" in lower_model(finish(wide, image)).rt_info["refused"]["wide"][0]


def test_two_activations_multiply_as_codes() -> None:
    b = Builder()
    image = parameter((2, 6, 16), f32, "x")
    q = b.fake_quantize(image.output, -3, 3 * 127 / 128, "q")
    k = b.fake_quantize(make("Multiply", image.output, constant(np.float32(0.5))), -1.5, 1.5 * 127 / 128, "k")
    scores = make("MatMul", q, k, transpose_a=False, transpose_b=True, name="scores")
    lowered = lower_model(finish(scores, image))
    products = [n for n in lowered.nodes() if isinstance(n.op, LoweredMatMul)]
    assert len(products) == 1
    assert products[0].inputs[0].element_type.name == "u8"
    x = np.random.default_rng(3).normal(size=(2, 6, 16)).astype(np.float32)
    assert_close(run(lowered, x)[0], run(finish(scores, image), x)[0], SAME_CODES)


def test_convolution_takes_bias_activation_residual_and_quantization() -> None:
    lowered = lower_model(mobile_block())
    kinds = [type(n.op) for n in lowered.nodes()]
    assert kinds.count(LoweredConvolution) == 3
    # only the quantization of the input is left by itself
    assert kinds.count(Elementwise) == 1


def test_a_normalization_that_others_read_gives_codes_too() -> None:
    b, (tokens, width) = Builder(), (5, 32)
    x = parameter((1, tokens, width), f32, "x")
    y = make("MVN", x.output, constant(np.array([-1], np.int64)), eps=1e-5, name="norm")
    y = make("Multiply", y, constant(np.linspace(0.5, 2, width, dtype=np.float32)), name="scaled")
    smooth = make("Multiply", y, constant(np.linspace(1, 3, width, dtype=np.float32)), name="smoothed")
    codes = b.fake_quantize(smooth, -8, 7.9375, "fq")
    product = make("MatMul", codes, b.weights((width, width)), transpose_b=True, name="product")
    model = Model([Node(Result(), [make("Add", product, y, name="residual")], "out")], [x], "encoder")
    lowered = lower_model(model)
    (norm,) = (n for n in lowered.nodes() if isinstance(n.op, LoweredNormalize))
    assert [v.element_type for v in norm.outputs] == [f32, u8]
    assert {"norm", "scaled", "smoothed", "fq"} <= set(norm.source)
    assert not any(isinstance(n.op, Elementwise) for n in lowered.nodes())
    data = np.random.default_rng(1).normal(size=(1, tokens, width)).astype(np.float32)
    assert_close(run(lowered, data)[0], run(model, data)[0], SAME_CODES)


def test_dynamic_shapes_are_not_lowered() -> None:
    image = parameter((-1, 3), f32, "x")
    with pytest.raises(ModelError, match="dynamic shape"):
        lower_model(finish(make("Relu", image.output, name="relu"), image))


def test_the_public_model_is_left_alone() -> None:
    model = mobile_block()
    before = model.dump()
    lower_model(model)
    assert model.dump() == before
    assert all(isinstance(n, Node) for n in model.nodes())


@pytest.mark.parametrize(("zero_point", "dtype"), [(0, np.uint8), (77, np.uint8), (127.5, np.uint8), (-0.5, np.int8)])
def test_asymmetric_weights_stay_integer(zero_point: float, dtype: type) -> None:
    """Codes that need more than 8 bits without their zero point: the sums are still exact."""
    b = Builder()
    image = parameter((1, 5, 6, 6), f32, "x")
    x = b.fake_quantize(image.output, -1, 127 / 128, "fq")
    limits = np.iinfo(dtype)
    codes = b.rng.integers(limits.min, limits.max + 1, (7, 5, 3, 3)).astype(dtype)
    codes.reshape(-1)[:2] = limits.min, limits.max
    wide = make("Convert", constant(codes), destination_type=f32)
    if zero_point:
        wide = make("Subtract", wide, constant(np.float32(zero_point)))
    weights = make("Multiply", wide, constant(np.full((7, 1, 1, 1), 0.25, np.float32)), name="w")
    model = finish(_convolution(weights, x), image)
    lowered = lower_model(model)
    assert lowered.rt_info["precision"]["conv"] == "INT8"
    data = np.random.default_rng(5).normal(size=(1, 5, 6, 6)).astype(np.float32)
    assert_close(run(lowered, data)[0], run(model, data)[0], SAME_CODES)


@pytest.mark.parametrize("grouped", [False, True])
def test_transposed_convolution_in_integers(grouped: bool) -> None:
    b = Builder(8)
    image = parameter((1, 6, 5, 4), f32, "x")
    x = b.fake_quantize(image.output, -1, 127 / 128, "fq")
    shape = (2, 3, 4, 3, 3) if grouped else (6, 4, 3, 3)
    codes = b.rng.integers(-127, 128, shape).astype(np.int8)
    scale = np.ones((2, 1, 4, 1, 1) if grouped else (1, 4, 1, 1)) * b.rng.uniform(0.01, 0.02)
    weights = make(
        "Multiply",
        make("Convert", constant(codes), destination_type=f32),
        constant(scale.astype(np.float32)),
        name="w",
    )
    kind = "GroupConvolutionBackpropData" if grouped else "ConvolutionBackpropData"
    geometry = {"strides": (2, 2), "dilations": (1, 1), "pads_begin": (1, 0), "pads_end": (0, 1)}
    model = finish(make(kind, x, weights, name="up", **geometry), image)
    lowered = lower_model(model)
    assert lowered.rt_info["precision"]["up"] == "INT8"
    data = np.random.default_rng(6).normal(size=(1, 6, 5, 4)).astype(np.float32)
    assert_close(run(lowered, data)[0], run(model, data)[0], SAME_CODES)
