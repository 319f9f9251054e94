"""LoweredAttention: the integer sums of its scores are exact on every instruction set, its floats within tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa, all_isas
from lpir.devices.cpu.kernels.attention import KERNELS
from lpir.ir.types import f32, i32, u8
from lpir.ops.lowered_attention import LoweredAttention
from lpir.scalar.expr import Expr, apply, cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run
from tests.tolerances import EXACT, ONE_STEP, Tolerance, assert_close

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
IDENTITY = input_(0, f32)
# powers within 2 ulp and sums in another order; the terms of a row of weights add up to 1
ATTENTION = Tolerance(
    "ATTENTION", "softmax with its own exp, sums in another order, divided last", rel=4e-6, of_max=4e-6
)
AXES = st.tuples(*[st.sampled_from([1, 2])] * 4)


def turned(shape: tuple[int, int, int, int], axis: int) -> tuple[int, ...]:
    """`[B, H, rows, columns]` in a layout."""
    return shape if axis == 1 else (shape[0], shape[2], shape[1], shape[3])


def codes(shape: tuple[int, ...], seed: int, extreme: bool) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 2, shape) * 255 if extreme else rng.integers(0, 256, shape)).astype(np.uint8)


def normal(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def one_byte_of(shift: int) -> Expr:
    """A score that shows 8 bits of the int32 sum: each step of it changes a weight by about 2 %."""
    return cast(apply("and", apply("shr", input_(0, i32), shift), 255), f32) * 0.02


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_sums_of_codes_are_exact(isa: Isa, data: st.DataObject) -> None:
    b, h = data.draw(st.sampled_from([(1, 1), (2, 3)]))
    m, n = (data.draw(st.sampled_from([1, 2, 5, 16, 33, 40])) for _ in range(2))
    d = data.draw(st.sampled_from([4, 8, 20, 32, 68]))
    axes, extreme = data.draw(AXES), data.draw(st.booleans())
    zeros = [data.draw(st.sampled_from([0, 3, 128, 131, 255])) for _ in range(2)]
    q = codes(turned((b, h, m, d), axes[0]), 0, extreme)
    k = codes(turned((b, h, n, d), axes[1]), 1, extreme)
    # the unit matrix gives the weights themselves
    v = np.broadcast_to(np.eye(n, dtype=np.float32), (b, h, n, n))
    v = v if axes[2] == 1 else v.swapaxes(1, 2)
    for shift in (0, 8, 16):
        op = LoweredAttention(axes, *zeros, 0, one_byte_of(shift), IDENTITY)
        (actual,) = run(KERNELS[0], op, [q, k, v], isa, data.draw(st.sampled_from([1, 2, 3])))
        assert_close(actual, op.eval(q, k, v)[0], ATTENTION)


@ISAS
@pytest.mark.parametrize("zeros", [(0, 128), (255, 0), (0, 255), (128, 128)])
def test_all_codes_at_the_limit(isa: Isa, zeros: tuple[int, int]) -> None:
    q, k = np.full((1, 2, 9, 64), 255, np.uint8), np.full((1, 2, 17, 64), 255, np.uint8)
    k[:, :, ::3] = 0
    v = np.broadcast_to(np.eye(17, dtype=np.float32), (1, 2, 17, 17))
    for shift in (0, 8, 16):
        op = LoweredAttention((1, 1, 1, 1), *zeros, 0, one_byte_of(shift), IDENTITY)
        assert_close(run(KERNELS[0], op, [q, k, v], isa)[0], op.eval(q, k, v)[0], ATTENTION)


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_floats_with_masks(isa: Isa, data: st.DataObject) -> None:
    b, h = data.draw(st.sampled_from([(1, 2), (2, 3)]))
    m, n = (data.draw(st.sampled_from([1, 3, 7, 16, 37, 70])) for _ in range(2))
    d, e = (data.draw(st.sampled_from([1, 3, 8, 24, 64])) for _ in range(2))
    axes = data.draw(AXES)
    q, k = normal(turned((b, h, m, d), axes[0]), 0), normal(turned((b, h, n, d), axes[1]), 1)
    v = normal(turned((b, h, n, e), axes[2]), 2)
    mask = normal(data.draw(st.sampled_from([(n,), (b, 1, 1, n), (1, h, m, n), (b, 1, m, n), ()])), 3)
    out = turned((b, h, m, e), axes[3])
    factors = normal(data.draw(st.sampled_from([(e,), out[2:], out, (1, 1, 1, 1)])), 4)
    op = LoweredAttention(axes, 0, 0, 1, IDENTITY * (d**-0.5) + input_(1), IDENTITY * input_(1))
    inputs = [q, k, v, mask, factors]
    (actual,) = run(KERNELS[0], op, inputs, isa, data.draw(st.sampled_from([1, 2, 3])))
    assert_close(actual, op.eval(*inputs)[0], ATTENTION)


@ISAS
def test_masked_columns_count_for_nothing(isa: Isa) -> None:
    q, k, v = (normal((1, 12, 2, 16), i) for i in range(3))
    v[:, 9:] = 1e30
    mask = np.where(np.arange(12) < 9, 0, np.finfo(np.float32).min).astype(np.float32)
    op = LoweredAttention((2, 2, 2, 2), 0, 0, 1, IDENTITY + input_(1), IDENTITY)
    assert_close(run(KERNELS[0], op, [q, k, v, mask], isa)[0], op.eval(q, k, v, mask)[0], ATTENTION)


@ISAS
def test_nan_stays_in_its_row(isa: Isa) -> None:
    q, k, v = (normal((1, 2, 20, 16), i) for i in range(3))
    q[0, 1, 5, 3] = np.nan
    op = LoweredAttention((1, 1, 1, 1), 0, 0, 0, IDENTITY, IDENTITY)
    (actual,) = run(KERNELS[0], op, [q, k, v], isa)
    assert np.isnan(actual[0, 1, 5]).all()
    assert np.isnan(actual).sum() == 16


@ISAS
def test_codes_out(isa: Isa) -> None:
    q, k = codes((1, 70, 3, 32), 0, False), codes((1, 70, 3, 32), 1, False)
    v = normal((1, 70, 3, 40), 2)
    real = cast(input_(0, i32), f32) * 1e-5
    result = cast(rint_i32(clamp(IDENTITY * 40.0, -120.0, 135.0)) + 120, u8)
    op = LoweredAttention((2, 2, 2, 2), 120, 131, 0, real, result)
    assert_close(run(KERNELS[0], op, [q, k, v], isa, 2)[0], op.eval(q, k, v)[0], ONE_STEP)


@ISAS
def test_threads_agree(isa: Isa) -> None:
    q, k, v = (normal((1, 3, 100, 32), i) for i in range(3))
    op = LoweredAttention((1, 1, 1, 1), 0, 0, 0, IDENTITY, IDENTITY)
    (alone,) = run(KERNELS[0], op, [q, k, v], isa, 1)
    for threads in (2, 4, 7):
        assert_close(run(KERNELS[0], op, [q, k, v], isa, threads)[0], alone, EXACT)


def test_refusals() -> None:
    isa = all_isas()[0]
    odd = [codes((1, 2, 4, 6), 0, False), codes((1, 2, 4, 6), 1, False), normal((1, 2, 4, 8), 2)]
    node = make_node(LoweredAttention((1, 1, 1, 1), 0, 128, 0, cast(input_(0, i32), f32), IDENTITY), odd)
    assert "multiple of 4" in str(KERNELS[0].applies(node, isa))
    inputs = [normal((1, 2, 4, 8), i) for i in range(3)] + [normal((1, 1, 4, 1), 3)]
    node = make_node(LoweredAttention((1, 1, 1, 1), 0, 0, 1, IDENTITY + input_(1), IDENTITY), inputs)
    assert "repeats along the columns" in str(KERNELS[0].applies(node, isa))


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_values_in_parts(isa: Isa, data: st.DataObject) -> None:
    """Sizes whose product with v is in tile registers, where there are any: masked, in any layout, uneven columns."""
    b, h = data.draw(st.sampled_from([(1, 2), (2, 3)]))
    m, n, e = (data.draw(st.sampled_from(sizes)) for sizes in ([20, 33, 50, 64], [17, 31, 32, 64, 127], [16, 32, 48]))
    axes, d = data.draw(AXES), data.draw(st.sampled_from([32, 64, 128]))
    q, k = (codes(turned((b, h, x, d), axes[i]), i, False) for i, x in enumerate((m, n)))
    v = normal(turned((b, h, n, e), axes[2]), 2) * np.float32(data.draw(st.sampled_from([1e-20, 1, 1e20])))
    seen = np.where(np.arange(n) % 5 < 3, 0, np.finfo(np.float32).min).astype(np.float32)
    real = cast(input_(0, i32), f32) * data.draw(st.sampled_from([1e-4, 1e-2])) + input_(1)
    op = LoweredAttention(axes, 120, 128, 1, real, IDENTITY * input_(1))
    inputs = [q, k, v, seen, normal((e,), 3)]
    (actual,) = run(KERNELS[0], op, inputs, isa, data.draw(st.sampled_from([1, 2, 3])))
    assert_close(actual, op.eval(*inputs)[0], ATTENTION)


@ISAS
def test_parts_add_up_to_what_they_are_of(isa: Isa) -> None:
    """The error of a product whose terms differ in size is that of float32, not of bfloat16."""
    q, k = np.full((1, 1, 32, 32), 128, np.uint8), codes((1, 1, 128, 32), 1, False)
    v = normal((1, 1, 128, 32), 2)
    v[..., 1::2] += 1000
    op = LoweredAttention((1, 1, 1, 1), 127, 128, 0, cast(input_(0, i32), f32) * 3e-3, IDENTITY)
    (actual,) = run(KERNELS[0], op, [q, k, v], isa)
    exact = op.eval(q, k, v.astype(np.float64))[0]
    weights = op.eval(q, k, np.broadcast_to(np.eye(128, dtype=np.float32), (1, 1, 128, 128)))[0]
    terms = np.abs(weights).astype(np.float64) @ np.abs(v).astype(np.float64)
    assert (np.abs(actual - exact) / terms).max() < 1e-6
