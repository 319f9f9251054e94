"""Matrix product with an epilogue: float32 convolutions of any rank, and MatMul of any two operands, float32 or u8.

For group `g`, row (output pixel) `m` and channel `n`:

    acc = sum_t sum_c x[x_groups[g] + rows(m) + taps[t] + 4 c] * w[g, t, c, n]      (fused where it can be, k in order)
    out[row, channel] = epilogue(acc, operands)

A group is a group of a convolution (channel `g * N + n` of row `m`) or one matrix of a batch (row `g * M + m`). Rows of
`x`, of the output and of tensor operands are a byte stride or an int32 table of byte offsets (`Rows`).

`w` is packed when it is constant: `[G, blocks, K, vectors * lanes]`, so that a step of the inner loop reads one run.
Else it is read where it is, as rows of `[K, N]`.

Where K is long and `w` is packed floats, K is cut in parts: all row tiles of a chunk add one part before any goes on to
the next. Their sums wait in the thread's own memory, as they are: the order of a sum does not change. While a part is
at work, each round of the inner loop asks for some cache lines of the weights that come next.

The inner loop takes 4 bytes of a row of `x` at a time: a float; or 4 u8 codes ("bytes"); or 2 codes as int16 ("words",
where the dot product of bytes is not exact). Codes of `w` lie as `[K / 4, N, 4]` u8, 128 more than what is multiplied,
or as `[K / 2, N, 2]` int16. Zero points enter through sums of rows of `x` and of columns of `w`:

    sum (a - za)(b - zb) = sum a b - zb sum a - za sum b + K za zb

Reads are whole vectors: every buffer needs 64 readable bytes behind its end. The last row tile and the last vector
overlap their neighbors, so some outputs are computed and stored twice: the output must not share memory with an input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import tiling
from lpir.devices.cpu.kernels.base import Step
from lpir.devices.cpu.kernels.epilogue import Bound, Operand, Rows, element_bytes
from lpir.devices.cpu.kernels.fgemm_print import LINE, Form, is_long, kernel
from lpir.devices.cpu.kernels.pack import Array, channel_index
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.record import record
from lpir.scalar.expr import Expr

# bytes of input rows that one unit of work may touch: they are read again for every block of columns
CACHE = 256 * 1024
# products of one part of K: the weights of a block stay in the first cache for all row tiles
PART = 128


@record
class Shape:
    """Sizes of a product: groups, rows, channels a group, runs of input channels and their length in 4 bytes."""

    groups: int
    m: int
    n: int
    taps: int
    channels: int


@record
class Cut:
    """How the sum over K is cut: runs of `length` products, `runs` of them a part, `parts` parts."""

    length: int
    runs: int
    parts: int


@record
class Schedule:
    """The order of a product: the cut of K, row tiles, column blocks, and chunks of both.

    `streams`: whether the weights of the next part have to come from memory while one is at work.
    """

    cut: Cut
    tiles: int
    blocks: int
    m_chunks: int
    n_chunks: int
    streams: bool = False

    @property
    def chunk_tiles(self) -> int:
        """Row tiles of the largest chunk."""
        return -(-self.tiles // self.m_chunks)

    def kept_bytes(self, isa: Isa, tile: Tile) -> int:
        """Bytes of the sums that a thread keeps between two parts of K."""
        return self.chunk_tiles * tile.rows * tile.vectors * isa.bits // 8


@record
class Call:
    """Buffers of one layer. `taps`: int64 byte offset of every run; `x_groups`, `w_groups`: int64 byte offset of every
    group; `batched`: whether groups follow each other as rows instead of as channels; `sums`: parameters of the sums of
    codes: int32 vectors `row_sums`, `column_sums`, int64 first elements of a group's `row_groups`, `column_groups`,
    factors `row_factor`, `column_factor`, and `base`, which is added where there are column sums.

    With K cut in parts: `zeros`, sums of one tile to start from, and `kept`, memory of every thread for sums.
    """

    x: Ref
    x_rows: Rows
    x_groups: Ref
    w: Ref
    w_groups: Ref
    taps: Ref
    out: Ref
    operands: Sequence[Bound]
    batched: bool
    sums: Mapping[str, int | Ref] = field(default_factory=dict)
    zeros: Ref | int = 0
    kept: Ref | int = 0


def tiles(isa: Isa, shape: Shape, packed: bool, operations: int) -> list[Tile]:
    """Register tiles, the best first. Where `w` is not packed, all vectors of a block lie side by side."""
    widest = shape.n if packed else max(shape.n // isa.lanes(), 1) * isa.lanes()
    return tiling.rank_tiles(isa, shape.m, widest, shape.taps * shape.channels, 1.0, operations + 2.0, 1)


def pack(w: Array, isa: Isa, tile: Tile) -> Array:
    """`w` [G, K, N] float32 as `[G, blocks, K, vectors * lanes]`."""
    groups, k, n = w.shape
    index = channel_index(n, isa.lanes(), tile.vectors).reshape(-1, tile.vectors * isa.lanes())
    padded = np.zeros((groups, k, n + 1), np.float32)
    padded[:, :, :n] = w
    # lane -1 takes the zero column
    return np.ascontiguousarray(padded[:, :, index].transpose(0, 2, 1, 3))


def cut(shape: Shape) -> Cut:
    """Parts of K of about `PART`, of equally long runs; one part where K is short or its runs do not allow it."""
    k = shape.taps * shape.channels
    length = max((d for d in range(1, PART + 1) if shape.channels % d == 0), default=1)
    if k <= 2 * PART or length < min(shape.channels, PART // 4):
        return Cut(shape.channels, shape.taps, 1)
    runs = k // length
    each = -(-runs // -(-runs // (PART // length)))
    return Cut(length, each, -(-runs // each))


def unroll_of(tile: Tile, channels: int, operations: int) -> int:
    """Steps a round of the inner loop: small tiles need more, to hide its overhead.

    One where the constants of a long epilogue hold registers: the loads of a second step would push sums to the stack.
    """
    cells = tile.rows * tile.vectors
    wanted = 4 if cells <= 6 else 1 if is_long(operations, cells) else 2
    return max(u for u in (1, 2, 4) if u <= wanted and channels % u == 0)


def schedule(isa: Isa, shape: Shape, tile: Tile, threads: int, cuts: bool, x_bytes: int) -> Schedule:
    """The order of a product; `cuts`: whether K may be cut; `x_bytes`: of the left operand of a group."""
    columns = -(-shape.n // isa.lanes())
    tiles, blocks = -(-shape.m // tile.rows), -(-columns // tile.vectors)
    k = shape.taps * shape.channels
    if cuts:
        cycles = tile.rows * tile.vectors * k / 2
        w_bytes = 4 * k * shape.n
        mc, nc = tiling.choose_order(
            shape.groups, tiles, blocks, cycles, (x_bytes, w_bytes, 4 * shape.m * shape.n), threads
        )
        # small weights that many chunks read are soon in the cache
        streams = w_bytes // nc > tiling.SMALL_WEIGHTS or mc <= threads
        return Schedule(cut(shape), tiles, blocks, mc, nc, streams)
    mc, nc = tiling.choose_chunks(shape.groups, tiles, blocks, tile.rows * k * 4, threads, CACHE)
    return Schedule(Cut(shape.channels, shape.taps, 1), tiles, blocks, mc, nc)


def weights_ahead(isa: Isa, tile: Tile, unroll: int, tiles: int) -> tuple[int, int]:
    """How far a round of the inner loop moves where it prefetches, in bytes, and how many cache lines it asks for.

    Together, the rounds of `tiles` row tiles move on by as much as one of them reads.
    """
    ahead = -(-unroll * tile.vectors * isa.bits // 8 // tiles)
    lines = -(-ahead // LINE)
    return (ahead if lines == 1 else lines * LINE), lines


def step(
    isa: Isa,
    shape: Shape,
    tile: Tile,
    form: Form,
    epilogue: Expr,
    operands: Sequence[Operand],
    call: Call,
    order: Schedule,
) -> Step:
    """The step that computes a product, whose runs `order` has cut already."""
    made, printer = kernel(isa, tile, form, epilogue, tuple(operands))
    lanes = isa.lanes()
    values: dict[str, int | float | F32 | Ref] = {
        **{"x": call.x, "x_rows": call.x_rows.table or call.x_rows.stride, "x_groups": call.x_groups},
        **{"w": call.w, "w_groups": call.w_groups, "w_step": tile.vectors * lanes * 4 if form.packed else shape.n * 4},
        **{"out": call.out, "m": shape.m, "n": shape.n, "channels": shape.channels},
        **{"k": shape.taps * shape.channels, "groups": shape.groups},
        **{"row_group": shape.m if call.batched else 0, "channel_group": 0 if call.batched else shape.n},
        **{"out_row": shape.n * (1 if call.batched else shape.groups) * element_bytes(printer.type)},
        **{"m_tiles": order.tiles, "n_blocks": order.blocks, "m_chunks": order.m_chunks, "n_chunks": order.n_chunks},
        **printer.values(call.operands),
    }
    if form.taps:
        values |= {"taps": call.taps, "tap_count": shape.taps}
    if form.prefetch:
        values["ahead"], _ = weights_ahead(isa, tile, form.unroll, order.chunk_tiles)
    if form.parts:
        values |= {"parts": order.cut.parts, "part_runs": order.cut.runs}
        values |= {"zeros": call.zeros, "kept": call.kept, "kept_thread": order.kept_bytes(isa, tile)}
    values |= call.sums
    return Step.of(made, values)
