"""INT8 products of few rows and many weights in AMX's tile registers: equal bits, and how rows are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.codegen.jit import assembly
from lpir.devices.cpu.isa import by_name
from lpir.devices.cpu.kernels import amx_stream
from lpir.devices.cpu.kernels.channel_parts import axis_of, parts_of
from lpir.devices.cpu.kernels.convolution_amx import ConvolutionAmx
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand
from lpir.ir.types import f32
from lpir.ops.lowered import LoweredConvolution
from lpir.scalar.expr import Expr, cast, input_, rint_i32
from tests.devices.cpu.harness import Array, build, make_node, run
from tests.devices.cpu.test_convolution_int8 import ACC, REQUANT, RESIDUAL, codes, convolution, weights

AMX = by_name("amx")
needs_amx = pytest.mark.skipif(not AMX.available(), reason="this machine has no AMX")
SAME = {"pads_begin": (1, 1), "pads_end": (1, 1)}

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], LoweredConvolution]] = {
    "in_place": ((1, 7, 7, 512), (1, 1, 512, 1024), convolution(2, REQUANT)),
    "parts": ((1, 7, 7, 2048), (1, 1, 2048, 256), convolution(2, REQUANT)),
    "every_other_pixel": ((1, 13, 14, 1024), (1, 1, 1024, 512), convolution(2, REQUANT, strides=(2, 2))),
    "padded": ((1, 7, 7, 512), (3, 3, 512, 128), convolution(2, REQUANT, **SAME)),
    "padded_stride": ((1, 14, 14, 512), (3, 3, 512, 128), convolution(2, REQUANT, strides=(2, 2), **SAME)),
    "not_square": ((1, 19, 12, 256), (3, 2, 256, 384), convolution(2, REQUANT, strides=(3, 2), pads_begin=(2, 0))),
    "dilated": ((1, 10, 8, 192), (2, 3, 192, 512), convolution(2, REQUANT, dilations=(3, 2), pads_end=(1, 2))),
    "batch": ((2, 4, 7, 320), (3, 3, 320, 192), convolution(2, REQUANT, **SAME)),
    "1d": ((1, 82, 320), (5, 320, 384), convolution(1, REQUANT, strides=(2,), pads_begin=(1,), pads_end=(2,))),
    "3d": ((1, 6, 4, 3, 256), (3, 1, 1, 256, 704), convolution(3, REQUANT, pads_begin=(1, 0, 0))),
}


def is_streamed(op: LoweredConvolution, inputs: list[Array], constants: list[int]) -> bool:
    steps, *_ = build(ConvolutionAmx(), make_node(op, inputs, constants), inputs, AMX)
    return steps[-1].code.symbol.startswith("amx_stream")


@needs_amx
@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("constants", [[1], [1, 2, 3]], ids=["clamped", "saturated"])
def test_geometry(name: str, threads: int, constants: list[int]) -> None:
    shape, kernel, op = GEOMETRIES[name]
    rng = np.random.default_rng(1)
    scale, bias = rng.random(kernel[-1], np.float32) * 0.02, rng.standard_normal(kernel[-1]).astype(np.float32) * 9
    inputs = [codes(rng, *shape), weights(rng, *kernel), scale, bias]
    assert is_streamed(op, inputs, constants)
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, threads, constants)
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(4, 8), st.integers(6, 8)),
    st.sampled_from([576, 640, 1024]),
    st.integers(0, 255),
)
def test_any_geometry(
    taps: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    begin: tuple[int, int],
    end: tuple[int, int],
    out: tuple[int, int],
    channels: int,
    zero_point: int,
) -> None:
    sizes = zip(taps, strides, dilations, begin, end, out, strict=True)
    spatial = [max(1, (o - 1) * s + (t - 1) * d + 1 - b - e) for t, s, d, b, e, o in sizes]
    rng = np.random.default_rng(zero_point)
    op = convolution(
        2, REQUANT, strides=strides, dilations=dilations, pads_begin=begin, pads_end=end, x_zero_point=zero_point
    )
    n = -(-amx_stream.LEAST_WEIGHTS // (channels * taps[0] * taps[1] * 64)) * 64
    inputs = [codes(rng, 1, *spatial, channels), weights(rng, *taps, channels, n)]
    inputs += [rng.random(n, np.float32) * 0.01, rng.standard_normal(n).astype(np.float32)]
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, 2, [1, 2, 3])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("operand", ["tensor", "pixel", "channel"])
def test_tensor_operands(size: int, operand: str) -> None:
    shape = {"tensor": (1, size, size, 1024), "pixel": (1, 1, size, 1024), "channel": (1024,)}[operand]
    rng = np.random.default_rng(2)
    inputs = [codes(rng, 1, size, size, 512), weights(rng, 1, 1, 512, 1024), rng.random(1024, np.float32) * 0.01]
    inputs.append(codes(rng, *shape))
    op = convolution(2, RESIDUAL)
    assert is_streamed(op, inputs, [1])
    (actual,) = run(ConvolutionAmx(), op, inputs, AMX, 2, [1])
    np.testing.assert_array_equal(actual, op.eval(*inputs)[0])


@needs_amx
@pytest.mark.parametrize("epilogue", [ACC, cast(ACC, f32) * 0.5], ids=["i32", "f32"])
@pytest.mark.parametrize(("code", "weight"), [(255, 127), (255, -128), (0, -128)])
def test_extremes_are_exact(epilogue: Expr, code: int, weight: int) -> None:
    x, w = np.full((1, 7, 7, 4608), code, np.uint8), np.full((1, 1, 4608, 128), weight, np.int8)
    w[..., ::2] = -1 - weight
    op = convolution(2, epilogue)
    assert is_streamed(op, [x, w], [1])
    (actual,) = run(ConvolutionAmx(), op, [x, w], AMX, 2, [1])
    np.testing.assert_array_equal(actual, op.eval(x, w)[0])


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((1, 7, 7, 512), (1, 1, 512, 512)),
        ((1, 9, 9, 512), (1, 1, 512, 2048)),
        ((1, 5, 6, 512), (1, 1, 512, 2048)),
        ((1, 7, 7, 528), (1, 1, 528, 2048)),
        ((1, 7, 7, 512), (1, 1, 512, 2080)),
    ],
    ids=["few_weights", "many_rows", "few_rows", "steps_not_whole", "groups_not_whole"],
)
def test_what_is_not_streamed(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    op = convolution(2, ACC)
    assert not is_streamed(op, [np.zeros(shape, np.uint8), np.zeros(kernel, np.int8)], [1])


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_every_tap_reads_its_pixel(out: int, taps: int, stride: int, dilation: int, before: int) -> None:
    size = (out - 1) * stride + (taps - 1) * dilation + 1
    axis = axis_of(size, out, taps, stride, dilation, before)
    for tap, (rest, shift) in enumerate(axis.taps):
        for pixel in range(out):
            assert pixel + shift < axis.length
            # what lies there is at this place of the padded input
            at = axis.remainders[rest] + stride * (pixel + shift)
            assert at == pixel * stride + tap * dilation
            left, count, first = axis.inside(axis.remainders[rest])
            inside = left <= pixel + shift < left + count
            assert inside == (0 <= at - before < size)
            assert not inside or first + stride * (pixel + shift - left) == at - before


def test_parts_are_near() -> None:
    def parts(size: int, channels: int, taps: int, stride: int) -> int:
        op = convolution(2, ACC, strides=(stride, stride), pads_begin=(taps // 2,) * 2, pads_end=(taps // 2,) * 2)
        found = parts_of(op, (1, size, size, channels), (1, 7, 7, 64), (taps, taps))
        assert found is not None
        return found.parts

    assert parts(7, 512, 1, 1) == parts(7, 512, 3, 1) == 1
    assert parts(7, 2048, 1, 1) == 4
    assert parts(14, 1024, 1, 2) == 2
    assert parts(14, 512, 3, 2) == 8


@pytest.mark.parametrize("saturate", [True, False])
def test_code_on_any_host(saturate: bool) -> None:
    operands = [Operand("vector", f32), Operand("vector", f32)]
    expr = rint_i32(cast(ACC, f32) * input_(1) + input_(2)) if saturate else REQUANT
    steps = np.arange(8, dtype=np.int32) * 64
    gemm = amx_stream.build(AMX, np.arange(49) * 512, steps, 1, 64, Epilogue(expr, operands, saturate=saturate))
    assert gemm is not None
    text = assembly([gemm.kernel.text], AMX)
    assert text.count("tdpbusd") == amx_stream.DOWN
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1
    # vectors are only stored to the output, and sums only through tiles
    assert not [line for line in text.splitlines() if "rsp" in line and "zmm" in line and line.rstrip().endswith(")")]
