"""LoweredAttention as one step: scores, softmax and the product with v, a block of rows of one head at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import ClassVar

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import attention_parts, attention_tiles, tiling
from lpir.devices.cpu.kernels.attention_print import Form, Printer
from lpir.devices.cpu.kernels.attention_softmax import TOGETHER
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand, element_bytes
from lpir.devices.cpu.kernels.geometry import dense_strides
from lpir.devices.cpu.kernels.rows import bind_operand, operand_of, refuse_epilogue
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.ir.graph import Node, Value
from lpir.ir.op import Op
from lpir.ir.types import f32, u8
from lpir.ops.lowered import expanded
from lpir.ops.lowered_attention import LoweredAttention
from lpir.scalar.expr import Expr

# the largest D whose sums of products of codes stay in int32
MAX_D = (2**31 - 1) // (255 * 255)
# rows of a block, and bytes of its scores: they stay in the first-level cache beside a part of k or v
ROWS, BLOCK_BYTES = 32, 20 * 1024


class Attention(Kernel):
    """q and k in u8 or float32, v in float32."""

    name: ClassVar[str] = "attention"
    ops: ClassVar[tuple[type[Op], ...]] = (LoweredAttention,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredAttention)
        q, k, v = node.inputs[:3]
        if q.element_type != k.element_type or q.element_type not in (u8, f32) or v.element_type != f32:
            return f"q, k and v are {q.element_type}, {k.element_type} and {v.element_type}"
        if q.element_type == u8 and (q.shape[3].length % 4 or q.shape[3].length > MAX_D):
            return f"{q.shape[3]} codes a head are no multiple of 4 or too many"
        score_shape, out = shapes(node, op)
        for value, shape in zip(node.inputs[3:], operand_shapes(node, op, score_shape, out), strict=True):
            own = value.shape.to_static()
            if math.prod(own) > 1 and own[-1] != shape[-1]:
                return f"an operand {list(own)} repeats along the columns of {list(shape)}"
        return refuse_epilogue(expanded(op.scores)) or refuse_epilogue(expanded(op.epilogue))

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredAttention)
        score_shape, out = shapes(node, op)
        (batch, heads, m, n), e = score_shape, out[3]
        codes = node.inputs[0].element_type == u8
        steps = node.inputs[0].shape[3].length // (4 if codes else 1)
        right = op.k_zero_point - 128 if codes else 0
        tile, tile_v, rows = tiles(isa, m, n, e, steps)
        tiled = isa.tiles and codes and not right
        depth = attention_tiles.depth_of(4 * steps) if tiled else 0
        height = attention_parts.rows_of(m, n, e) if tiled else 0
        if height:
            # all tiles have one shape
            rows, depth, tile_v = height, attention_tiles.BYTES, Tile(TOGETHER, 2)
        if depth:
            # products of q and k have no tile of their own: kernels of all lengths are one
            tile = Tile(attention_tiles.MOST, 1)
        form = Form(
            arithmetic=("tiles" if depth else "bytes" if isa.exact else "words") if codes else "float",
            tail=n % isa.lanes() != 0,
            narrow=e < isa.lanes(),
            block=block_side(isa, n, steps),
            rows=right != 0,
            columns=codes and op.q_zero_point != 0,
            unroll=_unroll(tile, steps),
            unroll_v=1 if height else _unroll(tile_v, n),
            single=depth >= 4 * steps,
            parts=height > 0,
        )
        last = 3 + op.score_operands
        kinds = (
            [operand_of(v, score_shape) for v in node.inputs[3:last]],
            [operand_of(v, out) for v in node.inputs[last:]],
        )
        code, scores, epilogue = kernel(isa, tile, tile_v, form, op.scores, op.epilogue, *map(tuple, kinds))
        columns = -(-n // isa.lanes()) * isa.lanes()
        blocks = -(-m // rows)
        values: dict[str, int | float | F32 | Ref] = {
            **{"heads": heads, "units": batch * heads, "blocks": blocks, "block_rows": rows, "m": m, "n": n},
            **{"chunks": _chunks(batch * heads, blocks, ctx.threads), "steps": steps, "columns": columns, "e": e},
            **{"q_zero": op.q_zero_point, "right": right, "base": 4 * steps * op.q_zero_point * right},
            **_strides(node, op),
            **_out_strides(op, out),
            "out_bytes": e * element_bytes(op.epilogue.type),
            "out": ctx.ref(node.output),
            **_scratch(form, tile_v, isa, ctx, rows, columns, steps, n, e),
            **scores.values([bind_operand(v, score_shape, ctx) for v in node.inputs[3:last]]),
            **epilogue.values([bind_operand(v, out, ctx) for v in node.inputs[last:]]),
            **{name: ctx.ref(v) for name, v in zip("qkv", node.inputs, strict=False)},
        }
        if depth:
            tall = rows // 2 if height else min(rows, attention_tiles.MOST)
            config = ctx.constant(attention_tiles.config(tall, depth))
            values |= {"config": config, "tile_rows": tall, "depth": depth}
        return [Step.of(code, values)]


def shapes(node: Node, op: LoweredAttention) -> tuple[tuple[int, int, int, int], tuple[int, ...]]:
    """The shape of the scores and of the output."""
    q, k = (op.heads_first(i, node.inputs[i].shape.to_static()) for i in (0, 1))
    return (q[0], q[1], q[2], k[2]), node.output.shape.to_static()


def operand_shapes(
    node: Node, op: LoweredAttention, scores: tuple[int, ...], out: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """What each operand is read beside."""
    return [scores if i < op.score_operands else out for i in range(len(node.inputs) - 3)]


def tiles(isa: Isa, m: int, n: int, e: int, steps: int) -> tuple[Tile, Tile, int]:
    """Register tiles of the two products, and how many rows a block has."""
    most = max(1, min(m, ROWS, BLOCK_BYTES // (4 * n)))
    best: tuple[float, Tile, Tile, int] | None = None
    for rows in range(most, max(most // 2, 0), -1):
        first = tiling.choose_tile(isa, rows, n, steps, 1.0, 6.0, 1 if isa.exact else 4)
        second = tiling.choose_tile(isa, rows, e, n, 1.0, 6.0, 1)
        blocks = -(-m // rows)
        work = blocks * (
            steps * -(-rows // first.rows) * first.rows * n + n * -(-rows // second.rows) * second.rows * e
        )
        # every block goes over k and v again
        cost = work * (1.0 + 0.4 / rows)
        if best is None or cost < best[0]:
            best = cost, first, second, rows
    assert best is not None
    return best[1:]


def block_side(isa: Isa, n: int, steps: int) -> int:
    """The side of the blocks in which k is transposed; 0 where they would not fit."""
    side = isa.lanes()
    while side > min(n, steps):
        side //= 2
    return side if side >= 4 else 0


def _unroll(tile: Tile, steps: int) -> int:
    wanted = 1 if tile.rows * tile.vectors > 12 else 2 if tile.rows * tile.vectors > 6 else 4
    return max(u for u in (1, 2, 4) if u <= wanted and steps % u == 0)


def _chunks(units: int, blocks: int, threads: int) -> int:
    """Into how many parts to cut the row blocks of a head: only where heads alone do not keep all threads busy."""
    return 1 if units % threads == 0 or units >= 8 * threads else min(blocks, threads)


def _strides(node: Node, op: LoweredAttention) -> dict[str, int]:
    """Bytes between batches, heads and rows of q, k and v."""
    found: dict[str, int] = {}
    for i, name in enumerate("qkv"):
        value: Value = node.inputs[i]
        strides = [s * value.element_type.dtype.itemsize for s in dense_strides(value.shape.to_static())]
        axis = op.head_axes[i]
        found |= {f"{name}_batch": strides[0], f"{name}_head": strides[axis], f"{name}_row": strides[3 - axis]}
    return found


def _out_strides(op: LoweredAttention, out: Sequence[int]) -> dict[str, int]:
    """Rows of the output between batches, heads and rows of scores."""
    strides = dense_strides(out[:3])
    axis = op.head_axes[3]
    return {"out_batch": strides[0], "out_head": strides[axis], "out_row": strides[3 - axis]}


def _scratch(
    form: Form, tile_v: Tile, isa: Isa, ctx: BuildContext, rows: int, columns: int, steps: int, n: int, e: int
) -> dict[str, int | Ref]:
    """A thread's own memory: k, v, the block of scores, and sums."""
    width = tile_v.vectors * isa.lanes()
    # whole tiles of columns of k
    quads = -(-steps // attention_tiles.MOST) * attention_tiles.MOST if form.parts else steps
    sizes = [
        quads * columns * (8 if form.arithmetic == "words" else 4),
        attention_parts.value_bytes(columns, e) if form.parts else -(-e // width) * width * n * 4,
        rows * columns * 4,
        (rows + columns) * 4,
        attention_parts.power_bytes(columns, e) if form.parts else 0,
    ]
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + -(-size // 64) * 64)
    scratch = ctx.scratch(ends[-1] * ctx.threads)
    found: dict[str, int | Ref] = {"scratch": scratch, "scratch_step": ends[-1]}
    found |= {"at_v": ends[1], "at_scores": ends[2], "at_sums": ends[3]}
    if form.parts:
        found |= {"at_powers": ends[4], "slots": attention_parts.slots(columns, e)}
    return found


@functools.lru_cache(maxsize=128)
def kernel(
    isa: Isa,
    tile: Tile,
    tile_v: Tile,
    form: Form,
    scores: Expr,
    epilogue: Expr,
    score_operands: tuple[Operand, ...],
    operands: tuple[Operand, ...],
) -> tuple[Code, Epilogue, Epilogue]:
    """The kernel and the printers of its two expressions."""
    first = Epilogue(expanded(scores), score_operands, prefix="s_")
    second = Epilogue(expanded(epilogue), operands)
    return Printer(isa, tile, tile_v, first, second, form).kernel(), first, second


KERNELS: list[Kernel] = [Attention()]
