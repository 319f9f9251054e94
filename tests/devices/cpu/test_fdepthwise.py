"""Float32 depthwise convolution against the lowered reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.fdepthwise import KERNELS, choose_tile, row_chunks
from lpir.ops.lowered import LoweredConvolution
from lpir.scalar.expr import clamp, input_
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import F32_SUM, assert_close

RELU6 = clamp(input_(0) + input_(1), 0.0, 6.0)
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(
    x: Array, kernel: tuple[int, ...], isa: Isa, stride: int, dilation: int, pads: tuple[int, int], threads: int
) -> None:
    rank, c = len(kernel), x.shape[-1]
    op = LoweredConvolution(
        (stride,) * rank,
        (dilation,) * rank,
        (pads[0],) * rank,
        (pads[1],) * rank,
        groups=c,
        x_zero_point=0,
        epilogue=RELU6,
    )
    inputs = [x, normal((*kernel, 1, c), 1), normal((c,), 2)]
    (actual,) = run(KERNELS[0], op, inputs, isa, threads, (1, 2))
    assert_close(actual, op.eval(*inputs)[0], F32_SUM.per(int(np.prod(kernel))))


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_shape(isa: Isa, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    spatial = tuple(data.draw(st.integers(5, 12)) for _ in range(rank))
    channels = data.draw(st.sampled_from([1, 3, 8, 16, 20, 33, 48]))
    stride, dilation = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    pads = (data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2)))
    x = normal((data.draw(st.integers(1, 2)), *spatial, channels))
    check(x, kernel, isa, stride, dilation, pads, data.draw(st.sampled_from([1, 2, 3])))


@ISAS
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_typical_layers(isa: Isa, kernel: int, stride: int) -> None:
    pad = kernel // 2
    for size, channels in ((28, 40), (7, 96), (14, 24)):
        check(normal((1, size, size, channels)), (kernel, kernel), isa, stride, 1, (pad, pad), 2)


def test_tiles_divide_usual_sizes() -> None:
    assert [choose_tile(n, 9) for n in (7, 14, 28, 56, 112)] == [7, 7, 7, 8, 8]


def test_threads_get_as_many_rows() -> None:
    assert row_chunks(56, 1, 1) == 14
    assert row_chunks(56, 1, 2) == 28
    assert row_chunks(7, 1, 2) == 4
    assert row_chunks(7, 1, 16) == 7
    # with a stride rows share little
    assert row_chunks(28, 2, 2) == 28
