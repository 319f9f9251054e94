"""The ONNX form of the benchmarks' encoder means the same to ONNX Runtime as the graph it was made of does here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import lpir
from benchmarks.engines import OnnxRuntime
from benchmarks.minilm import TOKENS, WIDTH, encoder
from benchmarks.onnx_export import export_onnx
from tests.interop.networks import Array
from tests.tolerances import Tolerance, assert_close

VOCABULARY, INNER = 40, 4 * WIDTH
ENCODER = Tolerance("ENCODER", "sums of a layer in another order, and another erf", rel=2e-5, of_max=2e-5)


def random_state() -> dict[str, Array]:
    """One layer with the shapes of the trained network."""
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.position_embeddings.weight": (2 * TOKENS, WIDTH),
    }
    layer = "encoder.layer.0"
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        shapes[f"{layer}.attention.{part}.weight"] = (WIDTH, WIDTH)
        shapes[f"{layer}.attention.{part}.bias"] = (WIDTH,)
    shapes |= {f"{layer}.intermediate.dense.weight": (INNER, WIDTH), f"{layer}.intermediate.dense.bias": (INNER,)}
    shapes |= {f"{layer}.output.dense.weight": (WIDTH, INNER), f"{layer}.output.dense.bias": (WIDTH,)}
    for norm in ("embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {name: (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32) for name, shape in shapes.items()}


def test_onnxruntime_agrees(tmp_path: Path) -> None:
    model = encoder(random_state(), 1)
    export_onnx(model, tmp_path / "encoder.onnx")
    ids = np.random.default_rng(2).integers(0, VOCABULARY, (1, TOKENS))
    mask, types = (np.arange(TOKENS) < 100).astype(np.int64)[None], (np.arange(TOKENS) > 50).astype(np.int64)[None]
    theirs = OnnxRuntime("FP32", tmp_path / "encoder.onnx", 1).infer(ids, mask, types)
    for source in (model, lpir.read_model(tmp_path / "encoder.onnx")):
        ours = lpir.compile_model(source, "CPU")([ids, mask, types])[0]
        assert_close(np.asarray(ours), theirs, ENCODER)
