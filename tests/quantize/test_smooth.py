"""SmoothQuant: the network stays what it is, and its quantized form comes closer to it."""

from __future__ import annotations

import numpy as np
import pytest

import lpir
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ops.boundary import constant
from lpir.ops.builder import make
from lpir.quantize.config import QuantizationConfig
from lpir.quantize.pipeline import placement_of, traits_of
from lpir.quantize.prepare import prepare
from lpir.quantize.smooth import best_scale, error, smooth
from tests.quantize.graphs import Net, attention, residual
from tests.tolerances import F32_SUM, Tolerance, assert_close

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

CONFIG = QuantizationConfig(model_type="transformer")
# x / s and s * W are rounded once each
RESCALED = Tolerance("RESCALED", "two more roundings a term, sums of 32 terms", rel=2e-6, of_max=2e-6)


def outliers() -> Model:
    """Two layers read a value with channels 60 times as large as others; one of them through a transposed weight."""
    net = Net(1, 20, 32)
    spread = np.where(np.arange(32) % 8 == 3, 60.0, 1.0).astype(np.float32)
    x = make("Multiply", net.input.output, constant(spread, name="spread"), name="wide")
    a = net.linear(x, 24, "a")
    b = make("MatMul", x, net.weight(32, 24, name="b.weight"), name="b", transpose_b=False)
    return net.model(make("Add", a, b, name="sum"))


def smoothed(model: Model, samples: list[list[Array]]) -> tuple[Model, int]:
    copy = prepare(model)
    placement = placement_of(copy, CONFIG, traits_of("CPU"))
    return copy, smooth(copy, placement, samples, "CPU", lambda done: None)


def output(model: Model, x: Array) -> Array:
    return np.asarray(lpir.compile_model(model, "REFERENCE")([x])[0])


def test_the_network_stays_what_it_is() -> None:
    model = outliers()
    x = Net(1, 20, 32, seed=4).samples(3)
    copy, count = smoothed(model, [[s] for s in x])
    assert count == 1
    (divided,) = [n for n in copy.nodes() if n.name == "wide/smooth"]
    assert {use.node.name for use in divided.output.uses} == {"a", "b"}
    assert_close(output(copy, x[0]), output(model, x[0]), RESCALED)


def test_the_quantized_network_comes_closer() -> None:
    model = outliers()
    x = Net(1, 20, 32, seed=4).samples(8)
    expected = output(model, x[0])

    def distance(smooth: bool) -> float:
        config = QuantizationConfig(model_type="transformer", smooth=smooth, correction="none")
        quantized = lpir.quantize(model, [[s] for s in x], config=config, progress=False)
        return float(np.linalg.norm(output(quantized, x[0]) - expected))

    assert distance(True) < 0.7 * distance(False)


def test_the_data_is_read_once() -> None:
    net = attention()
    samples = iter([[s] for s in Net(1, 6, 16, seed=2).samples(13)])
    quantized = lpir.quantize(net, samples, model_type="transformer", progress=False)
    assert [n for n in quantized.nodes() if n.op.type_name == "FakeQuantize"]
    assert next(samples, None) is None


def test_only_transformers_are_smoothed() -> None:
    quantized = lpir.quantize(outliers(), [[s] for s in Net(1, 20, 32).samples(2)], progress=False)
    assert not [n for n in quantized.nodes() if n.name.endswith("/smooth")]
    assert smoothed(residual(), [])[1] == 0


def test_a_weight_that_others_read_is_left_alone() -> None:
    net = Net(1, 20, 32)
    spread = constant(np.where(np.arange(32) == 3, 60.0, 1.0).astype(np.float32))
    x = make("Multiply", net.input.output, spread, name="wide")
    weight = net.weight(32, 32, name="shared")

    def product(y: Value, name: str) -> Value:
        return make("MatMul", y, weight, name=name, transpose_b=True)

    model = net.model(product(x, "first"), product(make("Tanh", x, name="other"), "second"))
    assert smoothed(model, [[s] for s in net.samples(2)])[1] == 0


def test_even_channels_need_no_scale() -> None:
    rng = np.random.default_rng(0)
    x, w = (np.sign(rng.normal(size=shape)).astype(np.float32) for shape in ((64, 16), (16, 8)))
    assert best_scale(x, [w]) is None


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_error_is_that_of_8_bits(scale: float) -> None:
    """Values that are codes already are quantized without error."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (50, 12)).astype(np.float32), rng.integers(-127, 128, (12, 6)).astype(np.float32)
    x[0, 0], x[0, 1], w[0] = 0, 255, 127
    exact = float(np.abs(x @ w).max())
    assert error(x, [w], np.full(12, scale)) <= (F32_SUM.per(12).rel * exact) ** 2 * 300
