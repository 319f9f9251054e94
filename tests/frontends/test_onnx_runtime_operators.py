"""Operators that ONNX Runtime's optimizer and quantizer write: CPU gives what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import lpir
from lpir.errors import UnsupportedError
from lpir.frontends.onnx import read_onnx
from tests.frontends.networks import Array, build, onnxruntime_outputs
from tests.tolerances import EXACT, F32_CHAIN, F32_SUM, Tolerance, assert_close

RNG = np.random.default_rng(7)
DYNAMIC = Tolerance("DYNAMIC", "ONNX Runtime quantizes activations and states of the layer, lpir does not", of_max=0.02)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape, np.float32)


def model(
    kind: str, inputs: Sequence[Array | None], constants: Sequence[int] = (), outputs: int = 1, **attributes: Any
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """One operator of ONNX Runtime's, and what its inputs are fed with; inputs in `constants` are initializers."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    given = {n: np.asarray(x) for n, x in zip(names, inputs, strict=True) if x is not None}
    fixed = {f"x{i}" for i in constants}
    node = helper.make_node(kind, names, [f"y{i}" for i in range(outputs)], domain="com.microsoft", **attributes)
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in given.items()
        if n not in fixed
    ]
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    weights = [numpy_helper.from_array(x, n) for n, x in given.items() if n in fixed]
    graph = helper.make_graph([node], "one", ports, results, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), {p.name: given[p.name] for p in ports}


def check(
    kind: str,
    inputs: Sequence[Array | None],
    constants: Sequence[int] = (),
    outputs: int = 1,
    tolerance: Tolerance = F32_SUM,
    **attributes: Any,
) -> None:
    """CPU's outputs are ONNX Runtime's."""
    proto, feeds = model(kind, inputs, constants, outputs, **attributes)
    expected = onnxruntime_outputs(proto, feeds)
    found = lpir.compile_model(read_onnx(proto), "CPU")(list(feeds.values()))
    for i, wanted in enumerate(expected):
        assert_close(np.asarray(found[i]), wanted, tolerance, f"output {i}")


BATCH, LENGTH, HEADS, SIZE = 2, 6, 3, 8
WIDTH = HEADS * SIZE
MASKS: dict[str, Array | None] = {
    "none": None,
    "ends": np.array([4, 6], np.int32),
    "ends and starts": np.array([5, 6, 1, 3], np.int32),
    "keys": np.array([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]], np.int32),
    "scores": np.tril(np.ones((BATCH, LENGTH, LENGTH), np.int32)),
}
ATTENTION = F32_SUM.per(WIDTH * WIDTH)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", MASKS)
def test_attention(mask: str, causal: int) -> None:
    inputs = [normal(BATCH, LENGTH, 10), normal(10, 3 * WIDTH), normal(3 * WIDTH), MASKS[mask]]
    check("Attention", inputs, (1, 2), tolerance=ATTENTION, num_heads=HEADS, unidirectional=causal)


