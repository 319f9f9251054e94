"""Weights become exactly the codes that FakeQuantize gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f16, f32
from lpir.ops.boundary import Constant, Result, constant, constant_data, parameter
from lpir.ops.builder import make
from lpir.ops.quantization import FakeQuantize
from lpir.passes.compress import compress_weights, encode
from lpir.runtime.evaluate import Variables, evaluate_node

Array = np.ndarray[Any, np.dtype[Any]]
RANDOM = np.random.default_rng(0)


def model_of(weight: Array, limits: tuple[Any, Any, Any, Any], levels: int) -> Model:
    """x [1, K] times the quantized weight [O, K]."""
    x = parameter((1, weight.shape[1]), f32, "x")
    inputs = [constant(weight, name="w"), *(constant(np.asarray(v, np.float32)) for v in limits)]
    quantized = make("FakeQuantize", *inputs, name="fq", levels=levels)
    y = make("MatMul", x.output, quantized, name="y", transpose_b=True)
    return Model([Node(Result(), [y], "out")], [x])


def parts(model: Model) -> tuple[list[str], Node]:
    """Operation types from the weight's constant to the MatMul, and the constant's node."""
    node = next(n for n in model.nodes() if n.op.type_name == "MatMul").inputs[1].node
    kinds = []
    while node.op.type_name != "Constant":
        kinds.insert(0, node.op.type_name)
        node = node.inputs[0].node
    return kinds, node


# limits, levels -> element type of the codes, subtract, smallest and largest code of -2 .. 2 (OpenVINO's results)
CASES = [
    ((-1, 1, -1, 1), 255, "i8", False, -127, 127),
    ((-128 / 127, 1, -128 / 127, 1), 256, "i8", False, -128, 127),
    ((-1, 1, -1, 1), 256, "i8", True, -128, 127),
    ((0, 1.5, 0, 1.5), 256, "u8", False, 0, 255),
    ((0.5, 1.5, 0.5, 1.5), 256, "u8", True, 0, 255),
    ((-1, 0, -1, 0), 256, "i8", True, -128, 127),
    ((-1, 1, -1, 1), 15, "i4", False, -7, 7),
    ((-8 / 7, 1, -8 / 7, 1), 16, "i4", False, -8, 7),
    ((0, 1, 0, 1), 16, "u4", False, 0, 15),
    ((-1, 1, -1, 1), 3, "i4", False, -1, 1),
    ((-1, 1, -1, 1), 128, "i8", True, -64, 63),
    ((-1, 1, -0.25, 0.25), 255, "i8", False, -127, 127),
    ((-1, 1, 0.25, -0.25), 255, "i8", False, -127, 127),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_known_cases(case: Any) -> None:
    limits, levels, kind, subtract, smallest, largest = case
    weight = np.linspace(-2, 2, 1001, dtype=np.float32).reshape(7, 143)
    model = model_of(weight, limits, levels)
    before = model.nodes()
    quantized = next(n for n in before if n.op.type_name == "FakeQuantize")
    expected = evaluate_node(quantized, [constant_data(v) for v in quantized.inputs], Variables())[0]  # type: ignore[misc]
    assert compress_weights(model) == 1
    kinds, source = parts(model)
    assert kinds == ["Convert", "Subtract", "Multiply"] if subtract else ["Convert", "Multiply"]
    assert source.output.element_type.name == kind
    codes = np.asarray(constant_data(source.output)).astype(np.int32)
    assert (codes.min(), codes.max()) == (smallest, largest)
    step = abs(limits[3] - limits[2]) / (levels - 1)
    # in float32 both have a rounding or two of their own
    assert np.abs(value_of(model) - expected).max() <= 2e-5 * step + 2.4e-7 * np.abs(expected).max()
    assert model.nodes()[-1].op.type_name == "Result"


def value_of(model: Model) -> Array:
    """What the MatMul's weight port reads."""

    def compute(node: Node) -> Array:
        return evaluate_node(node, [compute(v.node) for v in node.inputs], Variables())[0]

    return compute(next(n for n in model.nodes() if n.op.type_name == "MatMul").inputs[1].node)


limit = st.floats(-4, 4, width=32)


@given(st.integers(3, 256), limit, limit, st.integers(0, 2**32 - 1))
def test_codes_equal_fake_quantize_on_the_integers(levels: int, a: float, b: float, seed: int) -> None:
    low, high = np.float32(min(a, b)), np.float32(max(a, b))
    if high - low < 1e-3:
        high = np.float32(low + 1)
    weight = (np.random.default_rng(seed).standard_normal((5, 9)) * 3).astype(np.float32)
    codes = encode(weight, (low, high, low, high), levels)
    first = 0 if low >= 0 else -(levels // 2)
    grid = np.float32(first), np.float32(first + levels - 1)
    expected = np.rint(FakeQuantize(levels).eval(weight, low, high, *grid)[0]).astype(np.int64)
    actual = codes.data.astype(np.int64)
    if codes.zero_point is None:
        # a whole zero point moved into the codes: every code is off by the same number
        moved = np.unique(expected - actual)
        assert moved.size == 1
        assert abs(-low / codes.scale + first - moved[0]) < 1e-3
    else:
        assert np.array_equal(actual, expected)
    real = FakeQuantize(levels).eval(weight, low, high, low, high)[0]
    shift = np.float32(0) if codes.zero_point is None else codes.zero_point
    step = float((high - low) / (levels - 1))
    off = max(abs(float(low)), abs(float(high))) / step
    # a zero point this near to a whole number moves into the codes; as a float32 of `off` steps it is rounded itself
    near = 1e-4 if codes.zero_point is None else 2e-5
    assert np.abs((codes.data.astype(np.float32) - shift) * codes.scale - real).max() <= step * (near + off * 3e-7)


def test_a_channel_without_width_gets_scale_zero() -> None:
    weight = RANDOM.standard_normal((2, 4)).astype(np.float32)
    high = np.array([[0.0], [1.0]], np.float32)
    codes = encode(weight, (-high, high, -high, high), 255)
    assert codes.scale.reshape(-1).tolist()[0] == 0


@pytest.mark.parametrize("levels", [2, 257, 65536])
def test_other_level_counts_are_left_alone(levels: int) -> None:
    model = model_of(np.ones((2, 3), np.float32), (-1, 1, -1, 1), levels)
    assert compress_weights(model) == 0
    assert any(n.op.type_name == "FakeQuantize" for n in model.nodes())


def test_activations_are_left_alone() -> None:
    x = parameter((1, 3), f32, "x")
    limits = [constant(np.float32(v)) for v in (0, 1, 0, 1)]
    y = make("FakeQuantize", x.output, *limits, name="fq", levels=256)
    assert compress_weights(Model([Node(Result(), [y], "out")], [x])) == 0


def test_half_precision_is_compressed_in_float32() -> None:
    """In float16 arithmetic a whole step is lost; the codes must be those of float32."""
    weight = RANDOM.standard_normal((4, 64)).astype(np.float16)
    x = parameter((1, 64), f16, "x")
    limits = [constant(np.float16(v)) for v in (-2, 2, -2, 2)]
    quantized = make("FakeQuantize", constant(weight), *limits, name="fq", levels=255)
    model = Model([Node(Result(), [make("MatMul", x.output, quantized, name="y", transpose_b=True)], "out")], [x])
    assert compress_weights(model) == 1
    source = parts(model)[1]
    expected = np.rint(np.clip(weight.astype(np.float64), -2, 2) * 63.5).astype(np.int8)
    assert np.array_equal(np.asarray(constant_data(source.output)), expected)
    assert isinstance(source.op, Constant)
