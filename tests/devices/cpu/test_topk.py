"""TopK: bit-identical to the reference, ties, NaN and signed zeros included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.topk import KERNELS
from lpir.ir.types import i32, i64
from lpir.ops.sorting import TopK
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
AWKWARD = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, -1.5, 1e-45, -1e-45, 3e38], np.float32)


def check(op: TopK, x: Array, k: int, isa: Isa, threads: int = 1) -> None:
    inputs = [x, np.asarray(k)]
    actual, expected = run(KERNELS[0], op, inputs, isa, threads, (1,)), op.eval(*inputs)
    assert actual[1].tobytes() == expected[1].tobytes(), f"places {actual[1]}, expected {expected[1]}"
    assert actual[0].tobytes() == expected[0].tobytes()


@ISAS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_axis(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind: Any = data.draw(st.sampled_from([np.float32, np.int32, np.uint8, np.int8]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    # few different values: many ties
    x = rng.choice(AWKWARD, shape) if kind is np.float32 else rng.integers(0, 6, shape).astype(kind)
    op = TopK(
        axis,
        data.draw(st.sampled_from(["max", "min"])),
        data.draw(st.sampled_from(["value", "index", "none"])),
        data.draw(st.sampled_from([i32, i64])),
    )
    check(op, x, data.draw(st.integers(1, shape[axis])), isa, data.draw(st.sampled_from([1, 3])))


@ISAS
@pytest.mark.parametrize("order", ["rising", "falling", "equal", "random"])
def test_long_rows(isa: Isa, order: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    x = {"rising": np.sort(x), "falling": -np.sort(-x), "equal": np.zeros_like(x), "random": x}[order]
    for k in (1, 2, 100, 2999, 3000):
        for sort in ("value", "index"):
            check(TopK(1, "max", sort), x, k, isa, 2)


@ISAS
def test_extreme_integers(isa: Isa) -> None:
    x = np.array([2**31 - 1, -(2**31), 0, -1, 2**31 - 1, -(2**31)], np.int32)
    for mode in ("max", "min"):
        check(TopK(0, mode, "value"), x, 6, isa)


def test_refusals_are_words() -> None:
    node = make_node(TopK(0, "max", "value"), [np.zeros(4), np.asarray(2)], (1,))
    assert KERNELS[0].applies(node, HOST_ISAS[0]) == "elements of type f64"