def test_attention_with_other_sizes_of_values_and_a_scale() -> None:
    sizes = [WIDTH, WIDTH, 2 * WIDTH]
    inputs = [normal(BATCH, LENGTH, 10), normal(10, sum(sizes)), normal(sum(sizes)), None, None]
    added = normal(BATCH, HEADS, LENGTH, LENGTH)
    more = {"num_heads": HEADS, "qkv_hidden_sizes": sizes, "scale": 0.3}
    check("Attention", [*inputs, added], (1, 2), tolerance=ATTENTION, **more)
    check("Attention", inputs[:3], (1, 2), tolerance=ATTENTION, **more)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_goes_on_where_it_was(causal: int) -> None:
    past = normal(2, BATCH, HEADS, 5, SIZE)
    mask = np.ones((BATCH, 5 + LENGTH), np.int32)
    mask[1, :3] = 0
    inputs = [normal(BATCH, LENGTH, 10), normal(10, 3 * WIDTH), normal(3 * WIDTH), mask, past]
    check("Attention", inputs, (1, 2), 2, ATTENTION, num_heads=HEADS, unidirectional=causal)


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("codes", [np.int8, np.uint8])
def test_attention_of_codes(codes: Any, by_column: bool) -> None:
    x = RNG.integers(0, 256, (BATCH, LENGTH, 10)).astype(np.uint8)
    info = np.iinfo(codes)
    weights = RNG.integers(info.min, info.max + 1, (10, 3 * WIDTH)).astype(codes)
    many = 3 * WIDTH if by_column else 1
    scale = RNG.uniform(0.001, 0.01, many if by_column else ()).astype(np.float32)
    zero = (
        RNG.integers(-3, 4, many if by_column else ()).astype(codes) if codes == np.int8 else np.full(many, 128, codes)
    )
    zero = zero if by_column else zero.reshape(())
    inputs = [x, weights, normal(3 * WIDTH), np.float32(0.02), scale, MASKS["ends"], np.uint8(121), zero]
    check("QAttention", inputs, (1, 2, 3, 4, 6, 7), tolerance=ATTENTION, num_heads=HEADS)


@pytest.mark.parametrize("mask", ["none", "keys"])
def test_multi_head_attention(mask: str) -> None:
    inputs: list[Array | None] = [normal(BATCH, 4, WIDTH), normal(BATCH, LENGTH, WIDTH), normal(BATCH, LENGTH, WIDTH)]
    inputs += [normal(3 * WIDTH), MASKS[mask], normal(1, HEADS, 4, LENGTH)]
    check("MultiHeadAttention", inputs, (3,), tolerance=ATTENTION, num_heads=HEADS)
    past = [normal(BATCH, HEADS, 5, SIZE), normal(BATCH, HEADS, 5, SIZE)]
    inputs = [normal(BATCH, LENGTH, WIDTH) for _ in range(3)] + [None, None, None, *past]
    check("MultiHeadAttention", inputs, (), 3, ATTENTION, num_heads=HEADS, unidirectional=1)


def test_what_attention_lacks_is_said() -> None:
    inputs = [normal(BATCH, LENGTH, 10), normal(10, 3 * WIDTH), normal(3 * WIDTH)]
    for attribute, reason in (("do_rotary", "do_rotary"), ("past_present_share_buffer", "one buffer")):
        proto, _ = model("Attention", inputs, (1, 2), num_heads=HEADS, **{attribute: 1})
        with pytest.raises(UnsupportedError, match=reason):
            read_onnx(proto)


@pytest.mark.parametrize("segments", [False, True])
def test_embeddings(segments: bool) -> None:
    ids = RNG.integers(0, 20, (BATCH, LENGTH)).astype(np.int32)
    kinds = RNG.integers(0, 2, (BATCH, LENGTH)).astype(np.int32) if segments else None
    tables = [normal(20, WIDTH), normal(9, WIDTH), normal(2, WIDTH) if segments else None, normal(WIDTH), normal(WIDTH)]
    mask = MASKS["keys"]
    check("EmbedLayerNormalization", [ids, kinds, *tables, mask], (2, 3, 4, 5, 6), 3, F32_CHAIN, epsilon=1e-6)
    places = RNG.integers(0, 9, (BATCH, LENGTH)).astype(np.int32)
    check("EmbedLayerNormalization", [ids, kinds, *tables, None, places], (2, 3, 4, 5, 6), 2, F32_CHAIN)


def test_embeddings_of_codes() -> None:
    ids, kinds = (RNG.integers(0, n, (BATCH, LENGTH)).astype(np.int32) for n in (20, 2))
    shapes = [(20, WIDTH), (9, WIDTH), (2, WIDTH), (WIDTH,), (WIDTH,)]
    codes = [RNG.integers(0, 256, s).astype(np.uint8) for s in shapes]
    scales = [np.float32(x) for x in (0.01, 0.02, 0.03, 0.01, 0.005)]
    zeros = [np.uint8(x) for x in (128, 120, 3, 10, 200)]
    inputs = [ids, kinds, *codes, MASKS["keys"], *scales, *zeros]
    check("QEmbedLayerNormalization", inputs, (*range(2, 7), *range(8, 18)), 2, F32_CHAIN)


