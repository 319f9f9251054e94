"""Products with weights that stay codes: every kernel on every ISA against the lowered operation's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.compressed import KERNELS, node_storage, stream_rows
from lpir.ir.types import f32, i4, i8, u4, u8
from lpir.ops.lowered_compressed import CompressedMatMul
from lpir.scalar.expr import clamp, input_
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run
from tests.tolerances import F32_SUM, assert_close

STREAM, PANEL = KERNELS
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
IDENTITY = input_(0, f32)
TYPES = {"i8": i8, "u8": u8, "i4": i4, "u4": u4}


def layer(type: str, m: int, k: int, n: int, groups: int, flip: bool = False, seed: int = 0) -> list[Array]:
    """Inputs of a product: codes over the whole range of their type, a scale and a zero point for each group."""
    rng = np.random.default_rng(seed)
    low, high = TYPES[type].limits
    codes = rng.integers(low, high + 1, (n, k) if flip else (k, n)).astype(TYPES[type].dtype)
    zero = rng.integers(low, high + 1, (groups, n)) if type.startswith("u") else np.zeros((groups, n))
    scale = rng.uniform(0.01, 0.02, (groups, n))
    return [rng.standard_normal((m, k)).astype(np.float32), codes, scale.astype(np.float32), zero.astype(np.float32)]


def check(op: CompressedMatMul, inputs: list[Array], isa: Isa, threads: int = 1) -> None:
    """Every kernel that applies; sums of float64 decide."""
    a, codes, scale, zero = (x.astype(np.float64) for x in inputs[:4])
    exact = a @ op.weights(codes, scale, zero) if op.epilogue == IDENTITY else op.eval(*inputs)[0]
    for kernel in KERNELS:
        if kernel is STREAM and len(a) > stream_rows(isa):
            continue
        (actual,) = run(kernel, op, inputs, isa, threads, range(1, len(inputs)))
        assert_close(actual, exact, F32_SUM.per(a.shape[1]), kernel.name)


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_size(isa: Isa, data: st.DataObject) -> None:
    type = data.draw(st.sampled_from(sorted(TYPES)))
    groups = data.draw(st.integers(1, 5))
    length = data.draw(st.sampled_from([1, 3, 8, 24, 32, 64, 67, 300]))
    m, n = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([1, 2, 7, 8, 15, 16, 17, 48, 100, 130]))
    flip = data.draw(st.booleans())
    inputs = layer(type, m, groups * length, n, groups, flip)
    check(CompressedMatMul(flip, IDENTITY), inputs, isa, data.draw(st.sampled_from([1, 2, 3])))


@ISAS
@pytest.mark.parametrize("type", sorted(TYPES))
def test_largest_codes(isa: Isa, type: str) -> None:
    for edge in TYPES[type].limits:
        inputs = layer(type, 3, 512, 40, 4)
        inputs[1] = np.full_like(inputs[1], edge)
        check(CompressedMatMul(False, IDENTITY), inputs, isa)
        check(CompressedMatMul(False, IDENTITY), [np.ones_like(inputs[0]), *inputs[1:]], isa)


@ISAS
@pytest.mark.parametrize("m", [1, 200])
def test_epilogue_operands(isa: Isa, m: int) -> None:
    inputs = layer("u4", m, 128, 72, 2, seed=1)
    rng = np.random.default_rng(2)
    bias, other = (rng.standard_normal(s).astype(np.float32) for s in ((72,), (m, 72)))
    op = CompressedMatMul(False, clamp(input_(0) + input_(1), -1.0, 1.0) * input_(2))
    check(op, [*inputs, bias, other], isa, 2)


def test_weights_are_exactly_what_the_chain_computes() -> None:
    op = CompressedMatMul(False, IDENTITY)
    _, codes, scale, zero = layer("u8", 1, 64, 5, 2)
    zero += np.float32(0.25)
    chain = (codes.astype(np.float32) - np.repeat(zero, 32, 0)) * np.repeat(scale, 32, 0)
    np.testing.assert_array_equal(op.weights(codes, scale, zero), chain)


@ISAS
def test_the_panel_holds_exactly_the_decoded_weights(isa: Isa) -> None:
    """A row of the input that is 0 but for one 1 reads a row of the weights."""
    for type in sorted(TYPES):
        inputs = layer(type, 8, 64, 33, 2)
        inputs[0] = np.eye(8, 64, dtype=np.float32)
        op = CompressedMatMul(False, IDENTITY)
        (actual,) = run(PANEL, op, inputs, isa, 1, (1, 2, 3))
        np.testing.assert_array_equal(actual, op.weights(*inputs[1:])[:8], type)


@pytest.mark.parametrize(("type", "length", "bits"), [("i4", 64, 4), ("u4", 128, 4), ("u4", 12, 8), ("i8", 64, 8)])
def test_four_bits_take_half_a_byte(type: str, length: int, bits: int) -> None:
    inputs = layer(type, 1, 2 * length, 5, 2)
    node = make_node(CompressedMatMul(False, IDENTITY), inputs, (1, 2, 3))
    storage, found = node_storage(node)
    assert (storage.bits, found) == (bits, length)


def test_refusals_are_words() -> None:
    inputs: list[Any] = layer("i8", 9, 8, 5, 1)
    node = make_node(CompressedMatMul(False, IDENTITY), inputs, (2, 3))
    assert PANEL.applies(node, HOST_ISAS[-1]) == "the weights are not constant"
    assert "rows" in (STREAM.applies(node, HOST_ISAS[-1]) or "")
