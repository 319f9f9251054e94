"""CompressedMatMul: products whose weights are decoded inside the kernel.

Two ways, by the number of rows of the input:

* stream (few rows): every weight is decoded in registers and used at once for all rows: its time is that of reading
  the codes. The scale of a group multiplies the sum of the group.
* panel (more rows): a thread decodes the weights of a block of channels, a few hundred rows of the sum at a time, into
  its own panel in cache, and runs a float32 register tile over it for all rows. Sums wait in memory between panels.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import tiling
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.codes_pack import NIBBLES, Storage, pack, storage_of
from lpir.devices.cpu.kernels.compressed_print import PanelPrinter, StreamPrinter
from lpir.devices.cpu.kernels.elementwise import unsupported
from lpir.devices.cpu.kernels.epilogue import Epilogue, Operand, element_bytes
from lpir.devices.cpu.kernels.rows import bind_operand, operand_of, refuse_operands
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import expanded
from lpir.ops.lowered_compressed import CompressedMatMul
from lpir.scalar.expr import Expr

# rows of the sum that are added up, or in a panel, before the others, and rows of the input that one panel serves
DEPTH = 128
ROWS = 128


class Compressed(Kernel):
    """What both ways share."""

    ops: ClassVar[tuple[type[Op], ...]] = (CompressedMatMul,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, CompressedMatMul)
        if any(constant_data(v) is None for v in node.inputs[1:4]):
            return "the weights are not constant"
        return refuse_operands(node, 4) or unsupported(op.epilogue, isa)

    def values(
        self, node: Node, isa: Isa, ctx: BuildContext, storage: Storage, vectors: int
    ) -> dict[str, int | float | F32 | Ref]:
        """The parameters of both printers, without the epilogue's."""
        op, (k, n) = node.op, kernel_size(node)
        assert isinstance(op, CompressedMatMul)
        codes, scale, zero = (np.asarray(constant_data(v)) for v in node.inputs[1:4])
        length = k // len(scale)
        depth = panel_depth(length, storage)
        packed = pack(codes.T if op.transpose_b else codes, scale, zero, storage, isa.lanes(), vectors)
        return {
            **{"x": ctx.ref(node.inputs[0]), "codes": ctx.constant(packed.codes), "out": ctx.ref(node.output)},
            **{"scale": ctx.constant(packed.scale), "zero": ctx.constant(packed.zero)},
            **{"m": row_count(node), "n": n, "k": k, "groups": len(scale), "blocks": len(packed.scale)},
            **{"out_row": n * element_bytes(op.epilogue.type), "depth": depth, "pieces": length // depth},
        }

    def operands(self, node: Node) -> tuple[Operand, ...]:
        return tuple(operand_of(v, node.output.shape.to_static()) for v in node.inputs[4:])

    def step(
        self,
        node: Node,
        ctx: BuildContext,
        made: tuple[Code, Epilogue],
        values: dict[str, int | float | F32 | Ref],
    ) -> Step:
        code, epilogue = made
        bound = [bind_operand(v, node.output.shape.to_static(), ctx) for v in node.inputs[4:]]
        return Step.of(code, {**values, **epilogue.values(bound)})


def kernel_size(node: Node) -> tuple[int, int]:
    """K and N."""
    return node.inputs[0].shape.to_static()[-1], node.output.shape.to_static()[-1]


def row_count(node: Node) -> int:
    """M, over the whole batch."""
    return math.prod(node.output.shape.to_static()[:-1])


def node_storage(node: Node) -> tuple[Storage, int]:
    """How the node's codes are stored, and the rows of a group."""
    zero = np.asarray(constant_data(node.inputs[3]))
    length = kernel_size(node)[0] // len(zero)
    return storage_of(node.inputs[1].element_type, zero, length), length


class Stream(Compressed):
    """A few rows: bound by reading the codes."""

    name = "weight_stream"
    rank = 0

    def applies(self, node: Node, isa: Isa) -> str | None:
        if row_count(node) > stream_rows(isa):
            return f"more than {stream_rows(isa)} rows"
        return super().applies(node, isa)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        m, op = row_count(node), node.op
        assert isinstance(op, CompressedMatMul)
        storage, length = node_storage(node)
        columns = -(-kernel_size(node)[1] // isa.lanes())
        # sums of a group and of all groups, weights and zero points stay in registers
        vectors = max(1, min(4, columns, (isa.registers - 4) // (2 * m + 2)))
        values = self.values(node, isa, ctx, storage, vectors)
        unroll = 1 if storage.bits == 4 else next(u for u in (4, 2, 1) if panel_depth(length, storage) % u == 0)
        narrow = kernel_size(node)[1] < isa.lanes()
        made = stream_kernel(isa, Tile(m, vectors), storage, unroll, narrow, op.epilogue, self.operands(node))
        return [self.step(node, ctx, made, values)]


def stream_rows(isa: Isa) -> int:
    """Rows for which decoding in registers pays."""
    return 4 if isa.registers > 16 else 2


@functools.lru_cache(maxsize=256)
def stream_kernel(
    isa: Isa, tile: Tile, storage: Storage, unroll: int, narrow: bool, epilogue: Expr, operands: tuple[Operand, ...]
) -> tuple[Code, Epilogue]:
    """The kernel and the printer of its epilogue."""
    printer = StreamPrinter(isa, tile, storage, narrow, Epilogue(expanded(epilogue), operands))
    return printer.kernel(unroll), printer.epilogue


class Panel(Compressed):
    """Any number of rows."""

    name = "weight_panel"
    rank = 1

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        m, op, (k, n) = row_count(node), node.op, kernel_size(node)
        assert isinstance(op, CompressedMatMul)
        storage, length = node_storage(node)
        tile = tiling.choose_tile(isa, m, n, k, 1.0, 4.0, 1)
        depth = panel_depth(length, storage)
        values = self.values(node, isa, ctx, storage, tile.vectors)
        blocks = int(str(values["blocks"]))
        chunks = max(-(-m // ROWS), min(-(-m // tile.rows), -(-2 * ctx.threads // blocks)))
        wide = tile.vectors * isa.lanes() * 4
        rows = (-(-m // chunks) + tile.rows) * wide
        values["m_chunks"] = chunks
        values |= {"panel": ctx.scratch(ctx.threads * depth * wide), "sums": ctx.scratch(ctx.threads * rows)}
        values["sum_bytes"] = rows
        made = panel_kernel(isa, tile, storage, n < isa.lanes(), op.epilogue, self.operands(node))
        return [self.step(node, ctx, made, values)]


def panel_depth(length: int, storage: Storage) -> int:
    """Rows of the sum in a panel: the largest part of a group, in whole steps, that is not too long."""
    steps = length // storage.step
    limit = DEPTH // storage.step
    found = max(d for d in range(1, min(steps, limit) + 1) if steps % d == 0)
    # a prime length: one long panel rather than one for every row
    return (found if found * NIBBLES >= limit or found == steps else steps) * storage.step


@functools.lru_cache(maxsize=256)
def panel_kernel(
    isa: Isa, tile: Tile, storage: Storage, narrow: bool, epilogue: Expr, operands: tuple[Operand, ...]
) -> tuple[Code, Epilogue]:
    """The kernel and the printer of its epilogue."""
    printer = PanelPrinter(isa, tile, storage, narrow, Epilogue(expanded(epilogue), operands))
    return printer.kernel(), printer.epilogue


KERNELS: list[Kernel] = [Stream(), Panel()]