def test_skipped_root_mean_square() -> None:
    x = [normal(BATCH, LENGTH, WIDTH), normal(BATCH, LENGTH, WIDTH), normal(WIDTH), normal(WIDTH)]
    check("SkipSimplifiedLayerNormalization", x, (2, 3), tolerance=F32_CHAIN, epsilon=1e-5)


@pytest.mark.parametrize(("kind", "numbers"), [("Relu", []), ("Tanh", []), ("Clip", [0.1, 0.5]), ("LeakyRelu", [0.2])])
def test_fused_convolution(kind: str, numbers: list[float]) -> None:
    inputs = [normal(1, 4, 7, 7), normal(6, 4, 3, 3), normal(6), normal(1, 6, 5, 5)]
    more: dict[str, Any] = {"activation_params": numbers} if numbers else {}
    check("FusedConv", inputs, (1, 2), tolerance=F32_SUM.per(100), activation=kind, **more)


def test_fused_gemm() -> None:
    inputs = [normal(5, 7), normal(9, 7), normal(9)]
    check("FusedGemm", inputs, (1, 2), tolerance=F32_SUM.per(50), activation="Relu", transB=1, alpha=0.5)
    check(
        "FusedGemm", inputs, (1, 2), activation="LeakyRelu", activation_alpha=0.3, transB=1, tolerance=F32_SUM.per(50)
    )


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("batches", ["A", "B", "AB"])
def test_fused_product_with_batches_behind(batches: str, transposed: int) -> None:
    left = normal(4, 7, 3, 5) if "A" in batches else normal(7, 3, 4, 5)
    right = normal(5, 7, 3, 6) if "B" in batches else normal(7, 3, 5, 6)
    if transposed:
        left = np.swapaxes(left, -1, 0 if "A" in batches else -2).copy()
        right = np.swapaxes(right, -1, 0 if "B" in batches else -2).copy()
    more = {f"transBatch{side}": 1 for side in batches}
    more |= {"transA": transposed, "transB": transposed}
    check("FusedMatMul", [left, right], tolerance=F32_SUM.per(50), alpha=0.25, **more)


def test_dynamic_quantization() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"])
    for x in (normal(5, 9) * 3, np.abs(normal(40)) + 1, -np.abs(normal(40)), np.zeros((3, 4), np.float32)):
        proto = build([node], {"x": x.shape}, [])
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("codes", "scale", "zero"))
        found = lpir.compile_model(read_onnx(proto), "CPU")([x])
        for i, wanted in enumerate(onnxruntime_outputs(proto, {"x": x})):
            assert_close(np.asarray(found[i]), wanted, EXACT, f"output {i}")


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("codes", [np.int8, np.uint8])
def test_products_with_scales_that_are_computed(codes: Any, by_column: bool) -> None:
    info, many = np.iinfo(codes), (12,) if by_column else ()
    weights = RNG.integers(info.min, info.max + 1, (33, 12)).astype(codes)
    scale, zero = RNG.uniform(0.001, 0.01, many).astype(np.float32), RNG.integers(0, 5, many).astype(codes)
    bias, tolerance = normal(12), F32_SUM.per(33 * 33)
    x = normal(2, 5, 33)
    check("DynamicQuantizeMatMul", [x, weights, scale, zero, bias], (1, 2, 3, 4), tolerance=tolerance)
    x = RNG.integers(0, 256, (2, 5, 33)).astype(np.uint8)
    inputs = [x, weights, np.float32(0.02), scale, np.uint8(77), zero, bias]
    check("MatMulIntegerToFloat", inputs, (1, 3, 5, 6), tolerance=tolerance)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lstm_of_codes(direction: str) -> None:
    both, size, hidden = (2 if direction == "bidirectional" else 1), 12, 16
    w, r = (RNG.integers(-127, 128, (both, n, 4 * hidden)).astype(np.int8) for n in (size, hidden))
    scales = [RNG.uniform(0.001, 0.004, (both, 4 * hidden)).astype(np.float32) for _ in range(2)]
    zero = np.zeros((both, 4 * hidden), np.int8)
    inputs = [
        normal(7, 2, size),
        w,
        r,
        normal(both, 8 * hidden),
        None,
        None,
        None,
        None,
        scales[0],
        zero,
        scales[1],
        zero,
    ]
    more = {"hidden_size": hidden, "direction": direction}
    check("DynamicQuantizeLSTM", inputs, (1, 2, 3, 8, 9, 10, 11), 3, DYNAMIC, **more)


