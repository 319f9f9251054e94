"""LoweredConvolution of 3x3 with stride 1 and u8 activations, by Winograd's algorithm in integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import igemm
from lpir.devices.cpu.kernels.base import BuildContext, Step
from lpir.devices.cpu.kernels.convolution_int8 import ConvolutionInt8, weights_of
from lpir.devices.cpu.kernels.product_int8 import Product
from lpir.devices.cpu.kernels.rows import grid_offsets
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.devices.cpu.kernels.winograd import POSITIONS, TAPS, TILE, pack_winograd, refuse_sums
from lpir.devices.cpu.kernels.winograd_print import patches, products
from lpir.ir.graph import Node
from lpir.ir.types import i8
from lpir.ops.lowered import LoweredConvolution
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64  # bytes of a cache line
# that a core reads in a cycle of what another has written
FOREIGN_BYTES = 1.5


@record
class _Costs:
    """Cycles, measured, of a vector: of a dot product of bytes, one of words, nine weights, a patch, and 16 outputs."""

    bytes: float = 1.1
    words: float = 0.8
    weights: float = 50.0
    patch: float = 160.0
    outputs: float = 220.0

    def tile(self, channels: int) -> float:
        """Of a tile of outputs, once its patch is there."""
        return POSITIONS * channels / 2 * self.words + self.outputs


COSTS = _Costs()


class ConvolutionWinograd(ConvolutionInt8):
    """Convolution of 3x3 with stride 1: a padded copy of the input, transformed patches, and their products."""

    name = "winograd"
    rank = 9

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        return (
            _refuse_shape(node, op)
            or _refuse_isa(node, isa)
            or super().applies(node, isa)
            or self.refuse_cost(node, isa)
            or refuse_sums(weights_of(node))
        )

    def refuse_cost(self, node: Node, isa: Isa) -> str | None:
        """Why products of bytes are faster, or None."""
        *_, channels, n = node.inputs[1].shape.to_static()
        out = node.outputs[0].shape.to_static()
        columns = n / isa.lanes()
        tile = columns * COSTS.tile(channels) + channels / isa.lanes(16) * COSTS.patch
        here = tile * _tiles(out) + columns * channels / 2 * COSTS.weights
        direct = math.prod(out[:3]) * columns * TAPS * channels / 4 * COSTS.bytes
        return None if here < direct else f"{out[1]}x{out[2]} outputs of {channels} channels do not pay for transforms"

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, LoweredConvolution)
        assert isinstance(op.x_zero_point, int)
        steps, x, shape = self.padded(node, ctx)
        batch, height, width, channels = shape
        out = node.outputs[0].shape.to_static()
        tops, lefts = (_tile_starts(size) for size in out[1:3])
        starts = _places(batch, tops, lefts, (height, width)) * channels
        pixels = _places(batch, tops, lefts, out[1:3])
        w = weights_of(node)
        between = _odd_lines(len(starts) * channels * 2)
        v = ctx.scratch(POSITIONS * between)
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": x, "starts": ctx.constant(starts.astype(np.int32)), "out": v, "tiles": len(starts)},
            **{"channels": channels, "line": width * channels, "between": between},
        }
        steps.append(Step.of(patches(isa), values))
        product = Product(node, op.x_zero_point, x, starts, (), w.reshape(1, 3, 3 * channels, -1), channels)
        return [*steps, _product_step(product, w, v, between, pixels, isa, ctx)]


def _product_step(product: Product, w: Array, v: Ref, between: int, pixels: Array, isa: Isa, ctx: BuildContext) -> Step:
    """The products of the transformed patches at `v`, and the epilogue."""
    *_, channels, n = w.shape
    finish = product.finish()
    columns = -(-n // isa.lanes())
    tile = _tile(isa, len(pixels), columns)
    packed = pack_winograd(w, isa.lanes(), tile.vectors)
    tiles, blocks = -(-len(pixels) // tile.rows), -(-columns // tile.vectors)
    cycles = tile.rows * tile.vectors * COSTS.tile(channels), channels / 2 * tile.vectors * COSTS.weights
    mc, nc = shares(ctx.threads, tiles, blocks, *cycles, POSITIONS * between)
    # what lies so far apart does not share the sets of a cache
    column = _odd_lines(channels * tile.vectors * isa.lanes() * 2)
    values: dict[str, int | float | F32 | Ref] = {
        **{"u": ctx.scratch(ctx.threads * POSITIONS * column), "column": column},
        **{"v": v, "w": ctx.constant(packed.weights), "out": ctx.ref(product.node.outputs[0])},
        **{"init": ctx.constant(igemm.init_vector(isa, packed, product.zero_point))},
        **{"pixels": ctx.constant(pixels.astype(np.int32)), "tiles": len(pixels), "channels": channels, "n": n},
        **{"between": between, "out_rows": ctx.pitch(product.node.outputs[0]), "columns": product.out[2]},
        **{"m_tiles": tiles, "n_blocks": blocks, "m_chunks": mc, "n_chunks": nc},
        **finish.values(product.bound(ctx)),
    }
    return Step.of(products(isa, tile, 2 if channels % 4 == 0 else 1, finish), values)


def _tile(isa: Isa, m: int, columns: int) -> Tile:
    """The register tile: two vectors of channels, and as many rows as read each other's weights from the registers."""
    rows = min(m, 4 if isa.registers == 16 else 8)
    return Tile(-(-m // -(-m // rows)), min(columns, 2))


def shares(
    threads: int, tiles: int, blocks: int, tile_cycles: float, weight_cycles: float, patch_bytes: int
) -> tuple[int, int]:
    """Among how many threads to share register tiles, and blocks of channels, whose weights each of them transforms.

    Threads that share the tiles read the patches that they have written, others those of other cores as well.
    """

    def busiest(rows: int, columns: int) -> float:
        work = -(-blocks // columns) * (-(-tiles // rows) * tile_cycles + weight_cycles)
        return work + patch_bytes / rows * (1 - 1 / columns) / FOREIGN_BYTES

    found = [(min(threads // c, tiles), min(c, blocks)) for c in range(1, threads + 1) if threads % c == 0]
    return min(found, key=lambda share: busiest(*share))


def _tile_starts(size: int) -> Array:
    """First output of each tile along an axis: the last one overlaps its neighbor."""
    return np.minimum(np.arange(0, size, TILE), size - TILE)


def _places(batch: int, tops: Array, lefts: Array, size: tuple[int, ...]) -> Array:
    """Which pixel of [batch, *size] each tile begins at."""
    images = grid_offsets((batch,), (math.prod(size),))
    return np.asarray(images[:, None, None] + tops[:, None] * size[1] + lefts).reshape(-1)


def _odd_lines(nbytes: int) -> int:
    """At least `nbytes`, an odd number of cache lines: arrays so far apart do not share the sets of a cache."""
    return LINE * (-(-nbytes // LINE) | 1)


def _refuse_shape(node: Node, op: LoweredConvolution) -> str | None:
    kernel = node.inputs[1].shape.to_static()
    out = node.outputs[0].shape.to_static()
    if kernel[:-2] != (3, 3) or set(op.strides) | set(op.dilations) != {1} or op.groups != 1:
        return "not a 3x3 convolution with stride 1 of one group"
    return f"the output {list(out)} is smaller than a tile" if min(out[1:3]) < TILE else None


def _refuse_isa(node: Node, isa: Isa) -> str | None:
    *_, channels, n = node.inputs[1].shape.to_static()
    if not isa.is_x86:
        return f"{isa.name} has no vpmaddwd"
    if isa.exact:
        return f"{isa.name} multiplies bytes as fast"
    if node.inputs[1].element_type != i8:
        return f"the weights are {node.inputs[1].element_type}, not i8"
    if channels % 2 or channels < isa.lanes(16) or n < isa.lanes():
        return f"{channels} channels do not fill vectors of {isa.lanes(16)} words, or {n} those of sums"
    return None


def _tiles(out: tuple[int, ...]) -> int:
    return out[0] * math.prod(-(-size // TILE) for size in out[1:3])


KERNELS = [ConvolutionWinograd()]
