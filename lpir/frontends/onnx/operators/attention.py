"""Attention as ONNX Runtime's optimizer fuses it: ScaledDotProductAttention, with heads taken apart and joined."""

from __future__ import annotations

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, rank_of
from lpir.frontends.onnx.operators.quantization import dequantize
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value
from lpir.ir.types import i64

# from [B, S, N, H] to [B, N, S, H], and back
EXCHANGED = (0, 2, 1, 3)
# float16 has no number below
LOWEST = -65504.0


@operator("Attention", domain=MICROSOFT)
def attention(c: Call) -> list[Value]:
    """x, weights of q, k and v side by side, bias, mask, past `[2, B, N, P, H]`, what is added to scores."""
    return projected(c, c[0], c[1], c.maybe(2), c.maybe(3), c.maybe(4), c.maybe(5))


@operator("QAttention", domain=MICROSOFT)
def quantized_attention(c: Call) -> list[Value]:
    """Codes of x and of the weights, bias, their scales, mask, their zero points, past."""
    x, weights = dequantize(c, c[0], c[3], c.maybe(6)), dequantize(c, c[1], c[4], c.maybe(7), axis=1)
    return projected(c, x, weights, c[2], c.maybe(5), c.maybe(8), None)


@operator("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(c: Call) -> list[Value]:
    """q, k, v, their biases in a row, mask of keys, what is added to scores, past k and past v."""
    if c.maybe(8) is not None or c.maybe(9) is not None:
        raise UnsupportedError("past and present in one buffer are not supported")
    if rank_of(c[0]) != 3 or c.maybe(1) is None or c.maybe(2) is None:
        raise UnsupportedError("query, key and value packed in one tensor are not supported")
    parts = [c[0], c[1], c[2]]
    if c.maybe(3) is not None:
        sizes = [c[0].shape[2].length, *[c[3].shape[0].length - c[0].shape[2].length] * 2]
        if rank_of(c[2]) == 3:
            sizes[1:] = [c[1].shape[2].length if rank_of(c[1]) == 3 else sizes[0], c[2].shape[2].length]
        biases = c.make_all("VariadicSplit", c[3], c.const(0), c.const(sizes))
        parts = [c.make("Add", x, b) if rank_of(x) == 3 else x for x, b in zip(parts, biases, strict=True)]
    q, k, v = (heads(c, x) if rank_of(x) == 3 else x for x in parts)
    past = (c.maybe(6), c.maybe(7))
    if past[0] is not None and past[1] is not None:
        k, v = joined(c, past[0], k), joined(c, past[1], v)
    y = attended(c, q, k, v, [c.maybe(4), c.maybe(5)], past[0] is not None)
    return [y, k, v]


def projected(
    c: Call, x: Value, weights: Value, bias: Value | None, mask: Value | None, past: Value | None, added: Value | None
) -> list[Value]:
    """Attention of x with itself: q, k and v are parts of one product. The second output is k and v, as `past` is."""
    if c.integer("past_present_share_buffer", 0) or c.maybe(6 if c.operator.type == "Attention" else 9) is not None:
        raise UnsupportedError("past and present in one buffer are not supported")
    if c.integer("do_rotary", 0):
        raise UnsupportedError("rotary embeddings inside of attention (do_rotary) are not supported")
    width = weights.shape[1].length
    sizes = c.integers("qkv_hidden_sizes", (width // 3,) * 3)
    if len(sizes) != 3 or sum(sizes) != width:
        raise ModelError(f"q, k and v with {', '.join(map(str, sizes))} channels are not the {width} of the weights")
    y = c.make("MatMul", x, weights, transpose_a=False, transpose_b=False)
    y = y if bias is None else c.make("Add", y, bias)
    q, k, v = (heads(c, part) for part in c.make_all("VariadicSplit", y, c.const(2), c.const(sizes)))
    if past is not None:
        before = [c.make("Squeeze", half, c.const([0])) for half in c.make_all("Split", past, c.const(0), num_splits=2)]
        k, v = joined(c, before[0], k), joined(c, before[1], v)
    outputs = [attended(c, q, k, v, [mask, added], past is not None)]
    if any(c.operator.outputs[1:]):
        outputs.append(c.make("Concat", *(c.make("Unsqueeze", part, c.const([0])) for part in (k, v)), axis=0))
    return outputs


def heads(c: Call, x: Value) -> Value:
    """`[B, S, N * H]` as `[B, N, S, H]`."""
    count, width = c.integer("num_heads"), x.shape[2]
    if count < 1 or (width.is_static and width.length % count):
        raise ModelError(f"{width} channels do not divide into {count} heads")
    apart = c.make("Reshape", x, c.const([0, 0, count, -1]), special_zero=True)
    return c.make("Transpose", apart, c.const(EXCHANGED))


def joined(c: Call, past: Value, new: Value) -> Value:
    """Keys or values `[B, N, S, H]` behind earlier ones."""
    return c.make("Concat", past, new, axis=2)


def attended(c: Call, q: Value, k: Value, v: Value, masks: list[Value | None], continued: bool) -> Value:
    """`softmax(q k^T * scale + masks) v` as `[B, S, N * H]`; masks: which keys count, and numbers to add."""
    which, added = masks
    only_causal = bool(c.integer("unidirectional", 0)) and which is None and added is None and not continued
    terms = [] if added is None else [added]
    if which is not None:
        terms.append(hidden(c, inside(c, which, q, k), q, c.real("mask_filter_value", -10000.0)))
    if c.integer("unidirectional", 0) and not only_causal:
        # a query that may look only at masked keys looks at those
        terms.append(hidden(c, earlier(c, q, k), q, LOWEST))
    inputs = [q, k, v]
    scale = c.real("scale", 0.0)
    if terms or scale:
        total = terms[0] if terms else c.like(q, 0)
        for term in terms[1:]:
            total = c.make("Add", total, term)
        inputs.append(total)
    if scale:
        inputs.append(c.like(q, scale))
    y = c.make("ScaledDotProductAttention", *inputs, causal=only_causal)
    together = c.make("Transpose", y, c.const(EXCHANGED))
    return c.make("Reshape", together, c.const([0, 0, -1]), special_zero=True)


def hidden(c: Call, seen: Value, scores: Value, number: float) -> Value:
    """What is added to scores: 0 where `seen`, else a number that leaves nothing of them."""
    return c.make("Select", seen, c.like(scores, 0), c.like(scores, number))


def inside(c: Call, mask: Value, q: Value, k: Value) -> Value:
    """Which scores `[B, N, S, T]` count. The mask is `[B, T]` or `[B, S, T]` of ones and zeros, or `[B]` of the ends of
    the keys, or `[2 B]` of their ends and then their starts."""
    rank = rank_of(mask)
    if rank in (2, 3):
        seen = c.make("Greater", mask, c.like(mask, 0))
        return c.make("Unsqueeze", seen, c.const([1, 2] if rank == 2 else [1]))
    if rank != 1:
        raise UnsupportedError(f"a mask with {rank} dimensions is not supported")
    batch, length = q.shape[0], mask.shape[0]
    if length != batch and not (length.is_static and batch.is_static):
        raise UnsupportedError(f"a mask of {length} numbers for {batch} batches needs static shapes")
    keys = positions(c, c.const(0), k)
    ends = [c.make("Unsqueeze", c.convert(mask, i64), c.const([1, 2, 3]))]
    if length != batch:
        ends = c.make_all("Split", ends[0], c.const(0), num_splits=2)
    seen = c.make("Less", keys, ends[0])
    return seen if length == batch else c.make("LogicalAnd", seen, c.make("GreaterEqual", keys, ends[1]))


def earlier(c: Call, q: Value, k: Value) -> Value:
    """Which keys `[S, T]` a query may look at: the last query at all of them."""
    past = c.make("Subtract", length_of(c, k), length_of(c, q))
    return c.make("LessEqual", positions(c, c.const(0), k), c.make("Unsqueeze", positions(c, past, q), c.const([1])))


def positions(c: Call, first: Value, x: Value) -> Value:
    """`first, first + 1, ...`, one for each row of x `[B, N, rows, H]`."""
    return c.make("Range", first, c.make("Add", first, length_of(c, x)), c.const(1), output_type=i64)


def length_of(c: Call, x: Value) -> Value:
    """How many rows x `[B, N, rows, H]` has."""
    if x.shape[2].is_static:
        return c.const(x.shape[2].length)
    return c.make("Gather", c.make("ShapeOf", x, output_type=i64), c.const(2), c.const(0), batch_dims=0)
