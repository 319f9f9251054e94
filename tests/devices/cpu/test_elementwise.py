"""Elementwise kernels give the same bits as the lowered reference, for any broadcast and any element type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.elementwise import KERNELS
from lpir.ir.types import ElementType, bf16, boolean, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64
from lpir.ops.lowered import Elementwise
from lpir.scalar.expr import (
    Expr,
    absolute,
    apply,
    bitcast,
    cast,
    clamp,
    equal,
    erf,
    exp,
    floor,
    greater,
    input_,
    less,
    rint_i32,
    select,
    sqrt,
    tanh,
)
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run
from tests.tolerances import EXACT, assert_close

KERNEL = KERNELS[0]
X, Y, Z = input_(0), input_(1), input_(2)
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def sample(rng: np.random.Generator, shape: tuple[int, ...], type: ElementType) -> Array:
    """Random elements, with the awkward ones among them."""
    if type == boolean:
        return rng.integers(0, 2, shape).astype(bool)
    if type.is_float:
        x = (rng.standard_normal(shape) * 40).astype(np.float32)
        awkward = np.asarray([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, 2.5, -0.5], np.float32)
        return np.where(rng.random(shape) < 0.1, rng.choice(awkward, shape), x).astype(np.float32)
    lo, hi = type.limits
    return rng.integers(lo, hi, shape, dtype=type.dtype, endpoint=True)


def same_bits(actual: Array, expected: Array) -> None:
    assert_close(actual, expected, EXACT)
    if actual.dtype == np.float32:
        a, e = actual.reshape(-1).view(np.int32), np.ravel(expected).view(np.int32)
        assert np.all((a == e) | np.isnan(actual.reshape(-1))), "signs of zero differ"


def check(expr: Expr, inputs: list[Array], isa: Isa, threads: int = 1, constants: Any = ()) -> None:
    (actual,) = run(KERNEL, Elementwise(expr), inputs, isa, threads, constants)
    same_bits(actual, Elementwise(expr).eval(*inputs)[0])


TYPED = {
    "quantize": (cast(rint_i32(clamp(X * 3.7, -12.0, 243.0)) + 12, u8), [f32]),
    "dequantize": (cast(cast(input_(0, u8), i32) - 128, f32) * 0.02, [u8]),
    "requantize": (cast(rint_i32(clamp(cast(input_(0, u8), f32) * 0.7, 0.0, 255.0)), u8), [u8]),
    "add codes": (
        cast(rint_i32(clamp(cast(input_(0, u8), f32) * 0.5 + cast(input_(1, u8), f32) * 0.3, 0.0, 255.0)), u8),
        [u8, u8],
    ),
    "unfused": (X * Y + Z, [f32, f32, f32]),
    "gelu": (X * 0.5 * (erf(X * 0.70710678) + 1.0), [f32]),
    "swish": (X / (exp(-X) + 1.0), [f32]),
    "tanh": (tanh(X), [f32]),
    "compare": (less(X, Y), [f32, f32]),
    "equal i64": (equal(input_(0, i64), input_(1, i64)), [i64, i64]),
    "select": (select(input_(0, boolean), input_(1), input_(2)), [boolean, f32, f32]),
    "mask": (select(greater(input_(0, i64), 0), input_(1), -10000.0 + 0 * input_(1)), [i64, f32]),
    "and": (apply("and", input_(0, boolean), input_(1, boolean)), [boolean, boolean]),
    "not": (apply("not", input_(0, boolean)), [boolean]),
    "convert i64": (cast(input_(0, i64), f32), [i64]),
    "convert f32": (cast(X, i64), [f32]),
    "convert u8": (cast(X, u8), [f32]),
    "narrow": (cast(input_(0, i64), i8), [i64]),
    "to bool": (cast(X, boolean), [f32]),
    "from bool": (cast(input_(0, boolean), f32), [boolean]),
    "bits": (bitcast(apply("and", bitcast(X, i32), 0x7FFFFFFF), f32), [f32]),
    "integer": (apply("maximum", absolute(input_(0, i32)), input_(1, i32)), [i32, i32]),
    "divide": (input_(0, i32) / input_(1, i32), [i32, i32]),
    "round": (floor(X) + sqrt(absolute(Y)), [f32, f32]),
    "constant": (cast(input_(0, u8), f32) * 0 + 3, [u8]),
}


@ISAS
@pytest.mark.parametrize("name", TYPED)
def test_expressions(isa: Isa, name: str) -> None:
    expr, types = TYPED[name]
    rng = np.random.default_rng(1)
    for length in (1, 7, 64, 333):
        check(expr, [sample(rng, (length,), t) for t in types], isa)


@ISAS
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_broadcasts(isa: Isa, data: st.DataObject) -> None:
    full = data.draw(st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 40]), min_size=0, max_size=4), label="shape")
    rng = np.random.default_rng(0)
    shapes = []
    for _ in range(3):
        keep = data.draw(st.integers(0, len(full)))
        ones = data.draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))
        shapes.append(tuple(1 if one else n for n, one in zip(full, ones, strict=True))[len(full) - keep :])
    constants = [i for i in range(3) if data.draw(st.booleans())]
    inputs = [sample(rng, s, t) for s, t in zip(shapes, (f32, u8, f32), strict=True)]
    expr = X * cast(input_(1, u8), f32) + Z
    check(expr, inputs, isa, data.draw(st.sampled_from([1, 2, 3])), constants)


@ISAS
def test_short_constant_rows_are_repeated(isa: Isa) -> None:
    rng = np.random.default_rng(0)
    image, scale, shift = sample(rng, (1, 30, 32, 3), u8), sample(rng, (3,), f32), sample(rng, (1, 1, 3), f32)
    expr = cast(input_(0, u8), f32) * Y + Z
    for threads in (1, 2):
        check(expr, [image, scale, shift], isa, threads, constants=(1, 2))


@ISAS
def test_empty_and_scalar(isa: Isa) -> None:
    check(X + Y, [np.zeros((0, 4), np.float32), np.ones(4, np.float32)], isa)
    check(X + Y, [np.asarray(1, np.float32), np.asarray(2, np.float32)], isa)


@ISAS
def test_leaf_that_is_not_read(isa: Isa) -> None:
    check(input_(1) + 1, [np.zeros((3, 1), np.float32), np.arange(3, dtype=np.float32).reshape(3, 1)], isa)


@ISAS
@pytest.mark.parametrize("type", [f16, bf16, f64, i16, u16, u32, u64], ids=lambda t: t.name)
def test_other_types_run_or_are_refused(isa: Isa, type: ElementType) -> None:
    x = np.abs(np.random.default_rng(0).standard_normal(77) * 50).astype(type.dtype)
    leaf = input_(0, type)
    for expr in (cast(leaf, f32), cast(cast(leaf, f32) * 1.37, type), leaf + leaf, apply("maximum", leaf, 1)):
        node = make_node(Elementwise(expr), [x])
        if KERNEL.applies(node, isa) is not None:
            assert type in (f16, bf16)
            continue
        check(expr, [x], isa)
