"""Integer Winograd convolutions: the algebra in exact arithmetic, and the kernel against the lowered reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.codegen.jit import assembly
from lpir.devices.cpu.isa import Isa, all_isas, by_name
from lpir.devices.cpu.kernels import winograd
from lpir.devices.cpu.kernels.convolution_winograd import ConvolutionWinograd, shares
from lpir.devices.cpu.kernels.epilogue import Epilogue
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.devices.cpu.kernels.winograd_print import products
from lpir.devices.cpu.select import choose
from lpir.ir.graph import Node
from lpir.ir.types import f32, i32, u8
from lpir.ops.lowered import LoweredConvolution
from lpir.scalar.expr import Expr, cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run
from tests.devices.cpu.test_gemm_code import inner_loop, stacked

ACC = input_(0, i32)
REQUANT = cast(rint_i32(clamp((cast(ACC, f32) * input_(1) + input_(2)) * 0.37, -3.0, 252.0)) + 3, u8)
RESIDUAL = cast(rint_i32(clamp(cast(ACC, f32) * 0.001 + cast(cast(input_(1, u8), i32) - 7, f32), 0.0, 255.0)), u8)
INT16, INT32 = np.iinfo(np.int16), np.iinfo(np.int32)


class Uncounted(ConvolutionWinograd):
    """For small problems too."""

    def refuse_cost(self, node: Node, isa: Isa) -> str | None:
        return None


KERNEL = Uncounted()


def able(isa: Isa) -> bool:
    return isa.is_x86 and not isa.exact


ISAS = pytest.mark.parametrize("isa", [isa for isa in HOST_ISAS if able(isa)], ids=lambda isa: isa.name)


def convolution(epilogue: Expr, pad: int = 1, zero_point: int = 13) -> LoweredConvolution:
    return LoweredConvolution((1, 1), (1, 1), (pad, pad), (pad, pad), 1, zero_point, epilogue)


def codes(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 256, shape).astype(np.uint8)


def weights(rng: np.random.Generator, *shape: int) -> Array:
    return np.clip(np.rint(rng.standard_normal(shape) * 60), -128, 127).astype(np.int8)


# of patches as Lavin and Gray have it, and of weights with its rows' fractions multiplied away
B = np.asarray(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
G = np.asarray([[6, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 6]])


def largest_part(matrix: Array, low: int, high: int) -> int:
    """The largest magnitude that both axes' `matrix` makes of values from `low` to `high`."""
    plane = np.einsum("ia,jb->ijab", matrix, matrix)
    positive, negative = np.maximum(plane, 0).sum((2, 3)), -np.minimum(plane, 0).sum((2, 3))
    return int(max((positive * high - negative * low).max(), (negative * high - positive * low).max()))


def test_transformed_values_fit_their_types() -> None:
    patch, weight = largest_part(B, 0, 255), largest_part(G, -128, 127)
    assert patch == 255 * winograd.PATCH_GAIN <= INT16.max
    assert weight <= 128 * winograd.WEIGHT_GAIN <= INT16.max
    # vpmaddwd adds two products
    assert 2 * patch * weight <= INT32.max


@pytest.mark.parametrize(("fill", "channels"), [(127, 114), (-128, 114), (-128, 116)])
def test_sums_are_refused_where_64_times_leaves_int32(fill: int, channels: int) -> None:
    w = np.full((3, 3, channels, 1), fill, np.int8)
    beyond = 64 * 255 * 9 * channels * fill < INT32.min or 64 * 255 * 9 * channels * fill > INT32.max
    assert (winograd.refuse_sums(w) is not None) == beyond


