"""LoweredConvolution of 3x3 with stride 1 and u8 activations, by Winograd's algorithm in integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import igemm, tiling
from lpir.devices.cpu.kernels.base import BuildContext, Step
from lpir.devices.cpu.kernels.convolution_int8 import ConvolutionInt8, weights_of
from lpir.devices.cpu.kernels.product_int8 import Product
from lpir.devices.cpu.kernels.rows import grid_offsets
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.devices.cpu.kernels.winograd import POSITIONS, TILE, pack_winograd, refuse_sums
from lpir.devices.cpu.kernels.winograd_print import patches, products
from lpir.ir.graph import Node
from lpir.ir.types import i8
from lpir.ops.lowered import LoweredConvolution
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64  # bytes of a cache line
# bytes of transformed patches that stay in the second cache while a chunk's weights pass
AVX_BITS = 256
CHUNK = 256 * 1024
# fewer tiles do not pay for weights that are 32 / 9 as many bytes
LEAST_TILES = 8


@record
class _Costs:
    """Cycles, measured: of a dot product of bytes and one of words, a vector each; of a patch and of 16 outputs."""

    bytes: float
    words: float
    patch: float = 160.0
    outputs: float = 220.0


COSTS, EXACT_COSTS = _Costs(1.1, 0.8), _Costs(0.58, 0.68)


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
        columns, costs = n / isa.lanes(), EXACT_COSTS if isa.exact else COSTS
        tile = columns * (POSITIONS * channels / 2 * costs.words + costs.outputs)
        tile += channels / isa.lanes(16) * costs.patch
        direct = math.prod(out[:3]) * columns * 9 * channels / 4 * costs.bytes
        return None if tile * _tiles(out) < direct else f"{channels} to {n} channels do not pay for transforms"

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
    mc, nc = tiling.choose_chunks(1, tiles, blocks, tile.rows * POSITIONS * channels * 2, ctx.threads, CHUNK)
    values: dict[str, int | float | F32 | Ref] = {
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
    if min(out[1:3]) < TILE:
        return f"the output {list(out)} is smaller than a tile"
    tiles = _tiles(out)
    return None if tiles >= LEAST_TILES else f"{tiles} tiles are too few for so many weights"


def _refuse_isa(node: Node, isa: Isa) -> str | None:
    *_, channels, n = node.inputs[1].shape.to_static()
    if not isa.is_x86:
        return f"{isa.name} has no vpmaddwd"
    if isa.exact and isa.bits > AVX_BITS:
        return f"{isa.name} multiplies bytes as fast as it is"
    if node.inputs[1].element_type != i8:
        return f"the weights are {node.inputs[1].element_type}, not i8"
    if channels % 2 or channels < isa.lanes(16) or n < isa.lanes():
        return f"{channels} channels do not fill vectors of {isa.lanes(16)} words, or {n} those of sums"
    return None


def _tiles(out: tuple[int, ...]) -> int:
    return out[0] * math.prod(-(-size // TILE) for size in out[1:3])


KERNELS = [ConvolutionWinograd()]