def packed(codes: Array, bits: int) -> Array:
    """Codes of a row side by side in bytes, the first in the lowest bits."""
    each = 8 // bits
    whole = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)])
    parts = whole.reshape(*codes.shape[:-1], -1, each).astype(np.uint8) << (np.arange(each) * bits).astype(np.uint8)
    return np.asarray(parts.sum(-1), np.uint8)


KINDS = ("middle", "packed", "numbers")


# ONNX Runtime takes no numbers beside 8 bits
@pytest.mark.parametrize(
    ("bits", "k", "zeros"),
    [(b, k, z) for b, k in ((4, 96), (4, 70), (2, 96)) for z in KINDS] + [(8, 96, z) for z in KINDS[:2]],
)
def test_weights_of_few_bits(bits: int, k: int, zeros: str) -> None:
    n, block = 24, 32
    blocks = -(-k // block)
    codes = RNG.integers(0, 1 << bits, (n, blocks, block))
    scale = RNG.uniform(0.01, 0.02, (n, blocks)).astype(np.float32)
    points: dict[str, Array | None] = {
        "middle": None,
        "packed": packed(RNG.integers(0, 1 << bits, (n, blocks)), bits),
        "numbers": RNG.integers(0, 1 << bits, (n, blocks)).astype(np.float32),
    }
    inputs = [normal(2, 5, k), packed(codes, bits), scale, points[zeros], None, normal(n)]
    constants = [i for i in (1, 2, 3, 5) if inputs[i] is not None]
    more = {"bits": bits, "block_size": block, "K": k, "N": n, "accuracy_level": 1}
    check("MatMulNBits", inputs, constants, tolerance=F32_SUM.per(16 * k), **more)


def test_weights_of_few_bits_stay_compressed() -> None:
    codes = packed(RNG.integers(0, 16, (64, 4, 32)), 4)
    scale = RNG.uniform(0.01, 0.02, (64, 4)).astype(np.float32)
    more = {"bits": 4, "block_size": 32, "K": 128, "N": 64}
    proto, _ = model("MatMulNBits", [normal(1, 3, 128), codes, scale], (1, 2), **more)
    rows = lpir.compile_model(read_onnx(proto), "CPU").explain().rows
    assert [r.kernel for r in rows if r.type == "MatMul"] == ["weight_stream"]


@pytest.mark.parametrize(("bits", "with_zeros"), [(4, False), (4, True), (8, True)])
def test_tables_of_few_bits(bits: int, with_zeros: bool) -> None:
    rows, columns, block = 20, 64, 16
    codes = packed(RNG.integers(0, 1 << bits, (rows, columns)), bits)
    scale = RNG.uniform(0.01, 0.02, (rows, columns // block)).astype(np.float32)
    zeros = packed(RNG.integers(0, 1 << bits, scale.shape), bits) if with_zeros else None
    picked = RNG.integers(0, rows, (2, 3))
    inputs = [codes, picked, scale, zeros]
    constants = (0, 2, 3) if with_zeros else (0, 2)
    more = {"bits": bits, "block_size": block, "quantize_axis": 1, "gather_axis": 0}
    check("GatherBlockQuantized", inputs, constants, tolerance=EXACT, **more)
