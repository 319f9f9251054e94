"""Few levels, 4-bit weights, zero points on both sides, scales along an axis: INT8, and the bits of the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, i4, u4
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make, make_node
from lpir.passes.compress import compress_weights
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.passes.networks import GEOMETRY
from tests.passes.test_lowering import SAME_CODES
from tests.tolerances import EXACT, assert_close

Array = np.ndarray
ISAS = pytest.mark.parametrize("isa", [isa.name for isa in all_isas() if isa.available()])
UNPADDED = GEOMETRY | {"pads_begin": (0, 0), "pads_end": (0, 0)}
# low, high, levels
ACTIVATIONS = [(-1, 127 / 128, 256), (-1, 1, 255), (0, 1, 100), (-1, 7 / 8, 16), (0, 3, 4), (0, 1, 2), (-254, 1, 256)]
WEIGHTS = [
    (-1, 1, 255),
    (-1, 0.5, 256),
    (-1, 7 / 8, 16),
    (-1, 1, 16),
    (0, 1, 16),
    (-0.5, 1, 16),
    (-1, 1, 15),
    (-1, 1, 3),
]
KINDS = {"convolution": (20, 9, 3, 3), "depthwise": (9, 1, 1, 3, 3), "matmul": (20, 36)}


def fake_quantize(x: Value, low: object, high: object, levels: int, name: str) -> Value:
    limits = [constant(np.asarray(v, np.float32)) for v in (low, high, low, high)]
    return make("FakeQuantize", x, *limits, levels=levels, name=name)


def layer(kind: str, x: Value, w: Value, name: str, geometry: dict[str, object] = GEOMETRY) -> Value:
    if kind == "matmul":
        flat = make("Reshape", x, constant(np.array([9, 36])), special_zero=False)
        return make("MatMul", flat, w, transpose_a=False, transpose_b=True, name=name)
    return make({"convolution": "Convolution", "depthwise": "GroupConvolution"}[kind], x, w, name=name, **geometry)


def model_of(outputs: Sequence[Value], *inputs: Node) -> Model:
    return Model([Node(Result(), [y], f"out{i}") for i, y in enumerate(outputs)], list(inputs))


def check(model: Model, isa: str, names: Sequence[str], *data: Array) -> None:
    """The layers run in INT8, with the bits of the lowered reference, and mean what FakeQuantize's formula says."""
    formula = Interpreter(model).create_runner().run(data)
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa})
    rows = {row.name: row for row in compiled.explain().rows}
    assert {name: rows[name].reasons for name in names if rows[name].precision != "INT8"} == {}
    actual = compiled(list(data))
    compress_weights(model)
    lowered = Interpreter(lower_model(model)).create_runner().run(data)
    for index, (expected, meant) in enumerate(zip(lowered, formula, strict=True)):
        assert_close(np.asarray(actual[index]), expected, EXACT)
        assert_close(np.asarray(actual[index]), meant, SAME_CODES)


