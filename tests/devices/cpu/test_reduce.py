"""Reductions against the lowered reference: integers equal, float sums reordered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.reduce import KERNELS
from lpir.ir.types import f32, from_dtype, i32, u8
from lpir.ops.lowered import Reduce, accumulator_of
from lpir.scalar.expr import cast, clamp, input_, rint_i32
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import EXACT, F32_SUM, assert_close

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def check(op: Reduce, inputs: list[Array], isa: Isa, threads: int = 1) -> None:
    (actual,) = run(KERNELS[0], op, inputs, isa, threads)
    exact = inputs[0].dtype != np.float32 or op.kind in ("max", "min")
    (expected,) = op.eval(*inputs)
    # a sum of positive and negative terms may be small beside its terms
    assert_close(actual, expected, EXACT if exact else F32_SUM.per(64 * inputs[0].size))


@ISAS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_axes(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 7, 16, 40, 65]), min_size=1, max_size=4)))
    while np.prod(shape) > 20000:
        shape = shape[1:]
    axes = tuple(a for a in range(len(shape)) if data.draw(st.booleans()))
    kind = data.draw(st.sampled_from(["sum", "max", "min", "prod"]))
    dtype = data.draw(st.sampled_from([np.float32, np.uint8, np.int32, np.int64]))
    rng = np.random.default_rng(0)
    x = rng.uniform(0.9, 1.1, shape).astype(dtype) if dtype == np.float32 else rng.integers(0, 200, shape).astype(dtype)
    zero_point = 7 if dtype == np.uint8 else 0
    if dtype == np.int64:
        x = x * rng.integers(-(2**55), 2**55, shape)
    acc = input_(0, accumulator_of(from_dtype(np.dtype(dtype))))
    op = Reduce(kind, axes, data.draw(st.booleans()), zero_point, acc)
    check(op, [x], isa, data.draw(st.sampled_from([1, 2, 3])))


@ISAS
def test_global_average_pooling(isa: Isa) -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 1290)).astype(np.uint8)
    mean = cast(rint_i32(clamp(cast(input_(0, i32), f32) * (1 / 49) + input_(1), 0.0, 255.0)), u8)
    check(Reduce("sum", (1, 2), True, 3, mean), [x, np.linspace(0, 9, 1290, dtype=np.float32)], isa, 2)


@ISAS
def test_nan_wins(isa: Isa) -> None:
    x = np.arange(120, dtype=np.float32).reshape(3, 40)
    x[1, 5] = np.nan
    for kind in ("max", "min"):
        check(Reduce(kind, (0,), False, 0, input_(0)), [x], isa)
        check(Reduce(kind, (1,), False, 0, input_(0)), [x], isa)
