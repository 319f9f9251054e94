"""LiteRT (TensorFlow Lite) as a peer: `pip install ai-edge-litert`, and files that `litert_convert.py` makes.

The converters need PyTorch, so they live in an environment of their own, whose Python `peers --litert` names. Without
it, and for networks that they cannot convert, the rows are left out and the report says so.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.engines import Array, Engine

if TYPE_CHECKING:
    from benchmarks.prepare import Files

CONVERTER = Path(__file__).with_name("litert_convert.py")


class LiteRt(Engine):
    """LiteRT with XNNPACK, an interpreter a stream; `exact` runs its reference kernels."""

    key = "litert"

    def __init__(self, precision: str, path: Path, threads: int, exact: bool = False, streams: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        super().__init__("LiteRT", precision, path, threads, exact, streams)
        kernels = OpResolverType.BUILTIN_REF if exact else OpResolverType.AUTO
        self.interpreters = [
            Interpreter(str(path), num_threads=threads // streams, experimental_op_resolver_type=kernels)
            for _ in range(streams)
        ]
        for interpreter in self.interpreters:
            interpreter.allocate_tensors()

    def bind(self, *inputs: Array) -> None:
        for interpreter in self.interpreters:
            for port, x in zip(interpreter.get_input_details(), inputs, strict=True):
                interpreter.set_tensor(port["index"], _quantized(x, port))

    def run(self, stream: int = 0) -> None:
        self.interpreters[stream].invoke()

    def output(self) -> Array:
        (port,) = self.interpreters[0].get_output_details()
        scale, zero_point = port["quantization"]
        y = np.asarray(self.interpreters[0].get_tensor(port["index"]))
        return (y.astype(np.float32) - np.float32(zero_point)) * np.float32(scale) if scale else y


def _quantized(x: Array, port: dict[str, Any]) -> Array:
    """`x` as the codes that an INT8 file takes."""
    scale, zero_point = port["quantization"]
    if not scale:
        return x
    limits = np.iinfo(port["dtype"])
    return np.clip(np.rint(x / np.float32(scale)) + zero_point, limits.min, limits.max).astype(port["dtype"])


def write_litert(files: Files, calibration: list[tuple[Array, ...]], python: Path) -> None:
    """LiteRT's files, float and INT8; none where its converters fail."""
    import onnx

    names = [v.name for v in onnx.load(files.onnx, load_external_data=False).graph.input]
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "samples.npz"
        np.savez(given, **{name: np.stack([x[i] for x in calibration]) for i, name in enumerate(names)})
        command = [python, CONVERTER, files.onnx, given, files.litert, files.litert_int8]
        subprocess.run([str(word) for word in command], check=False, capture_output=True)