@ISAS
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_levels(isa: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    image = parameter((1, 9, 6, 6), f32, "x")
    codes = [fake_quantize(image.output, *a, f"x{i}") for i, a in enumerate(ACTIVATIONS)]
    floats = rng.uniform(-1.2, 1.2, KINDS[kind]).astype(np.float32)
    weights = [fake_quantize(constant(floats), *w, f"w{i}") for i, w in enumerate(WEIGHTS)]
    pairs = [(x, w, f"{kind}{i}_{j}") for i, x in enumerate(codes) for j, w in enumerate(weights)]
    model = model_of([layer(kind, *pair) for pair in pairs], image)
    check(model, isa, [name for _, _, name in pairs], rng.uniform(-1.3, 1.3, (1, 9, 6, 6)).astype(np.float32))


@ISAS
@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_as_a_file_stores_them(isa: str, kind: str) -> None:
    """Constant i4 or u4, a zero point a channel or none, all codes at a limit among them."""
    rng, shape = np.random.default_rng(1), KINDS[kind]
    image = parameter((1, 9, 6, 6), f32, "x")
    x = fake_quantize(image.output, 0, 1, 256, "fq")
    scale = constant(rng.uniform(0.01, 0.1, (shape[0], *[1] * (len(shape) - 1))).astype(np.float32))
    outputs, names = [], []
    for type in (i4, u4):
        low, high = type.limits
        for zero_point in (None, np.float32(3), rng.integers(0, 8, scale.node.outputs[0].shape.to_static())):
            for codes in (rng.integers(low, high + 1, shape), np.full(shape, low), np.full(shape, high)):
                w = make("Convert", constant(codes.astype(type.dtype), type), destination_type=f32)
                if zero_point is not None:
                    w = make("Subtract", w, constant(np.asarray(zero_point, np.float32)))
                names.append(f"{kind}{len(names)}")
                outputs.append(layer(kind, x, make("Multiply", w, scale), names[-1]))
    data = np.where(rng.random((1, 9, 6, 6)) < 0.7, 1, rng.random((1, 9, 6, 6))).astype(np.float32)
    check(model_of(outputs, image), isa, names, data)


@ISAS
@pytest.mark.parametrize("kind", KINDS)
def test_zero_outside_of_the_range(isa: str, kind: str) -> None:
    """A range that leaves out zero has a zero point that is no code; without padding nothing needs it."""
    image = parameter((1, 9, 6, 6), f32, "x")
    w = constant(np.random.default_rng(2).uniform(-1, 1, KINDS[kind]).astype(np.float32))
    names, outputs = [], []
    for low, high in ((1, 2), (-2, -1), (100, 101)):
        names.append(f"{kind}{low}")
        x = fake_quantize(image.output, low, high, 256, f"fq{low}")
        outputs.append(layer(kind, x, fake_quantize(w, -1, 1, 255, f"w{low}"), names[-1], UNPADDED))
    data = np.random.default_rng(3).uniform(-3, 102, (1, 9, 6, 6)).astype(np.float32)
    check(model_of(outputs, image), isa, names, data)


def test_padding_needs_a_code_for_zero() -> None:
    image = parameter((1, 9, 6, 6), f32, "x")
    w = fake_quantize(constant(np.ones((20, 9, 3, 3), np.float32)), -1, 1, 255, "w")
    model = model_of([layer("convolution", fake_quantize(image.output, 1, 2, 256, "fq"), w, "layer")], image)
    data = np.random.default_rng(4).uniform(0, 3, (1, 9, 6, 6)).astype(np.float32)
    compiled = lpir.compile_model(model, "CPU")
    row = next(row for row in compiled.explain().rows if row.name == "layer")
    assert row.reasons == ("padding has no code: the zero point is -255",)
    assert_close(np.asarray(compiled(data)[0]), Interpreter(model).create_runner().run([data])[0], SAME_CODES)


def along(axis: int, rank: int, n: int) -> Array:
    """`n` different upper limits along an axis, each a whole number of steps."""
    return np.linspace(0.5, 2, n, dtype=np.float32).reshape([n if i == axis else 1 for i in range(rank)])


@ISAS
def test_activations_with_a_scale_a_channel(isa: str) -> None:
    """Where channels are not summed: depthwise convolution and pooling."""
    rng, image = np.random.default_rng(5), parameter((2, 9, 6, 6), f32, "x")
    high = along(1, 4, 9)
    x = fake_quantize(image.output, np.zeros_like(high), high, 256, "fq")
    w = fake_quantize(constant(rng.uniform(-1, 1, (9, 2, 1, 3, 3)).astype(np.float32)), -1, 1, 255, "w")
    window = {"strides": (2, 2), "pads_begin": (1, 1), "pads_end": (1, 1), "kernel": (3, 3)}
    outputs = [
        layer("depthwise", x, w, "depthwise"),
        make("AvgPool", x, exclude_pad=True, name="average", **window),
        make_node("MaxPool", x, dilations=(1, 1), name="maximum", **window).outputs[0],
    ]
    data = rng.uniform(-1, 3, (2, 9, 6, 6)).astype(np.float32)
    check(model_of(outputs, image), isa, ["depthwise", "average", "maximum"], data)


@ISAS
def test_products_with_scales_along_an_axis(isa: str) -> None:
    """Rows, columns and heads may each have a scale, as long as it does not vary inside a sum."""
    rng = np.random.default_rng(6)
    first, second = parameter((2, 3, 5, 16), f32, "a"), parameter((2, 3, 7, 16), f32, "b")
    w = fake_quantize(constant(rng.uniform(-1, 1, (20, 16)).astype(np.float32)), -1, 1, 255, "w")
    outputs, names = [], []
    for axis, size in ((1, 3), (2, 5)):
        a = fake_quantize(first.output, -along(axis, 4, size), along(axis, 4, size), 255, f"a{axis}")
        names.append(f"weights{axis}")
        outputs.append(make("MatMul", a, w, transpose_a=False, transpose_b=True, name=names[-1]))
        for other, count in ((1, 3), (2, 7)):
            b = fake_quantize(second.output, -along(other, 4, count), along(other, 4, count), 255, f"b{axis}{other}")
            names.append(f"codes{axis}{other}")
            outputs.append(make("MatMul", a, b, transpose_a=False, transpose_b=True, name=names[-1]))
    data = [rng.uniform(-2, 2, shape).astype(np.float32) for shape in ((2, 3, 5, 16), (2, 3, 7, 16))]
    check(model_of(outputs, first, second), isa, names, *data)


def test_a_scale_that_varies_inside_a_sum_is_refused() -> None:
    first, second = parameter((3, 7, 16), f32, "a"), parameter((3, 7, 16), f32, "b")
    plain = fake_quantize(first.output, -1, 1, 255, "plain")
    a = fake_quantize(first.output, -along(2, 3, 16), along(2, 3, 16), 255, "fa")
    b = fake_quantize(second.output, -along(2, 3, 16), along(2, 3, 16), 255, "fb")
    turned = {"transpose_a": False, "transpose_b": True}
    outputs = [make("MatMul", a, plain, name="left", **turned), make("MatMul", plain, b, name="right", **turned)]
    refused = lower_model(model_of(outputs, first, second)).rt_info["refused"]
    assert refused["left"] == ["the input's scale varies along the axis that is summed"]
    assert refused["right"] == ["the second input's scale varies along the axis that is summed"]
