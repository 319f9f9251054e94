"""Products of two u8 activations: exact for every zero point, shape and instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.matmul_codes import KERNELS
from lpir.ir.types import f32, i32, u8
from lpir.ops.lowered import LoweredMatMul
from lpir.scalar.expr import cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import EXACT, assert_close

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
REAL = cast(input_(0, i32), f32) * 0.01


def codes(shape: tuple[int, ...], seed: int, extreme: bool = False) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 2, shape) * 255 if extreme else rng.integers(0, 256, shape)).astype(np.uint8)


@ISAS
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_product(isa: Isa, data: st.DataObject) -> None:
    batch = data.draw(st.sampled_from([(), (2,), (2, 3), (1, 3)]))
    m, k, n = (data.draw(st.sampled_from([1, 2, 3, 7, 16, 33, 64])) for _ in range(3))
    other = data.draw(st.sampled_from([batch, batch[1:], (1,) * len(batch), ()]))
    transpose, extreme = data.draw(st.booleans()), data.draw(st.booleans())
    za, zb = data.draw(st.sampled_from([0, 3, 128, 255])), data.draw(st.sampled_from([128, 0, 7]))
    a = codes((*batch, m, k), 0, extreme)
    b = codes((*other, n, k) if transpose else (*other, k, n), 1, extreme)
    if data.draw(st.booleans()):
        b, zb = (b.astype(np.int16) - 128).astype(np.int8), zb - 128
    op = LoweredMatMul(transpose, za, zb, input_(0, i32))
    (actual,) = run(KERNELS[0], op, [a, b], isa, data.draw(st.sampled_from([1, 2, 3])))
    assert_close(actual, op.eval(a, b)[0], EXACT)


@ISAS
def test_attention(isa: Isa) -> None:
    q, k, mask = codes((2, 3, 40, 32), 0), codes((2, 3, 40, 32), 1), np.linspace(-9, 0, 80, dtype=np.float32)
    scores = LoweredMatMul(True, 120, 131, REAL + input_(1))
    inputs = [q, k, mask.reshape(2, 1, 1, 40)]
    assert_close(run(KERNELS[0], scores, inputs, isa, 2)[0], scores.eval(*inputs)[0], EXACT)
    weights, values = codes((2, 3, 40, 40), 2), codes((2, 3, 40, 32), 3)
    context = LoweredMatMul(False, 0, 128, cast(rint_i32(clamp(REAL, -128.0, 127.0)) + 128, u8))
    assert_close(run(KERNELS[0], context, [weights, values], isa, 2)[0], context.eval(weights, values)[0], EXACT)


@ISAS
def test_operand_that_repeats_along_columns(isa: Isa) -> None:
    a, b, rows = codes((2, 9, 16), 0), codes((2, 16, 20), 1), np.linspace(0, 1, 18, dtype=np.float32).reshape(2, 9, 1)
    op = LoweredMatMul(False, 5, 128, REAL * input_(1))
    assert_close(run(KERNELS[0], op, [a, b, rows], isa, 2)[0], op.eval(a, b, rows)[0], EXACT)
