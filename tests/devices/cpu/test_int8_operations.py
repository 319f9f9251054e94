"""Operations beside convolutions stay in INT8: a small network for each, native on every ISA, the reference's bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make, make_node
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.passes.networks import GEOMETRY, Builder
from tests.tolerances import EXACT, assert_close

ISAS = [isa.name for isa in all_isas() if isa.available()]
SHAPE = (1, 8, 6, 6)


class Network(Builder):
    """A quantized input, a convolution in front and one behind what is tested, so that codes come and go."""

    def __init__(self) -> None:
        super().__init__(7)
        self.image = parameter(SHAPE, f32, "x")

    def codes(self, x: Value, name: str = "fq", reach: float = 4.0) -> Value:
        return self.fake_quantize(x, -reach, reach * 127 / 128, name)

    def first(self, name: str = "conv") -> Value:
        x = self.codes(self.image.output, f"{name}/fq", 2.0)
        return make("Convolution", x, self.weights((8, 8, 3, 3), name=f"{name}/w"), name=name, **GEOMETRY)

    def last(self, x: Value) -> Model:
        """`x` (quantized) through a convolution to the result."""
        channels = x.shape[1].length
        y = make("Convolution", x, self.weights((4, channels, 3, 3), name="end/w"), name="end", **GEOMETRY)
        return Model([Node(Result(), [y], "out")], [self.image], "net")


def residual(n: Network) -> Model:
    """The sum is part of the convolution before it."""
    skip = n.codes(n.first("skip"), "fq1")
    return n.last(n.codes(make("Add", n.first(), skip, name="tested"), "fq2"))


def two_codes(type: str) -> Callable[[Network], Model]:
    """Both operands are codes that others read too."""

    def build(n: Network) -> Model:
        a, b = n.codes(make("Relu", n.codes(n.first(), "fq1")), "fq2"), n.codes(n.first("other"), "fq3", 3.0)
        both = n.codes(make(type, a, b, name="tested"), "fq4", 9.0)
        parts = [make("Convolution", v, n.weights((8, 8, 3, 3)), **GEOMETRY) for v in (a, b)]
        return n.last(make("Concat", both, *(n.codes(v, f"fq{i}", 9.0) for i, v in enumerate(parts, 5)), axis=1))

    return build


def simple(type: str, *constants: Any, **attributes: Any) -> Callable[[Network], Model]:
    """One operation on codes, whose result is quantized alike."""

    def build(n: Network) -> Model:
        x = n.codes(n.first(), "fq1")
        y = make_node(type, x, *(constant(c) for c in constants), name="tested", **attributes).outputs[0]
        return n.last(n.codes(y, "fq2"))

    return build


def concat(n: Network) -> Model:
    parts = [n.codes(n.first(name), f"{name}/out") for name in ("a", "b")]
    return n.last(make("Concat", *parts, axis=1, name="tested"))


def concat_apart(n: Network) -> Model:
    """Parts with three meanings, one of them float; all are quantized to the meaning that follows."""
    first = n.first("a")
    parts = [n.codes(first, "a/out"), n.codes(n.first("b"), "b/out", 7.0), make("Tanh", first)]
    return n.last(n.codes(make("Concat", *parts, axis=1, name="tested"), "fq2", 5.0))


def split(n: Network) -> Model:
    node = make_node("Split", n.codes(n.first(), "fq1"), constant(np.int64(1)), name="tested", num_splits=2)
    return n.last(make("Concat", *node.outputs[::-1], axis=1))


ZEROS = np.array([0, 1, 2, 77, 128, 200, 254, 255]).reshape(1, 8, 1, 1)


def channels_apart(*layers: str) -> Callable[[Network], Model]:
    """Layers behind codes with a scale and a zero point for each channel; the first of `layers` is the one tested."""
    window = {"kernel": (3, 3), "strides": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1)}
    attributes: dict[str, dict[str, Any]] = {
        "GroupConvolution": GEOMETRY,
        "MaxPool": window | {"auto_pad": "explicit", "dilations": (1, 1), "rounding_type": "floor"},
        "AvgPool": window | {"auto_pad": "explicit", "exclude_pad": True, "rounding_type": "floor"},
    }

    def build(n: Network) -> Model:
        step = np.linspace(0.01, 0.03, 8).reshape(1, 8, 1, 1)
        limits = [constant((step * v).astype(np.float32)) for v in (-ZEROS, 255 - ZEROS) * 2]
        x = make("FakeQuantize", n.first(), *limits, levels=256, name="fq1")
        for i, type in enumerate(layers):
            weights = [n.weights((8, 1, 1, 3, 3))] if type == "GroupConvolution" else []
            x = make_node(type, x, *weights, name=f"layer{i}" if i else "tested", **attributes.get(type, {})).outputs[0]
        return n.last(n.codes(x, "fq2"))

    return build


def interpolate(mode: str) -> Callable[[Network], Model]:
    sizes = {"shape_calculation_mode": "sizes", "coordinate_transformation_mode": "half_pixel"}
    return simple("Interpolate", np.array([12, 9]), np.array([2, 3]), mode=mode, **sizes)


def reduction(type: str) -> Callable[[Network], Model]:
    def build(n: Network) -> Model:
        x = n.codes(n.first(), "fq1")
        mean = n.codes(make(type, x, constant(np.array([2, 3])), keep_dims=True, name="tested"), "fq2", 90.0)
        return n.last(n.codes(make("Add", x, mean), "fq3", 9.0))

    return build


POOL = {"kernel": (3, 3), "strides": (2, 2), "pads_begin": (1, 1), "pads_end": (1, 1), "rounding_type": "floor"}
ONES = np.array([0, 0, 1, 1])
NETWORKS: dict[str, Callable[[Network], Model]] = {
    "residual": residual,
    "Add": two_codes("Add"),
    "Multiply": two_codes("Multiply"),
    "depthwise, zero points apart": channels_apart("GroupConvolution"),
    "MaxPool, zero points apart": channels_apart("MaxPool", "GroupConvolution"),
    "AvgPool, zero points apart": channels_apart("AvgPool"),
    "Relu, zero points apart": channels_apart("Relu"),
    "Concat": concat,
    "Concat, ranges apart": concat_apart,
    "Split": split,
    "Pad": simple("Pad", ONES, ONES, np.float32(0), pad_mode="constant"),
    "Pad reflect": simple("Pad", ONES, ONES, pad_mode="reflect"),
    "Interpolate nearest": interpolate("nearest"),
    "Interpolate linear": interpolate("linear_onnx"),
    "Transpose": simple("Transpose", np.array([0, 1, 3, 2])),
    "ReduceMean": reduction("ReduceMean"),
    "ReduceMax": reduction("ReduceMax"),
    "ReduceSum": reduction("ReduceSum"),
    "MaxPool": simple("MaxPool", auto_pad="explicit", dilations=(1, 1), **POOL),
    "AvgPool": simple("AvgPool", auto_pad="explicit", exclude_pad=True, **POOL),
    "AdaptiveAvgPool": simple("AdaptiveAvgPool", np.array([3, 2])),
    "AdaptiveAvgPool, uneven": simple("AdaptiveAvgPool", np.array([4, 5])),
    "AdaptiveAvgPool, larger": simple("AdaptiveAvgPool", np.array([7, 2])),
    "AdaptiveMaxPool": simple("AdaptiveMaxPool", np.array([4, 3])),
    "SpaceToBatch": simple("SpaceToBatch", np.array([1, 1, 2, 3]), np.array([0, 0, 1, 0]), np.array([0, 0, 1, 3])),
    "BatchToSpace": simple("BatchToSpace", np.array([1, 1, 1, 1]), *[np.zeros(4, np.int64)] * 2),
    "Roll": simple("Roll", np.array([2, -1]), np.array([2, 3])),
    "ReverseSequence": simple("ReverseSequence", np.array([4]), batch_axis=0, seq_axis=2),
    "GatherND": simple("GatherND", np.array([[0], [0]]), batch_dims=0),
    "TopK": simple("TopK", np.int64(3), axis=1, mode="max", sort="value"),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_stays_in_int8(name: str, isa: str) -> None:
    model = NETWORKS[name](Network())
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa, "INFERENCE_NUM_THREADS": 2})
    rows = compiled.explain().rows
    assert not [r for r in rows if "eval" in r.kernel]
    tested = next(r for r in rows if r.name == "tested")
    assert not tested.reasons, tested.reasons
    # what works inside another operation's kernel takes its codes from there
    assert tested.precision == "INT8" or tested.part_of, tested
    lowered = Interpreter(lower_model(model)).create_runner()
    for seed in range(3):
        x = np.random.default_rng(seed).normal(scale=1 + seed, size=SHAPE).astype(np.float32)
        assert_close(np.asarray(compiled(x)[0]), lowered.run([x])[0], EXACT, name)
