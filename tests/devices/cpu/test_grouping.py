"""Hidden channels change places: nothing that anybody else reads does, and int16 sums need fewer windows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lpir
from lpir.devices.cpu.grouping import channel_order, group_channels
from lpir.devices.cpu.isa import Isa, all_isas, by_name
from lpir.devices.cpu.kernels.convolution_int8 import weights_of
from lpir.devices.cpu.kernels.pack_int16 import pack_int16
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32, i32, u8
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.ops.lowered import LoweredConvolution
from lpir.runtime.interpreter import Interpreter
from lpir.scalar.expr import cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import Array
from tests.passes.networks import GEOMETRY, Builder, finish

CHANNELS, HIDDEN = 20, 45
REQUANT = cast(rint_i32(clamp(cast(input_(0, i32), f32) * input_(1) + input_(2), 0.0, 255.0)), u8)
PLAIN = LoweredConvolution((1, 1), (1, 1), (0, 0), (0, 0), 1, 7, REQUANT)
DEPTHWISE = dataclasses.replace(
    PLAIN, pads_begin=(1, 1), pads_end=(1, 1), groups=HIDDEN, x_zero_point=tuple(range(HIDDEN))
)


def convolution(rng: np.random.Generator, op: LoweredConvolution, x: Node, *w: int) -> Node:
    """With random weights, and a scale and a bias for each channel."""
    weights = constant(np.clip(rng.standard_normal(w) * 50, -127, 127).astype(np.int8))
    scale, bias = rng.random((1, 1, 1, w[-1]), np.float32) * 0.1, rng.random(w[-1], np.float32) * 50
    return Node(op, [x.output, weights, constant(scale), constant(bias)], f"to {w[-1]}")


def bottleneck(seen: bool = False) -> Model:
    """1x1 to more channels, depthwise, 1x1 to fewer; `seen`: the hidden channels are an output too."""
    rng = np.random.default_rng(3)
    x = parameter((1, 5, 6, CHANNELS), u8, "x")
    wide = convolution(rng, PLAIN, x, 1, 1, CHANNELS, HIDDEN)
    deep = convolution(rng, DEPTHWISE, wide, 3, 3, 1, HIDDEN)
    narrow = convolution(rng, PLAIN, deep, 1, 1, HIDDEN, 9)
    results = [Node(Result(), [n.output], f"r{i}") for i, n in enumerate([narrow, *([wide] if seen else [])])]
    return Model(results, [x])


def outputs(model: Model) -> list[Array]:
    x = np.random.default_rng(4).integers(0, 256, (1, 5, 6, CHANNELS)).astype(np.uint8)
    return Interpreter(model, "CPU", False).create_runner().run([x])


def first_convolution(model: Model) -> Node:
    return next(n for n in model.nodes() if isinstance(n.op, LoweredConvolution))


def windows(model: Model) -> int:
    return len(pack_int16(weights_of(first_convolution(model)).reshape(1, 1, CHANNELS, HIDDEN), 8, (0,)).offsets)


@pytest.mark.parametrize("isa", [isa for isa in all_isas() if not isa.exact], ids=lambda isa: isa.name)
def test_outputs_stay_the_same_with_fewer_windows(isa: Isa) -> None:
    model, moved = bottleneck(), bottleneck()
    assert group_channels(moved, isa) == 1
    assert windows(moved) < windows(model)
    for actual, expected in zip(outputs(moved), outputs(model), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("isa", [isa for isa in all_isas() if not isa.exact and isa.available()], ids=lambda i: i.name)
def test_the_runtime_model_has_the_order_that_runs(isa: Isa) -> None:
    b = Builder()
    image = parameter((1, 12, 4, 4), f32, "x")
    x = b.fake_quantize(image.output, 0, 1, "fq0")
    for channels, name in ((45, "wide"), (9, "narrow")):
        x = make("Convolution", x, b.weights((channels, x.shape[1].length, 3, 3), name=name), **GEOMETRY)
        x = b.fake_quantize(make("Relu", x), 0, 4, f"{name}/fq")
    model = finish(x, image)
    plain, moved = (
        lpir.compile_model(model, "CPU", {"ISA": name}).get_runtime_model() for name in ("generic", isa.name)
    )
    data = np.random.default_rng(5).random((1, 12, 4, 4), np.float32)
    (expected,) = Interpreter(plain).create_runner().run([data])
    np.testing.assert_array_equal(Interpreter(moved).create_runner().run([data])[0], expected)
    before, after = weights_of(first_convolution(plain)), weights_of(first_convolution(moved))
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(after, before[..., channel_order(before, isa.lanes())])


def test_what_others_see_stays_where_it_is() -> None:
    assert group_channels(bottleneck(seen=True), by_name("avx2")) == 0


def test_exact_instructions_do_not_need_it() -> None:
    assert group_channels(bottleneck(), by_name("avx_vnni")) == 0


@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([8, 16]), st.integers(0, 2**32 - 1))
def test_an_order_names_every_channel_once(n: int, channels: int, lanes: int, seed: int) -> None:
    w = np.random.default_rng(seed).integers(-128, 128, (1, 1, channels, n)).astype(np.int8)
    assert sorted(channel_order(w, lanes)) == list(range(n))


def test_equal_channels_share_a_block() -> None:
    kinds = np.asarray([[100, 100, 0, 0], [0, 0, 100, 100]], np.int8)
    w = kinds[np.arange(16) % 2].T.reshape(1, 1, 4, 16)
    order = channel_order(w, 8)
    assert {tuple(sorted(order[:8] % 2)), tuple(sorted(order[8:] % 2))} == {(0,) * 8, (1,) * 8}
