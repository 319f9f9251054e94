"""Where the buffers of a plan lie: one arena, in which buffers that are never alive together share bytes."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence

import numpy as np

from lpir.ir.op import Array
from lpir.record import record

# of every buffer, in bytes
ALIGNMENT = 64
# bytes behind every buffer that vector loads may read
SLACK = 64
# of the processor's larger pages; smaller pieces of memory than LARGE need few pages of any size
HUGE_PAGE, LARGE = 2 << 20, 1 << 20


@record
class Block:
    """A buffer of `size` bytes that is alive from step `first` to step `last`, both inclusive."""

    size: int
    first: int
    last: int


@record
class Placement:
    """Byte offset of each block, and the bytes of the whole arena (with slack)."""

    offsets: tuple[int, ...]
    size: int


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def place(blocks: Sequence[Block]) -> Placement:
    """Offsets for all blocks: largest first, each in the tightest gap that its lifetime leaves.

    Every offset is a multiple of 64. The slack behind a block may be another block: it is only read.
    """
    count = len(blocks)
    sizes = np.array([aligned(max(b.size, 1)) for b in blocks], np.int64)
    first = np.array([b.first for b in blocks], np.int64)
    last = np.array([b.last for b in blocks], np.int64)
    offsets = np.zeros(count, np.int64)
    placed = np.zeros(0, np.int64)
    for index in np.lexsort((first, -sizes)):
        alive = placed[(first[placed] <= last[index]) & (last[placed] >= first[index])]
        order = alive[np.argsort(offsets[alive], kind="stable")]
        offsets[index] = _tightest(offsets[order], offsets[order] + sizes[order], int(sizes[index]))
        placed = np.append(placed, index)
    end = int((offsets + sizes).max()) if count else 0
    return Placement(tuple(int(o) for o in offsets), end + SLACK)


def place_by_lanes(blocks: Sequence[Block]) -> Placement:
    """Offsets for blocks that two threads share by halves, so that a byte is always the same thread's.

    What a thread writes over the other's last result costs several times as much as over its own: the lines are in the
    other core's cache. Blocks of one lane are never alive together and have one middle.
    """
    sizes = [2 * aligned(-(-max(b.size, 1) // 2)) for b in blocks]
    lanes: list[list[int]] = []
    for index in sorted(range(len(blocks)), key=lambda i: (-sizes[i], blocks[i].first)):
        free = (lane for lane in lanes if not any(_meet(blocks[index], blocks[other]) for other in lane))
        lane = next(free, None)
        if lane is None:
            lanes.append(lane := [])
        lane.append(index)
    offsets, end = [0] * len(blocks), 0
    for lane in lanes:
        # the first one is the largest
        whole = sizes[lane[0]]
        for index in lane:
            offsets[index] = end + (whole - sizes[index]) // 2
        end += whole
    return Placement(tuple(offsets), end + SLACK)


def _meet(a: Block, b: Block) -> bool:
    """Whether both are alive at some step."""
    return a.first <= b.last and b.first <= a.last


def _tightest(starts: Array, ends: Array, size: int) -> int:
    """The start of the smallest gap of at least `size` bytes between sorted, possibly overlapping intervals."""
    if not len(starts):
        return 0
    reach = np.maximum.accumulate(ends)
    before = np.concatenate([[0], reach[:-1]])
    gaps = starts - before
    fits = np.flatnonzero(gaps >= size)
    if not len(fits):
        return int(reach[-1])
    return int(before[fits[np.argmin(gaps[fits])]])


def allocate(size: int) -> Array:
    """Zeroed bytes that start at a multiple of 64; many of them in huge pages, where the system has them."""
    huge = size >= LARGE and hasattr(mmap, "MADV_HUGEPAGE")
    step = HUGE_PAGE if huge else ALIGNMENT
    if huge:
        memory = mmap.mmap(-1, size + step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # a system that was built without them refuses
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(memory, np.uint8)
    else:
        raw = np.zeros(size + step, np.uint8)
    skip = -raw.ctypes.data % step
    return raw[skip : skip + size]
