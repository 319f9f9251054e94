"""Pooling against the lowered reference: maxima and integer sums equal, float sums in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.pool import KERNELS
from lpir.errors import ModelError
from lpir.ir.types import f32, i32, u8
from lpir.ops.lowered import Pool
from lpir.scalar.expr import Expr, cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run
from tests.tolerances import EXACT, F32_CHAIN, assert_close

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def epilogue(kind: str, is_bytes: bool) -> Expr:
    acc = cast(input_(0, i32), f32) if is_bytes else input_(0)
    if kind == "avg":
        return acc / input_(1) + input_(2)
    return acc * input_(1)


@ISAS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_window(isa: Isa, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))

    def draw(lo: int, hi: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(lo, hi)) for _ in range(rank))

    kind, is_bytes = data.draw(st.sampled_from(["max", "avg"])), data.draw(st.booleans())
    op = Pool(
        draw(1, 3),
        draw(1, 2),
        draw(0, 2),
        draw(0, 2),
        kind,
        draw(1, 4),
        data.draw(st.booleans()),
        9 if is_bytes else 0,
        epilogue(kind, is_bytes),
    )
    c = data.draw(st.sampled_from([1, 3, 16, 24, 40, 64, 70, 130]))
    shape = (data.draw(st.integers(1, 2)), *draw(4, 8), c)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, shape).astype(np.uint8) if is_bytes else rng.standard_normal(shape).astype(np.float32)
    inputs: list[Array] = [x, rng.standard_normal(c).astype(np.float32)]
    try:
        node = make_node(op, inputs)
    except ModelError:
        assume(False)
    assume(KERNELS[0].applies(node, isa) is None)
    (actual,) = run(KERNELS[0], op, inputs, isa, data.draw(st.sampled_from([1, 2, 3])))
    assert_close(actual, op.eval(*inputs)[0], EXACT if is_bytes or kind == "max" else F32_CHAIN)


@ISAS
def test_codes_stay_codes(isa: Isa) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 13, 13, 96)).astype(np.uint8)
    same = cast(input_(0, i32), u8)
    maximum = Pool((2, 2), (1, 1), (1, 1), (1, 1), "max", (3, 3), False, 0, same)
    assert_close(run(KERNELS[0], maximum, [x], isa, 2)[0], maximum.eval(x)[0], EXACT)
    mean = cast(rint_i32(clamp(cast(input_(0, i32), f32) / input_(1) + 5.0, 0.0, 255.0)), u8)
    average = Pool((1, 1), (1, 1), (1, 1), (1, 1), "avg", (3, 3), True, 5, mean)
    assert_close(run(KERNELS[0], average, [x], isa, 2)[0], average.eval(x)[0], EXACT)


@ISAS
def test_nan_in_a_window(isa: Isa) -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 20)).astype(np.float32)
    x[0, 2, 2], x[0, 0, 0], x[0, 5, 5] = np.nan, np.nan, np.nan
    for pad in (0, 1):
        op = Pool((1, 1), (1, 1), (pad, pad), (pad, pad), "max", (3, 3), False, 0, input_(0))
        assert_close(run(KERNELS[0], op, [x], isa)[0], op.eval(x)[0], EXACT)