@ISAS
@pytest.mark.parametrize("size", [(8, 8), (9, 10), (14, 14), (4, 33)])
@pytest.mark.parametrize("channels", [32, 34, 50])
def test_sizes_that_tiles_and_vectors_do_not_divide(isa: Isa, size: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(0)
    n = 37
    scale, bias = rng.random(n, np.float32) * 0.02, rng.standard_normal(n).astype(np.float32) * 9
    inputs = [codes(rng, 2, *size, channels), weights(rng, 3, 3, channels, n), scale, bias]
    op = convolution(REQUANT)
    (expected,) = op.eval(*inputs)
    for threads in (1, 3):
        (actual,) = run(KERNEL, op, inputs, isa, threads, constants=[1, 2, 3])
        np.testing.assert_array_equal(actual, expected)


@ISAS
def test_residual(isa: Isa) -> None:
    rng = np.random.default_rng(1)
    inputs = [codes(rng, 1, 11, 12, 32), weights(rng, 3, 3, 32, 24), codes(rng, 1, 9, 10, 24)]
    op = convolution(RESIDUAL, pad=0)
    (actual,) = run(KERNEL, op, inputs, isa, 2, constants=[1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@ISAS
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_sums_of_extremes(isa: Isa, data: st.DataObject) -> None:
    """Codes of 0 and 255 in the pattern of a row of B, weights of -128 and 127: the largest values of every step."""
    draw = data.draw
    height, width = draw(st.integers(9, 13)), draw(st.integers(9, 13))
    channels, n = draw(st.integers(16, 28)) * 2, draw(st.integers(16, 40))
    signs = np.asarray(draw(st.lists(st.booleans(), min_size=12, max_size=12)))
    x = np.where(np.resize(signs[:6], height)[:, None] == np.resize(signs[6:], width), 255, 0).astype(np.uint8)
    x = np.ascontiguousarray(np.broadcast_to(x[None, :, :, None], (1, height, width, channels)))
    fill = draw(st.sampled_from([[127], [-128], [127, -128], [-128, 127, 127]]))
    w = np.resize(np.asarray(fill, np.int8), (3, 3, channels, n))
    op = convolution(ACC, zero_point=draw(st.sampled_from([0, 128, 255])))
    (actual,) = run(KERNEL, op, [x, w], isa, draw(st.integers(1, 3)), constants=[1])
    np.testing.assert_array_equal(actual, op.eval(x, w)[0])


@pytest.mark.parametrize("isa", [isa for isa in all_isas() if able(isa)], ids=lambda isa: isa.name)
def test_inner_loop_keeps_its_sums_in_registers(isa: Isa) -> None:
    tile = Tile(4 if isa.registers == 16 else 8, 2)
    text = assembly([products(isa, tile, 2, Epilogue(ACC, [])).text], isa)
    loop = inner_loop(text, "vpmaddwd")
    assert sum("vpmaddwd" in line for line in loop) == 2 * tile.rows * tile.vectors
    assert not stacked(loop)


def test_choice() -> None:
    def chosen(isa: str, size: int = 14, channels: int = 64, outputs: int = 64, **fields: object) -> str:
        op = dataclasses.replace(convolution(ACC), **fields)  # type: ignore[arg-type]
        x, w = np.zeros((1, size, size, channels), np.uint8), np.ones((3, 3, channels // op.groups, outputs), np.int8)
        return choose(make_node(op, [x, w], [1]), by_name(isa)).name

    assert chosen("avx2") == chosen("avx512") == "winograd"
    assert chosen("amx") == "amx_convolution"
    direct = [chosen(isa) for isa in ("generic", "neon_i8mm", "avx_vnni", "avx512_vnni")]
    direct += [chosen("avx2", strides=(2, 2)), chosen("avx2", groups=2), chosen("avx2", dilations=(2, 2))]
    direct += [chosen("avx2", size=4), chosen("avx2", channels=8), chosen("avx2", channels=33)]
    direct += [chosen("avx2", outputs=7), chosen("avx2", channels=16, outputs=8)]
    assert set(direct) == {"igemm_convolution"}


@pytest.mark.parametrize("threads", [1, 2, 5, 8, 24])
def test_threads_share_all_there_is(threads: int) -> None:
    for tiles, blocks in [(1, 1), (4, 16), (49, 4), (13, 8)]:
        rows, columns = shares(threads, tiles, blocks, 1000.0, 500.0, 100_000)
        assert rows * columns <= threads
        assert rows <= tiles
        assert columns <= blocks
    assert shares(threads, 240, 1, 1000.0, 500.0, 100_000) == (threads, 1)
    assert shares(threads, 1, 240, 1000.0, 500.0, 0) == (1, threads)
