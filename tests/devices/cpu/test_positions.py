"""Gathers and scatters by position, and running sums: bit-identical to the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import Kernel
from lpir.devices.cpu.kernels.cumsum import KERNELS as SUMS
from lpir.devices.cpu.kernels.positions import KERNELS
from lpir.ir.op import REGISTRY, Op
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run

POSITIONS, ELEMENTS = KERNELS
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
KINDS: list[Any] = [np.float32, np.uint8, np.int64]


def both(
    kernel: Kernel, type: str, inputs: list[Array], isa: Isa, threads: int, constants: tuple[int, ...], **more: Any
) -> tuple[Array, Array]:
    """What a kernel and the reference make of an operation with one output."""
    make: Any = REGISTRY[type]
    op: Op = make(**more)
    (actual,), (expected,) = run(kernel, op, inputs, isa, threads, constants), op.eval(*inputs)
    return actual, expected


def check(
    kernel: Kernel, type: str, inputs: list[Array], isa: Isa, threads: int, constants: tuple[int, ...] = (), **more: Any
) -> None:
    actual, expected = both(kernel, type, inputs, isa, threads, constants, **more)
    assert actual.tobytes() == expected.tobytes(), f"{actual}, expected {expected}"


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_positions_of_several_numbers(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    rng, kind = np.random.default_rng(data.draw(st.integers(0, 9))), data.draw(st.sampled_from(KINDS))
    batch = data.draw(st.integers(0, len(shape) - 1))
    depth, count = data.draw(st.integers(1, len(shape) - batch)), data.draw(st.integers(1, 6))
    threads = data.draw(st.sampled_from([1, 3]))
    x = rng.integers(0, 100, shape).astype(kind)
    places = np.stack([rng.integers(-n, n, (*shape[:batch], count)) for n in shape[batch : batch + depth]], -1)
    places = places.astype(data.draw(st.sampled_from([np.int32, np.int64])))
    check(POSITIONS, "GatherND", [x, places], isa, threads, batch_dims=batch)
    if batch == 0:
        # positions that come twice keep the last update
        updates = rng.integers(100, 200, (count, *shape[depth:])).astype(kind)
        check(POSITIONS, "ScatterNDUpdate", [x, places, updates], isa, threads)


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_places_along_an_axis(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    axis, count = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(1, 7))
    rng, kind = np.random.default_rng(data.draw(st.integers(0, 9))), data.draw(st.sampled_from(KINDS))
    threads, n = data.draw(st.sampled_from([1, 2])), shape[axis]
    x = rng.integers(0, 100, shape).astype(kind)
    wanted = (*shape[:axis], count, *shape[axis + 1 :])
    places, updates = rng.integers(-n, n, wanted), rng.integers(100, 200, wanted).astype(kind)
    check(ELEMENTS, "GatherElements", [x, places], isa, threads, axis=axis)
    check(ELEMENTS, "ScatterElementsUpdate", [x, places, updates, np.asarray(axis)], isa, threads, (3,))
    slices = rng.integers(-n, n, (count,))
    check(POSITIONS, "ScatterUpdate", [x, slices, updates, np.asarray(axis)], isa, threads, (3,))


AWKWARD = np.array([-0.0, 0.0, 1e30, -1e30, 1.5, 0.1, np.inf, np.nan], np.float32)


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_updates_join_what_is_there_in_their_order(isa: Isa, data: st.DataObject) -> None:
    """Places come several times; NaN, infinities, zeros of both signs, and sums that depend on the order."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    axis, count = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(1, 7))
    rng, kind = np.random.default_rng(data.draw(st.integers(0, 9))), data.draw(st.sampled_from([*KINDS[::2], np.int32]))

    def numbers(*lengths: int) -> Array:
        whole = rng.integers(-100, 100, lengths)
        return rng.choice(AWKWARD, lengths) if kind is np.float32 else whole.astype(kind)

    threads, n = data.draw(st.sampled_from([1, 2])), shape[axis]
    wanted = (*shape[:axis], count, *shape[axis + 1 :])
    x, places, updates = numbers(*shape), rng.integers(-n, n, wanted), numbers(*wanted)
    joins = {
        "reduction": data.draw(st.sampled_from(["sum", "prod", "min", "max"])),
        "use_init_val": data.draw(st.booleans()),
    }
    rows = rng.integers(-shape[0], shape[0], (count, 1))
    join = data.draw(st.sampled_from(["sum", "sub", "prod", "min", "max"]))
    with np.errstate(all="ignore"):
        same(ELEMENTS, "ScatterElementsUpdate", [x, places, updates, np.asarray(axis)], isa, threads, (3,), **joins)
        same(POSITIONS, "ScatterNDUpdate", [x, rows, numbers(count, *shape[1:])], isa, threads, reduction=join)


def same(
    kernel: Kernel, type: str, inputs: list[Array], isa: Isa, threads: int, constants: tuple[int, ...] = (), **more: Any
) -> None:
    """As `check`, but one NaN is as good as another."""
    actual, expected = both(kernel, type, inputs, isa, threads, constants, **more)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual[actual == 0]), np.signbit(expected[expected == 0]))


@ISAS
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_running_sums(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind: Any = data.draw(st.sampled_from([np.float32, np.int32, np.int64]))
    rng = np.random.default_rng(0)
    x = rng.choice(AWKWARD, shape) if kind is np.float32 else rng.integers(-(2**31), 2**31, shape).astype(kind)
    flags = {"exclusive": data.draw(st.booleans()), "reverse": data.draw(st.booleans())}
    with np.errstate(all="ignore"):
        make: Any = REGISTRY["CumSum"]
        op = make(**flags)
        (actual,), (expected,) = run(SUMS[0], op, [x, np.asarray(axis)], isa, 2, (1,)), op.eval(x, np.asarray(axis))
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual[actual == 0]), np.signbit(expected[expected == 0]))


def test_refusals_are_words() -> None:
    x, places = np.zeros((3, 4), np.float32), np.zeros((2, 1), np.int64)
    joined: Any = REGISTRY["ScatterNDUpdate"]
    node = make_node(joined("sum"), [x.astype(np.uint8), places, np.zeros((2, 4), np.uint8)])
    assert POSITIONS.applies(node, HOST_ISAS[0]) == "updates of type u8 are joined with what is there"
    few: Any = REGISTRY["ScatterElementsUpdate"]
    node = make_node(few(), [x, places, np.zeros((2, 1), np.float32), np.asarray(0)], (3,))
    assert ELEMENTS.applies(node, HOST_ISAS[0]) == "the indices do not cover the other axes"
