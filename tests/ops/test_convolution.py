"""`convolve` against its formula, and what its cases cannot say."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.ir.op import Arg
from lpir.ir.shape import PartialShape
from lpir.ir.types import f16, u8
from lpir.ops.convolution import UNROLLED, Convolution, convolve
from tests.tolerances import EXACT, F16_ROUNDING, assert_close

Array = np.ndarray[Any, np.dtype[Any]]


def direct(x: Array, w: Array, stride: int, dilation: int, begin: int, end: int, groups: int) -> Array:
    """The formula, one output at a time, in Python integers' range (2-D)."""
    x = np.pad(x.astype(np.int64), [(0, 0), (0, 0), (begin, end), (begin, end)])
    reach = [(k - 1) * dilation + 1 for k in w.shape[2:]]
    out = [(n - r) // stride + 1 for n, r in zip(x.shape[2:], reach, strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *out), np.int64)
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for n, o, i, j in itertools.product(*map(range, y.shape)):
        first = o // per_out * per_in
        rows = slice(i * stride, i * stride + reach[0], dilation)
        columns = slice(j * stride, j * stride + reach[1], dilation)
        y[n, o, i, j] = (x[n, first : first + per_in, rows, columns] * w[o].astype(np.int64)).sum()
    return y


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.integers(1, 2),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(0, 2**32 - 1),
)
def test_integer_sums_are_exact(
    groups: int,
    per_in: int,
    per_out: int,
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (2, groups * per_in, 7, 8)).astype(np.uint8)
    w = rng.integers(-128, 128, (groups * per_out, per_in, *kernel)).astype(np.int8)
    expected = direct(x, w, stride, dilation, *pads, groups)
    shared = ((stride,) * 2, (dilation,) * 2, (pads[0],) * 2, (pads[1],) * 2, groups)
    assert_close(convolve(x, w, *shared, np.int64), expected, EXACT)
    assert_close(convolve(x, w, *shared, np.float64), expected.astype(np.float64), EXACT)


def test_sums_beyond_float64_are_exact() -> None:
    x = np.full((1, 2, 1, 3), 2**31 - 1, np.int64)
    w = np.full((1, 2, 1, 3), 2**29 + 1, np.int64)
    y = convolve(x, w, (1, 1), (1, 1), (0, 0), (0, 0), 1, np.int64)
    assert int(y[0, 0, 0, 0]) == 6 * (2**31 - 1) * (2**29 + 1)


def test_blocks_of_rows_join() -> None:
    """An image that is unrolled in several blocks gives the sums of one that is not."""
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (1, 16, 60, 64)).astype(np.int64)
    w = rng.integers(-9, 9, (2, 16, 3, 3)).astype(np.int64)
    assert x.size * 9 > 2 * UNROLLED
    y = convolve(x, w, (1, 1), (1, 1), (0, 0), (0, 0), 1, np.int64)
    for first in (0, 17, 57):
        part = convolve(x[:, :, first : first + 3], w, (1, 1), (1, 1), (0, 0), (0, 0), 1, np.int64)
        assert_close(y[:, :, first : first + 1], part, EXACT)


def test_empty_batch() -> None:
    x, w = np.zeros((0, 3, 5, 5), np.float32), np.zeros((4, 3, 3, 3), np.float32)
    assert convolve(x, w, (1, 1), (1, 1), (0, 0), (0, 0), 1, np.float32).shape == (0, 4, 3, 3)


def test_half_precision_is_summed_in_float32() -> None:
    x = np.ones((1, 4096, 1), np.float16)
    w = np.ones((1, 4096, 1), np.float16)
    (y,) = Convolution((1,), (1,), (0,), (0,)).eval(x, w)
    assert_close(y, np.full((1, 1, 1), 4096, np.float16), F16_ROUNDING)


def test_types_must_agree() -> None:
    op = Convolution((1,), (1,), (0,), (0,))
    with pytest.raises(Exception, match="the input is u8 and the weights are f16"):
        op.infer([Arg(u8, PartialShape.of([1, 3, 9])), Arg(f16, PartialShape.of([4, 3, 3]))])
