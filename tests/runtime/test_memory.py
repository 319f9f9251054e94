"""The arena planner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpir.runtime.memory import (
    ALIGNMENT,
    SLACK,
    Block,
    Placement,
    aligned,
    allocate,
    place,
    place_by_lanes,
)

blocks = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 10)).map(
        lambda t: Block(size=t[0], first=t[1], last=t[1] + t[2])
    ),
    max_size=40,
)


@pytest.mark.parametrize("how", [place, place_by_lanes])
@given(found=blocks)
def test_living_blocks_never_overlap(how: Callable[[Sequence[Block]], Placement], found: list[Block]) -> None:
    placement = how(found)
    for i, (a, at) in enumerate(zip(found, placement.offsets, strict=True)):
        assert at % ALIGNMENT == 0
        assert at + a.size + SLACK <= placement.size
        for b, bt in zip(found[:i], placement.offsets[:i], strict=True):
            together = a.first <= b.last and b.first <= a.last
            assert not together or at + a.size <= bt or bt + b.size <= at


@given(blocks)
def test_never_worse_than_one_after_the_other(found: list[Block]) -> None:
    assert place(found).size <= sum(aligned(max(b.size, 1)) for b in found) + SLACK


def test_a_chain_takes_two_buffers() -> None:
    chain = [Block(1024, i, i + 1) for i in range(20)]
    assert place(chain).size == 2 * 1024 + SLACK


@given(blocks)
def test_halves_of_a_lane_stay_with_their_threads(found: list[Block]) -> None:
    placement = place_by_lanes(found)
    halves = [(at, at + aligned(-(-max(b.size, 1) // 2))) for b, at in zip(found, placement.offsets, strict=True)]
    ends = [2 * middle - at for at, middle in halves]
    for at, middle in halves:
        for (other, other_middle), end in zip(halves, ends, strict=True):
            # blocks have the same middle, or not a byte in common
            assert middle == other_middle or at >= end or 2 * middle - at <= other


def test_a_chain_in_lanes_takes_the_two_largest() -> None:
    chain = [Block(1024 * (20 - i), i, i + 1) for i in range(20)]
    assert place_by_lanes(chain).size == (20 + 19) * 1024 + SLACK


def test_memory_is_aligned() -> None:
    assert all(allocate(n).ctypes.data % ALIGNMENT == 0 and len(allocate(n)) == n for n in (1, 63, 1000))
