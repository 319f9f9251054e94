"""INT8 depthwise convolutions against the lowered reference: equal bits, every instruction set, every geometry."""

from __future__ import annotations

import numpy as np
import pytest

from lpir.devices.cpu.isa import Isa, all_isas
from lpir.devices.cpu.kernels.depthwise_int8 import DepthwiseInt8
from lpir.devices.cpu.kernels.depthwise_weights import choose_blocks
from lpir.ir.types import f32, i32, u8
from lpir.scalar.expr import Expr, cast, input_
from tests.devices.cpu.harness import HOST_ISAS, run
from tests.devices.cpu.test_convolution_int8 import ACC, REQUANT, RESIDUAL, codes, convolution, weights

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
ONE: dict[str, tuple[int, ...]] = {"pads_begin": (1, 1), "pads_end": (1, 1)}
GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "3x3": ((1, 7, 9, 32), (3, 3), ONE),
    "3x3_batch": ((2, 5, 6, 80), (3, 3), ONE),
    "3x3_stride": ((1, 8, 9, 96), (3, 3), {"strides": (2, 2), "pads_begin": (0, 0), "pads_end": (1, 1)}),
    "3x3_valid": ((1, 7, 7, 19), (3, 3), {}),
    "3x3_few": ((1, 5, 5, 3), (3, 3), ONE),
    "5x5": ((1, 9, 8, 40), (5, 5), {"pads_begin": (2, 2), "pads_end": (2, 2)}),
    "5x5_stride": ((1, 9, 11, 144), (5, 5), {"strides": (2, 2), "pads_begin": (2, 2), "pads_end": (2, 2)}),
    "dilated": ((1, 9, 10, 64), (3, 3), {"dilations": (2, 3), "pads_begin": (2, 3), "pads_end": (2, 3)}),
    "2x4_stride3": ((1, 9, 14, 17), (2, 4), {"strides": (1, 3), "pads_begin": (0, 2), "pads_end": (1, 1)}),
    "1x1": ((1, 4, 4, 33), (1, 1), {"strides": (2, 2)}),
    "wide_pad": ((1, 2, 2, 16), (5, 5), {"pads_begin": (4, 4), "pads_end": (4, 4)}),
    "1x9_stride3": ((1, 3, 20, 32), (1, 9), {"strides": (1, 3), "pads_begin": (0, 4), "pads_end": (0, 4)}),
    "5x9_stride4": ((1, 6, 25, 16), (5, 9), {"strides": (2, 4), "pads_begin": (2, 1), "pads_end": (2, 4)}),
    "9x9": ((1, 10, 11, 64), (9, 9), {"pads_begin": (4, 4), "pads_end": (4, 4)}),
    "1x7_stride5": ((1, 2, 27, 48), (1, 7), {"strides": (1, 5)}),
    "1d": ((2, 12, 48), (7,), {"pads_begin": (3,), "pads_end": (3,)}),
    "3d": ((1, 4, 5, 6, 20), (2, 3, 3), {"pads_begin": (1, 1, 1), "pads_end": (0, 1, 1), "strides": (1, 2, 1)}),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("constants", [[1], [1, 2, 3]], ids=["clamped", "saturated"])
@ISAS
def test_geometry(isa: Isa, name: str, constants: list[int]) -> None:
    shape, kernel, fields = GEOMETRIES[name]
    rng = np.random.default_rng(1)
    channels = shape[-1]
    op = convolution(len(kernel), REQUANT, groups=channels, **fields)
    scale, bias = rng.random(channels, np.float32) * 0.02, rng.standard_normal(channels).astype(np.float32) * 9
    inputs = [codes(rng, *shape), weights(rng, *kernel, 1, channels), scale, bias]
    (actual,) = run(DepthwiseInt8(), op, inputs, isa, len(constants), constants=constants)
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@pytest.mark.parametrize("name", GEOMETRIES)
@ISAS
def test_a_zero_point_for_each_channel(isa: Isa, name: str) -> None:
    shape, kernel, fields = GEOMETRIES[name]
    rng = np.random.default_rng(3)
    channels = shape[-1]
    zero_points = tuple(int(z) for z in rng.permutation(256)[np.arange(channels) % 256])
    op = convolution(len(kernel), REQUANT, groups=channels, x_zero_point=zero_points, **fields)
    scale, bias = rng.random(channels, np.float32) * 0.02, rng.standard_normal(channels).astype(np.float32) * 9
    inputs = [codes(rng, *shape), weights(rng, *kernel, 1, channels), scale, bias]
    (actual,) = run(DepthwiseInt8(), op, inputs, isa, 3, constants=[1, 2, 3])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


EPILOGUES = {
    "i32": ACC,
    "f32": cast(ACC, f32) * 0.5,
    "residual": RESIDUAL,
    "f32_tensor": cast(ACC, f32) + input_(3, f32),
    "wrap": cast(ACC + 7, u8),
}


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("channels", [9, 48, 64])
@ISAS
def test_epilogue(isa: Isa, name: str, channels: int) -> None:
    rng = np.random.default_rng(2)
    epilogue: Expr = EPILOGUES[name]
    op = convolution(2, epilogue, groups=channels, pads_begin=(1, 1), pads_end=(1, 1))
    tensor = rng.standard_normal((1, 5, 6, channels)).astype(np.float32)
    scale = rng.random(channels, np.float32) * 0.01
    inputs = [
        codes(rng, 1, 5, 6, channels),
        weights(rng, 3, 3, 1, channels),
        scale,
        codes(rng, 1, 5, 6, channels),
        tensor,
    ]
    used = inputs[: max(epilogue.inputs()) + 2]
    (actual,) = run(DepthwiseInt8(), op, used, isa, 2, constants=[1])
    np.testing.assert_array_equal(actual, op.eval(*used)[0])


@pytest.mark.parametrize("weight", [127, -127, -128])
@ISAS
def test_extremes_are_exact(isa: Isa, weight: int) -> None:
    x = np.full((1, 6, 6, 40), 255, np.uint8)
    w = np.full((3, 3, 1, 40), weight, np.int8)
    op = convolution(2, input_(0, i32), groups=40)
    (actual,) = run(DepthwiseInt8(), op, [x, w], isa, 1, constants=[1])
    assert np.all(actual == 9 * (255 - 13) * weight)


@pytest.mark.parametrize("rows", [1, 2, 7, 112])
@pytest.mark.parametrize("isa", all_isas(), ids=lambda isa: isa.name)
def test_blocks_cover_every_channel(isa: Isa, rows: int) -> None:
    for channels in range(1, 330):
        parts = choose_blocks(isa, channels, rows)
        done = {int(c) for blocks in parts for c in blocks.index.reshape(-1)}
        assert {c for c in done if c < channels} == set(range(channels))
        for blocks in parts:
            assert blocks.width * blocks.fold * 8 == isa.bits
            assert blocks.narrow == bool(blocks.index.max() >= channels)
            np.testing.assert_array_equal(
                blocks.spread(np.arange(channels))[blocks.index < channels], blocks.index[blocks.index < channels]
            )
