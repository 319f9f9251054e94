"""Softmax and normalization against the lowered reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.rowwise import KERNELS
from lpir.ir.types import u8
from lpir.ops.lowered import LoweredNormalize, LoweredSoftmax, finish
from lpir.scalar.expr import cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import EXACT, F32_SUM, ONE_STEP, assert_close

SOFTMAX, NORMALIZE = KERNELS
ACC, A, B = input_(0), input_(1), input_(2)
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@ISAS
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_softmax(isa: Isa, data: st.DataObject) -> None:
    shape = (*data.draw(st.lists(st.integers(1, 5), max_size=2)), data.draw(st.integers(1, 140)))
    x = normal(shape) * np.float32(data.draw(st.sampled_from([0.1, 5, 60])))
    if data.draw(st.booleans()):
        x[..., 0] = -np.inf if shape[-1] > 1 else 0
    op = LoweredSoftmax(ACC)
    (actual,) = run(SOFTMAX, op, [x], isa, data.draw(st.sampled_from([1, 2, 3])))
    assert_close(actual, op.eval(x)[0], F32_SUM.per(shape[-1]))


@ISAS
def test_softmax_to_codes_and_awkward_rows(isa: Isa) -> None:
    codes = LoweredSoftmax(cast(rint_i32(clamp(ACC * 255.0, 0.0, 255.0)), u8))
    x = normal((12, 77)) * 3
    assert_close(run(SOFTMAX, codes, [x], isa, 2)[0], codes.eval(x)[0], ONE_STEP)
    bad = normal((4, 20))
    bad[0, 3], bad[1] = np.nan, -np.inf
    with np.errstate(all="ignore"):
        expected = LoweredSoftmax(ACC).eval(bad)[0]
    assert_close(run(SOFTMAX, LoweredSoftmax(ACC), [bad], isa)[0], expected, F32_SUM.per(20))


@ISAS
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_normalize(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 5, 16, 33, 64]), min_size=2, max_size=4)))
    axes = data.draw(st.integers(1, len(shape)))
    mode = data.draw(st.sampled_from(["INSIDE_SQRT", "OUTSIDE_SQRT"]))
    gamma, beta = normal(shape[len(shape) - axes :], 1), normal((1,), 2)
    op = LoweredNormalize(axes, data.draw(st.booleans()), 1e-5, mode, ACC * A + B)
    x = normal(shape) + 3
    (actual,) = run(NORMALIZE, op, [x, gamma, beta], isa, data.draw(st.sampled_from([1, 2])))
    # the subtraction of the mean cancels: errors are relative to the input, and small deviations enlarge them
    deviation = (
        max(float(x.reshape(*shape[: len(shape) - axes], -1).std(-1).min()), 3e-3) if op.normalize_variance else 1.0
    )
    assert_close(actual, op.eval(x, gamma, beta)[0], F32_SUM.per(int(np.prod(shape)) + int((30 / deviation) ** 2)))


@ISAS
def test_operand_that_is_no_row(isa: Isa) -> None:
    x, other = normal((2, 3, 40)), normal((2, 1, 40), 1)
    op = LoweredSoftmax(ACC + A)
    assert_close(run(SOFTMAX, op, [x, other], isa, 2)[0], op.eval(x, other)[0], F32_SUM.per(40))
    norm = LoweredNormalize(1, True, 1e-5, "INSIDE_SQRT", ACC * A + B)
    inputs = [x, normal((2, 3, 40), 1), normal((2, 3, 1), 2)]
    assert_close(run(NORMALIZE, norm, inputs, isa, 2)[0], norm.eval(*inputs)[0], F32_SUM.per(400))


@ISAS
@pytest.mark.parametrize("other", [(70,), (6, 70), (6, 1)])
def test_codes_beside_the_floats(isa: Isa, other: tuple[int, ...]) -> None:
    """A second output is made of the first one's very floats; operands may be rows, vectors, or neither."""
    codes = cast(rint_i32(clamp(ACC * B * 40.0, -120.0, 135.0)) + 120, u8)
    op = LoweredNormalize(1, True, 1e-5, "INSIDE_SQRT", ACC * A, codes)
    inputs = [normal((6, 70)) + 3, normal((70,), 1), normal(other, 2)]
    first, second = run(NORMALIZE, op, inputs, isa, 2)
    expected = op.eval(*inputs)
    assert_close(first, expected[0], F32_SUM.per(400))
    assert_close(second, expected[1], ONE_STEP)
    again = finish(codes, first, inputs[1:], first.shape)
    assert_close(second, again, EXACT)
