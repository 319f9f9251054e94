"""Register tiles and thread shares of a matrix product: how many rows and vectors at once, and who does which."""

from __future__ import annotations

from lpir.devices.cpu.isa import Isa
from lpir.record import record

# bytes of weights that stay in the second cache beside all else, of chunks of rows with such weights, and with others
SMALL_WEIGHTS, SMALL_CHUNK, LARGE_CHUNK = 256 * 1024, 96 * 1024, 1024 * 1024
# what a core reads from memory in a cycle while it computes
BYTES_A_CYCLE = 8
MAX_ROWS = 8  # each row of a tile holds one address register


@record
class Tile:
    """`rows` output pixels by `vectors` vectors of output channels."""

    rows: int
    vectors: int


def fits(tile: Tile, registers: int, spare: int) -> bool:
    """Whether accumulators, one column of weights and `spare` more vectors stay in registers."""
    return tile.rows * tile.vectors + tile.vectors + spare <= registers


def rank_tiles(
    isa: Isa, m: int, n: int, steps: int, dot_cost: float, epilogue_cost: float, spare: int, height: int = 1
) -> list[Tile]:
    """Tiles for `m` rows, `n` channels and `steps` dot products an accumulator, the least estimated work first.

    Costs are in vector operations: `dot_cost` of one dot product, `epilogue_cost` of one stored vector. Ties go to the
    larger tile, so that similar layers share one kernel. `height`: rows that an instruction takes, and registers that
    hold what it multiplies them by.
    """
    columns = -(-n // isa.lanes())
    found: list[tuple[float, int, Tile]] = []
    for vectors in range(1, min(columns, 8) + 1):
        for rows in range(height, min(m, MAX_ROWS) + 1, height):
            tile = Tile(rows, vectors)
            if not fits(tile, isa.registers, spare + (height - 1) * vectors):
                continue
            count = -(-m // rows) * -(-columns // vectors)
            cells = rows * vectors
            # a dot product waits for the one before it in its accumulator: too few accumulators leave gaps
            step = max(cells * dot_cost, (rows + vectors) * 1.0, 4.0) + 1.5
            cost = count * (steps * step + cells * epilogue_cost + 12)
            found.append((cost, -cells, tile))
    return [tile for *_, tile in sorted(found, key=lambda item: item[:2])]


def choose_tile(
    isa: Isa, m: int, n: int, steps: int, dot_cost: float, epilogue_cost: float, spare: int, height: int = 1
) -> Tile:
    """The first of `rank_tiles`."""
    return rank_tiles(isa, m, n, steps, dot_cost, epilogue_cost, spare, height)[0]


def choose_chunks(groups: int, tiles: int, blocks: int, tile_bytes: int, threads: int, cache: int) -> tuple[int, int]:
    """Into how many chunks to cut `tiles` row tiles and `blocks` column blocks.

    A unit of work is a chunk of rows by a chunk of columns of one group; threads take contiguous runs of units. A chunk
    of rows (`tile_bytes` a tile) stays within `cache` bytes, and the busiest thread has as little as possible to do.
    """
    least = -(-tiles * tile_bytes // cache)
    rows = sorted({min(tiles, max(1, c)) for c in (least, threads, -(-least // threads) * threads, 2 * threads, tiles)})
    columns = sorted({min(blocks, c) for c in (1, threads, 2 * threads, blocks)})
    best: tuple[float, int, int] | None = None
    for mc in rows:
        for nc in columns:
            if mc < least and mc < tiles:
                continue
            share = busiest(groups, tiles, blocks, mc, nc, threads)
            # every chunk of rows reads all weights again: prefer few chunks among nearly equal shares
            cost = share * (1 + 0.002 * mc + 0.001 * nc)
            if best is None or cost < best[0]:
                best = (cost, mc, nc)
    assert best is not None
    return best[1], best[2]


def choose_order(
    groups: int, tiles: int, blocks: int, tile_cycles: float, sizes: tuple[int, int, int], threads: int
) -> tuple[int, int]:
    """Chunks of row tiles and of column blocks of a product of floats, whose operands may be larger than a cache.

    `sizes`: bytes of a group's left operand, weights and result; `tile_cycles`: of one register tile. Threads that
    share the rows read all weights, threads that share the columns read all rows, and what reads their result next
    finds a part of each row in another core. Where a thread's weights stay in its second cache, small chunks of rows
    are read and written once, in the order of memory; else weights pass once by a chunk of rows that stays there.
    """
    x, w, y = sizes
    chunk = SMALL_CHUNK if w <= SMALL_WEIGHTS else LARGE_CHUNK
    best: tuple[float, int, int] | None = None
    shares = [(threads // c, c) for c in range(1, threads + 1) if threads % c == 0]
    for rows, columns in [(1, 1), *((min(r, tiles), min(c, blocks)) for r, c in shares)]:
        # threads that share columns would not go through chunks of rows together
        mc = min(rows * -(-x // rows // chunk), tiles) if columns == 1 else rows
        passes = blocks if x // mc > LARGE_CHUNK else columns
        moved = groups * (x * passes + w * rows + (y / 2 if columns > 1 else 0)) / threads
        cost = busiest(groups, tiles, blocks, mc, columns, threads) * tile_cycles + moved / BYTES_A_CYCLE
        if best is None or cost < best[0]:
            best = (cost, mc, columns)
    assert best is not None
    return best[1], best[2]


def busiest(groups: int, tiles: int, blocks: int, mc: int, nc: int, threads: int) -> int:
    """Register tiles of the thread that has most of them."""
    units = groups * mc * nc
    if units > 4096:
        return -(-groups * tiles * blocks // threads)
    work = [0] * threads
    for t in range(threads):
        for u in range(units * t // threads, units * (t + 1) // threads):
            i, j = u % (mc * nc) // nc, u % nc
            height = tiles * (i + 1) // mc - tiles * i // mc
            work[t] += height * (blocks * (j + 1) // nc - blocks * j // nc)
    return max(work)
