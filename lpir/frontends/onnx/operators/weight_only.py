"""Products and embeddings with weights of few bits, in blocks that have a scale each."""

from __future__ import annotations

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, front
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value
from lpir.ir.op import Array
from lpir.ir.types import f32, u4, u8


@operator("MatMulNBits", domain=MICROSOFT)
def matrix_product_n_bits(c: Call) -> Value:
    """x, packed codes `[N, blocks, bytes]`, scales, zero points, order of groups, bias: weights stay compressed."""
    bits, block, k, n = c.integer("bits", 4), c.integer("block_size"), c.integer("K"), c.integer("N")
    if c.maybe(4) is not None or c.integer("weight_prepacked", 0):
        raise UnsupportedError("weights in another order (g_idx, weight_prepacked) are not supported")
    if bits not in (2, 4, 8) or block < 1 or k < 1 or n < 1:
        raise ModelError(f"weights [{n}, {k}] of {bits} bits in blocks of {block} make no sense")
    blocks = -(-k // block)
    codes = unpacked(c.known(1, "the weights"), bits, blocks * block).reshape(n, blocks, block)
    scale = c.known(2, "the scales").reshape(n, blocks, 1).astype(np.float32)
    zero_point = zero_points(c, bits, (n, blocks)).reshape(n, blocks, 1).astype(np.float32)
    if k % block:
        weights = ((codes.astype(np.float32) - zero_point) * scale).reshape(n, -1)[:, :k]
        real = c.const(weights, f32)
    else:
        wide = c.make("Convert", c.const(codes, u4 if bits <= 4 else u8), destination_type=f32)
        chain = c.make("Multiply", c.make("Subtract", wide, c.const(zero_point, f32)), c.const(scale, f32))
        real = c.make("Reshape", chain, c.const([n, k]), special_zero=False)
    y = c.make("MatMul", c[0], c.convert(real, c[0].element_type), transpose_a=False, transpose_b=True)
    return y if c.maybe(5) is None else c.make("Add", y, c[5])


def unpacked(data: Array, bits: int, count: int) -> Array:
    """`[rows, count]` codes from bytes that hold those of a row one after the other, the first in the lowest bits."""
    each = 8 // bits
    shifts = np.arange(each, dtype=np.uint8) * bits
    codes = (data.astype(np.uint8)[..., None] >> shifts) & ((1 << bits) - 1)
    rows = codes.reshape(-1, data.reshape(data.shape[0], -1).shape[1] * each)
    return np.ascontiguousarray(rows[:, :count])


def zero_points(c: Call, bits: int, shape: tuple[int, int]) -> Array:
    """Packed like the codes, or one number each; the middle code where there are none."""
    if c.maybe(3) is None:
        return np.full(shape, 1 << (bits - 1))
    found = c.known(3, "the zero points")
    if found.dtype != np.uint8:
        return found.reshape(shape)
    return unpacked(found.reshape(shape[0], -1), bits, shape[1])


@operator("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(c: Call) -> Value:
    """Rows of a table of codes, dequantized behind the gather: the table stays compressed."""
    data, rank, bits = c.known(0, "the table"), c.rank(), c.integer("bits", 4)
    axis, gather = (front(c.integer(name, d), rank) for name, d in (("quantize_axis", 1), ("gather_axis", 0)))
    if rank != 2 or axis != 1 or gather != 0:
        raise UnsupportedError("only rows of a table [rows, columns] with blocks along its columns are supported")
    block, rows, kind = c.integer("block_size", 128), data.shape[0], c[0].element_type
    if data.dtype == np.uint8 and bits < 8:
        data, kind = unpacked(data, bits, data.shape[1] * (8 // bits)), u4
    blocks = -(-data.shape[1] // block)
    if data.shape[1] % block:
        raise UnsupportedError(f"blocks of {block} do not divide {data.shape[1]} columns")
    codes = c.const(data.reshape(rows, blocks, block), kind)
    scale = c.known(2, "the scales").astype(np.float32).reshape(rows, blocks, 1)
    y = c.make("Convert", taken(c, codes), destination_type=f32)
    unsigned = not kind.is_signed
    if unsigned or c.maybe(3) is not None:
        zero = zero_points(c, kind.bits, (rows, blocks)) if unsigned else c.known(3, "the zero points")
        y = c.make("Subtract", y, taken(c, c.const(zero.astype(np.float32).reshape(rows, blocks, 1), f32)))
    y = c.make("Multiply", y, taken(c, c.const(scale, f32)))
    y = c.make("Reshape", y, c.const([*[0] * c.rank(1), -1]), special_zero=True)
    return c.convert(y, c[2].element_type)


def taken(c: Call, table: Value) -> Value:
    return c.make("Gather", table, c[1], c.const(0), batch_dims=0)
