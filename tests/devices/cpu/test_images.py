"""The first convolution of a network and the codes of its image in one: joined where it fits, and to the same bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lpir
from lpir.devices.cpu.images import join_images
from lpir.devices.cpu.isa import by_name
from lpir.devices.cpu.kernels.convolution_image import ConvolutionImage
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32, u8
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.ops.lowered import Elementwise, LoweredConvolution
from lpir.ops.lowered_image import ImageConvolution
from lpir.ops.reshaping import Transpose
from lpir.runtime.interpreter import Interpreter
from lpir.scalar.expr import Expr, cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import Array, run
from tests.devices.cpu.test_convolution_int8 import REQUANT, convolution, weights
from tests.passes.networks import GEOMETRY, Builder, finish

AMX = by_name("amx")
needs_amx = pytest.mark.skipif(not AMX.available(), reason="this machine has no AMX")
STEM = convolution(2, REQUANT, strides=(2, 2), pads_begin=(0, 1), pads_end=(1, 1))


def codes(zero_point: int, scale: float = 50.0) -> Expr:
    """The code of a float."""
    return cast(rint_i32(clamp(input_(0) * scale, -zero_point, 255 - zero_point)) + zero_point, u8)


def image_convolution(zero_point: int, op: LoweredConvolution = STEM) -> ImageConvolution:
    return ImageConvolution(codes(zero_point), dataclasses.replace(op, x_zero_point=zero_point))


def floats(rng: np.random.Generator, *shape: int) -> Array:
    """Numbers of which some are no code, or no number."""
    x = rng.standard_normal(shape).astype(np.float32) * 2
    odd = np.asarray([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.01, -0.01, 0.03, -0.0], np.float32)
    x.reshape(-1)[rng.integers(0, x.size, 40)] = rng.choice(odd, 40)
    return x


def inputs_of(rng: np.random.Generator, image: tuple[int, ...], kernel: tuple[int, ...]) -> list[Array]:
    scale, bias = rng.random(kernel[-1], np.float32) * 0.02, rng.standard_normal(kernel[-1]).astype(np.float32) * 9
    return [floats(rng, *image), weights(rng, *kernel), scale, bias]


def reference(op: ImageConvolution, inputs: list[Array]) -> Array:
    with np.errstate(all="ignore"):
        return op.eval(*inputs)[0]


@needs_amx
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("zero_point", [0, 128, 255])
@pytest.mark.parametrize(
    ("image", "kernel", "op"),
    [
        ((1, 3, 32, 32), (3, 3, 3, 32), STEM),
        ((2, 3, 18, 64), (3, 3, 3, 32), STEM),
        ((1, 1, 20, 16), (3, 7, 1, 16), convolution(2, REQUANT, pads_begin=(1, 3), pads_end=(1, 3))),
        ((3, 2, 35, 16), (2, 3, 2, 80), convolution(2, REQUANT, dilations=(3, 1), pads_end=(0, 2))),
        ((1, 4, 36, 20), (4, 4, 4, 80), convolution(2, REQUANT, pads_begin=(2, 1), pads_end=(1, 2))),
    ],
    ids=["stem", "batch", "gray", "dilated", "4_channels"],
)
def test_geometry(
    image: tuple[int, ...], kernel: tuple[int, ...], op: LoweredConvolution, zero_point: int, threads: int
) -> None:
    joined = image_convolution(zero_point, op)
    inputs = inputs_of(np.random.default_rng(zero_point), image, kernel)
    (actual,) = run(ConvolutionImage(), joined, inputs, AMX, threads, [1, 2, 3])
    np.testing.assert_array_equal(actual, reference(joined, inputs))


@needs_amx
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(8, 30),
    st.integers(16, 50),
    st.integers(16, 80),
    st.integers(1, 2),
    st.integers(0, 2**32 - 1),
)
def test_any_image(batch: int, channels: int, height: int, width: int, n: int, stride: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pads = {"pads_begin": (int(seed % 2), 1), "pads_end": (1, int(seed % 3))}
    op = image_convolution(int(seed % 256), convolution(2, REQUANT, strides=(stride, stride), **pads))
    inputs = inputs_of(rng, (batch, channels, height, width), (3, 3, channels, n))
    node = Node(op, [parameter(inputs[0].shape, f32, "x").output, *(constant(x) for x in inputs[1:])])
    if ConvolutionImage().applies(node, AMX) is not None:
        return
    (actual,) = run(ConvolutionImage(), op, inputs, AMX, 2, [1, 2, 3])
    np.testing.assert_array_equal(actual, reference(op, inputs))


def test_what_lies_outside_must_be_the_code_of_0() -> None:
    inputs = inputs_of(np.random.default_rng(0), (1, 3, 32, 32), (3, 3, 3, 32))
    node = Node(
        ImageConvolution(codes(3), dataclasses.replace(STEM, x_zero_point=4)),
        [parameter(inputs[0].shape, f32, "x").output, *(constant(x) for x in inputs[1:])],
    )
    assert ConvolutionImage().applies(node, AMX) == "what lies outside is not the code of 0"


def network(
    shape: tuple[int, ...] = (1, 3, 32, 32), seen: bool = False, order: tuple[int, ...] = (0, 2, 3, 1)
) -> Model:
    """A lowered network; `seen`: somebody else reads the codes."""
    rng = np.random.default_rng(7)
    image = parameter(shape, f32, "x")
    quantized = Node(Elementwise(codes(128)), [image.output], "fq")
    moved = Node(Transpose(), [quantized.output, constant(np.asarray(order, np.int64))], "moved")
    inputs = inputs_of(rng, shape, (3, 3, moved.output.shape.to_static()[-1], 32))
    op = dataclasses.replace(STEM, x_zero_point=128)
    layer = Node(op, [moved.output, *(constant(x) for x in inputs[1:])], "layer")
    results = [layer, *([quantized] if seen else [])]
    return Model([Node(Result(), [n.output], f"r{i}") for i, n in enumerate(results)], [image], "net")


def kinds(model: Model) -> list[str]:
    return [n.op.type_name for n in model.nodes() if n.op.type_name not in ("Constant", "Parameter", "Result")]


def test_three_nodes_become_one() -> None:
    model = network()
    assert join_images(model, AMX) == 1
    assert kinds(model) == ["ImageConvolution"]
    assert join_images(model, AMX) == 0


@pytest.mark.parametrize(
    "fields",
    [{"seen": True}, {"shape": (1, 3, 32, 12)}, {"shape": (1, 32, 32, 3), "order": (0, 1, 2, 3)}],
    ids=["seen", "narrow", "channels_last"],
)
def test_others_stay_as_they_are(fields: dict[str, Any]) -> None:
    model = network(**fields)
    before = kinds(model)
    assert join_images(model, AMX) == 0
    assert kinds(model) == before


def test_only_tiles_want_it() -> None:
    assert join_images(network(), by_name("avx512_vnni")) == 0


@needs_amx
@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_has_the_same_bits(threads: int) -> None:
    b = Builder()
    image = parameter((1, 3, 32, 32), f32, "x")
    x = b.fake_quantize(image.output, -2, 2 * 127 / 128, "fq")
    x = make("Convolution", x, b.weights((32, 3, 3, 3), name="stem"), **GEOMETRY)
    model = finish(b.fake_quantize(make("Relu", x), 0, 4, "out"), image)
    config = {"ISA": "amx", "INFERENCE_NUM_THREADS": threads}
    compiled = lpir.compile_model(model, "CPU", config)
    assert "ImageConvolution" in kinds(compiled.get_runtime_model())
    plain = lpir.compile_model(model, "CPU", {"ISA": "generic"}).get_runtime_model()
    assert "ImageConvolution" not in kinds(plain)
    data = floats(np.random.default_rng(9), 1, 3, 32, 32)
    with np.errstate(all="ignore"):
        (expected,) = Interpreter(plain).create_runner().run([data])
    np.testing.assert_array_equal(compiled.create_infer_request().infer([data])[0], expected)
