"""INT8 products in AMX's tile registers: equal bits where this machine has them, and the right code everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.codegen.jit import assembly
from lpir.devices.cpu.isa import by_name
from lpir.devices.cpu.kernels import amx_gemm, amx_wide
from lpir.devices.cpu.kernels.amx_blocks import (
    DEPTH,
    LANES,
    TILES,
    first_channels,
    part_steps,
    step_depth,
    step_offsets,
)
from lpir.devices.cpu.kernels.amx_rows import MOST, TileRows, at_least, tile_rows
from lpir.devices.cpu.kernels.amx_wide import WIDE
from lpir.devices.cpu.kernels.convolution_amx import ConvolutionAmx, MatMulAmx
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand
from lpir.devices.cpu.kernels.rows import grid_offsets
from lpir.ir.types import f32
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul
from lpir.scalar.expr import Expr, cast, input_, rint_i32
from tests.devices.cpu.harness import Array, make_node, run
from tests.devices.cpu.test_convolution_int8 import ACC, REQUANT, RESIDUAL, codes, convolution, weights

AMX = by_name("amx")
SATURATED = Epilogue(rint_i32(cast(ACC, f32) * input_(1) + input_(2)), [Operand("vector", f32)] * 2, saturate=True)
needs_amx = pytest.mark.skipif(not AMX.available(), reason="this machine has no AMX")

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], LoweredConvolution]] = {
    "one_tile": ((1, 1, 5, 16), (1, 1, 16, 16), convolution(2, REQUANT)),
    "one_pixel": ((1, 1, 1, 130), (1, 1, 130, 35), convolution(2, REQUANT)),
    "pairs": ((1, 7, 9, 64), (1, 1, 64, 64), convolution(2, REQUANT)),
    "channels_overlap": ((1, 5, 9, 24), (1, 1, 24, 24), convolution(2, REQUANT)),
    "blocks_overlap": ((1, 5, 9, 72), (1, 1, 72, 144), convolution(2, REQUANT)),
    "odd": ((1, 3, 5, 13), (1, 1, 13, 19), convolution(2, REQUANT)),
    "stride": ((1, 9, 8, 16), (1, 1, 16, 32), convolution(2, REQUANT, strides=(2, 2))),
    "across_rows": ((1, 7, 7, 20), (3, 3, 20, 48), convolution(2, REQUANT, pads_begin=(1, 1), pads_end=(1, 1))),
    "within_rows": ((2, 9, 28, 8), (3, 3, 8, 16), convolution(2, REQUANT, pads_begin=(1, 1), pads_end=(1, 1))),
    "first_layer": (
        (1, 17, 16, 3),
        (3, 3, 3, 32),
        convolution(2, REQUANT, strides=(2, 2), pads_begin=(0, 1), pads_end=(1, 2)),
    ),
    "image": (
        (2, 18, 65, 3),
        (3, 3, 3, 32),
        convolution(2, REQUANT, strides=(2, 2), pads_begin=(0, 1), pads_end=(1, 1)),
    ),
    "image_of_4_rows": ((1, 36, 20, 4), (4, 4, 4, 80), convolution(2, REQUANT, pads_begin=(2, 1), pads_end=(1, 2))),
    "image_of_2_rows": ((1, 35, 33, 5), (2, 3, 5, 16), convolution(2, REQUANT, dilations=(3, 1), pads_end=(0, 2))),
    "dilated": (
        (2, 10, 9, 6),
        (3, 2, 6, 17),
        convolution(2, REQUANT, dilations=(2, 3), pads_begin=(2, 0), pads_end=(0, 3)),
    ),
    "groups": ((1, 6, 6, 24), (3, 3, 8, 60), convolution(2, REQUANT, groups=3, pads_begin=(1, 1), pads_end=(1, 1))),
    "parts": ((1, 14, 14, 256), (3, 3, 256, 48), convolution(2, REQUANT, pads_begin=(1, 1), pads_end=(1, 1))),
    "parts_of_odd_steps": ((2, 9, 20, 2100), (1, 1, 2100, 33), convolution(2, REQUANT)),
    "parts_of_groups": ((1, 13, 14, 520), (3, 3, 260, 40), convolution(2, REQUANT, groups=2)),
    "one_input_channel": ((1, 8, 8, 1), (3, 3, 1, 16), convolution(2, REQUANT)),
    "1d": ((2, 20, 5), (4, 5, 33), convolution(1, REQUANT, strides=(3,), pads_begin=(2,), pads_end=(1,))),
    "3d": ((1, 4, 5, 6, 4), (2, 3, 3, 4, 20), convolution(3, REQUANT, pads_begin=(1, 1, 1), pads_end=(0, 1, 1))),
}


@needs_amx
@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("constants", [[1], [1, 2, 3]], ids=["clamped", "saturated"])
def test_geometry(name: str, threads: int, constants: list[int]) -> None:
    shape, kernel, op = GEOMETRIES[name]
    rng = np.random.default_rng(1)
    scale, bias = rng.random(kernel[-1], np.float32) * 0.02, rng.standard_normal(kernel[-1]).astype(np.float32) * 9
    inputs = [codes(rng, *shape), weights(rng, *kernel), scale, bias]
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, threads, constants)
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 19),
    st.integers(1, 19),
    st.integers(1, 140),
    st.integers(16, 100),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_any_shape(
    batch: int, height: int, width: int, channels: int, n: int, taps: int, stride: int, pad: int, seed: int
) -> None:
    height, width = max(height, taps), max(width, taps)
    rng = np.random.default_rng(seed)
    op = convolution(
        2, REQUANT, strides=(stride, stride), pads_begin=(pad, pad), pads_end=(pad, pad), x_zero_point=int(seed % 256)
    )
    inputs = [codes(rng, batch, height, width, channels), weights(rng, taps, taps, channels, n)]
    inputs += [rng.random(n, np.float32) * 0.01, rng.standard_normal(n).astype(np.float32)]
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, 2, [1, 2, 3])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@pytest.mark.parametrize("operand", [(1, 7, 6, 40), (2, 7, 6, 40), (2, 1, 1, 40), (40,), (1,)])
def test_tensor_operands(operand: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    inputs = [codes(rng, 2, 7, 6, 24), weights(rng, 1, 1, 24, 40), rng.random(40, np.float32) * 0.01]
    inputs.append(codes(rng, *operand))
    op = convolution(2, RESIDUAL)
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, 2, [1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@pytest.mark.parametrize("epilogue", [ACC, cast(ACC, f32) * 0.5, ACC + 3], ids=["i32", "f32", "i32_constant"])
def test_wide_outputs(epilogue: Expr) -> None:
    rng = np.random.default_rng(3)
    inputs = [codes(rng, 1, 5, 5, 12), weights(rng, 1, 1, 12, 37)]
    op = convolution(2, epilogue)
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, 1, [1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@pytest.mark.parametrize(("code", "weight"), [(255, 127), (255, -128), (255, -127), (0, -128)])
@pytest.mark.parametrize("k", [4608, 65])
def test_extremes_are_exact(code: int, weight: int, k: int) -> None:
    a, b = np.full((3, k), code, np.uint8), np.full((k, 21), weight, np.int8)
    b[::3, ::2] = -1 - weight if weight != -127 else 127
    op = LoweredMatMul(False, 0, 0, ACC)
    (actual,) = run(MatMulAmx(), op, [a, b], AMX, 2, [1])
    np.testing.assert_array_equal(actual, a.astype(np.int64) @ b.astype(np.int64))


@needs_amx
@pytest.mark.parametrize("m", [1, 2, 5, 49, 100])
@pytest.mark.parametrize("n", [16, 64, 1000])
@pytest.mark.parametrize("transpose", [False, True])
def test_matmul(m: int, n: int, transpose: bool) -> None:
    rng = np.random.default_rng(m * n)
    b = weights(rng, n, 836) if transpose else weights(rng, 836, n)
    inputs = [codes(rng, m, 836), b, rng.random(n, np.float32) * 0.02, rng.standard_normal(n).astype(np.float32)]
    op = LoweredMatMul(transpose, 101, 0, REQUANT)
    (actual,) = run(MatMulAmx(), op, inputs, AMX, 2, [1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
def test_wide_weights_take_two_passes() -> None:
    rng = np.random.default_rng(4)
    inputs: list[Array] = [codes(rng, 1, 6, 6, 9), rng.integers(-255, 256, (3, 3, 9, 16)).astype(np.int16)]
    op = convolution(2, ACC)
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, 1, [1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


def test_large_blocks_take_their_steps_in_parts() -> None:
    few, many = (tile_rows(np.arange(m) * 2304, 2) for m in (49, 196))
    assert part_steps(many, 2, (0,), 2304, 2304) == 9
    # the weights of few rows are not read often enough
    assert part_steps(few, 2, (0,), 2304, 2304) == 36
    assert part_steps(many, 2, (0,), 512, 512) == 8


def test_refusals_are_words() -> None:
    op = LoweredMatMul(False, 0, 0, ACC)
    node = make_node(op, [np.zeros((4, 8), np.uint8), np.zeros((8, 15), np.int8)], [1])
    assert MatMulAmx().applies(node, by_name("avx2")) == "avx2 has no tile registers"
    refusal = MatMulAmx().applies(node, AMX)
    assert refusal == "15 output channels a group are fewer than the 16 of a tile"


def test_layers_of_all_shapes_share_kernels() -> None:
    def symbols(n: int, channels: int) -> set[str]:
        counts = [*range(1, 30), 49, 64, 100, 784]
        pixels = [np.arange(m) * channels for m in counts] + [grid_offsets((7, 7), (9 * channels, channels))]
        kernels = [amx_gemm.build(AMX, o, n, (0,), channels, SATURATED).kernel for o in pixels]
        kernels.append(amx_gemm.build(AMX, pixels[-1], n, (0, 9 * channels), channels, SATURATED).kernel)
        wide = [o for o in pixels if amx_wide.refuse(o, n, channels, SATURATED) is None]
        return {k.symbol for k in kernels + [amx_wide.build(AMX, o, n, channels, SATURATED).kernel for o in wide]}

    # of both kinds; weights of any size
    assert len(symbols(64, 128)) == len(symbols(640, 128)) == 2
    assert symbols(64, 128) == symbols(640, 128) == symbols(640, 190)
    # too many steps for wide blocks
    assert symbols(64, 1024) < symbols(64, 128)


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("pixels", [1, 49, 784])
def test_code_on_any_host(saturate: bool, pixels: int) -> None:
    operands = [Operand("vector", f32), Operand("vector", f32)]
    epilogue = Epilogue(REQUANT.args[0], operands, saturate=True) if saturate else Epilogue(REQUANT, operands)
    gemm = amx_gemm.build(AMX, np.arange(pixels) * 64, 64, (0,), 64, epilogue)
    text = assembly([gemm.kernel.text], AMX)
    assert text.count("tdpbusd") == TILES
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1
    # vectors are only stored to the output, and sums only through tiles
    assert not [line for line in text.splitlines() if "rsp" in line and "zmm" in line and line.rstrip().endswith(")")]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 5),
    st.sampled_from([2, 4]),
)
def test_tiles_hold_every_pixel(
    batch: int, height: int, width: int, channels: int, down: int, right: int, gap: int, together: int
) -> None:
    """Every row reads within the input, and the last row that names a pixel is that pixel."""
    pitch = (width - 1) * right + 1 + gap
    moves = ((height * down + 3) * pitch * channels, down * pitch * channels, right * channels)
    offsets = grid_offsets((batch, height, width), moves)
    tiles = tile_rows(offsets, together)
    assert tiles.down <= together
    assert tiles.tiles % tiles.down == 0
    assert 1 <= tiles.rows <= min(MOST, int(offsets[-1]) + 1)
    if tiles.linear:
        assert tiles.rows * tiles.tiles >= len(offsets)
        assert tiles.height <= len(offsets)
    check_rows(tiles, offsets)
    # as many rows as are finished at once
    more = at_least(tiles, 2 * together, together)
    assert more.height >= 2 * together
    check_rows(more, offsets)


def check_rows(tiles: TileRows, offsets: Array) -> None:
    """Whether the tables of `tiles` name each pixel, and read it where it is."""
    assert tiles.tiles % tiles.down == 0
    starts, block = tiles.tile_starts(len(offsets)), tiles.block_pixels()
    first = np.zeros(len(starts), np.int64)
    if tiles.linear:
        block = np.resize(block.reshape(tiles.down, tiles.rows), (len(starts), tiles.rows))
        blocks = np.arange(0, len(starts), tiles.down) * tiles.rows
        first = np.repeat(np.minimum(blocks, len(offsets) - tiles.height), tiles.down)
    listed = tiles.listed(len(offsets))
    assert np.array_equal(listed.tile_starts(len(offsets)), starts)
    assert np.array_equal(listed.block_pixels(), block + first[:, None])
    reads = starts[:, None] + np.arange(tiles.rows) * tiles.stride
    assert reads.min() >= 0
    assert reads.max() <= offsets[-1]
    held = set()
    for read, pixels in zip(reads.tolist(), listed.block_pixels().tolist(), strict=True):
        last = dict(zip(pixels, read, strict=True))
        assert all(offsets[pixel] == at for pixel, at in last.items())
        held |= set(last)
    assert held == set(range(len(offsets)))


def test_steps_cover_a_run_in_equal_parts() -> None:
    for length in range(1, 400):
        depth = step_depth(length)
        offsets = step_offsets((0,), length, depth)
        assert depth % 4 == 0
        assert depth <= DEPTH
        assert len(offsets) == -(-length // DEPTH)
        assert offsets[-1] + depth >= length


@pytest.mark.parametrize("n", [16, 17, 24, 31, 32, 33, 48, 144, 1000])
def test_blocks_cover_every_channel(n: int) -> None:
    across = 1 if n == 16 else 2
    first = first_channels(n, across)
    held = (first[:, :, None] + np.arange(16)).reshape(-1)
    assert set(held.tolist()) == set(range(n))


@given(st.integers(16, 300), st.integers(1, 190))
def test_every_weight_of_wide_blocks_has_its_place(n: int, length: int) -> None:
    offsets = np.arange(64) * length
    if amx_wide.refuse(offsets, n, length, SATURATED):
        assert n < WIDE or length > 190
        return
    w = np.random.default_rng(n).integers(-128, 128, (length, n)).astype(np.int8)
    gemm = amx_wide.build(AMX, offsets, n, length, SATURATED)
    packed, sums = gemm.pack_wide(w)
    order = gemm.order
    assert set(order.tolist()) == set(range(n))
    assert np.array_equal(sums, w.sum(0)[order])
    padded = np.zeros((len(gemm.offsets) * gemm.depth, n), np.int8)
    padded[:length] = w
    at = 0
    for first in range(0, len(order), WIDE):
        lanes = order[first : first + WIDE]
        # [steps, tiles, depth / 4, 16, 4]
        shape = (len(gemm.offsets), len(lanes) // LANES, gemm.depth // 4, LANES, 4)
        block = packed[at : at + int(np.prod(shape))].view(np.int8).reshape(shape)
        assert np.array_equal(block.transpose(0, 2, 4, 1, 3).reshape(-1, len(lanes)), padded[:, lanes])
        at += block.size


def test_results_of_64_channels_are_stored_as_they_are_packed() -> None:
    text = assembly([amx_wide.build(AMX, np.arange(64) * 16, 64, 16, SATURATED).kernel.text], AMX)
    assert "vpackuswb" in text
    assert "vperm" not in text
