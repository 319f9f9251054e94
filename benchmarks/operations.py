"""Single operations beside convolutions and products: lpir and OpenVINO, interleaved medians in ms.

python -m benchmarks.operations [--threads 1 2] [--only lstm]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.rounds import measure, one_by_one

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(0)


def _weights(ops: Any, *shape: int) -> Any:
    return ops.constant((RNG.standard_normal(shape) * 0.1).astype(np.float32))


def _recurrent(gates: int, steps: int, size: int, hidden: int, directions: int) -> Callable[[Any], Any]:
    def build(ops: Any) -> Any:
        x = ops.parameter([1, steps, size], np.float32, name="x")
        state, lengths = _weights(ops, 1, directions, hidden), ops.constant(np.array([steps]))
        w, r = (_weights(ops, directions, gates * hidden, n) for n in (size, hidden))
        way = "bidirectional" if directions == 2 else "forward"
        if gates == 4:
            y = ops.lstm_sequence(x, state, state, lengths, w, r, _weights(ops, directions, 4 * hidden), hidden, way)
        else:
            bias = _weights(ops, directions, 4 * hidden)
            y = ops.gru_sequence(x, state, lengths, w, r, bias, hidden, way, linear_before_reset=True)
        return [y.output(0)], [x]

    return build


def _top_k(ops: Any) -> Any:
    x = ops.parameter([1, 25200], np.float32, name="x")
    return ops.topk(x, ops.constant(np.int64(300)), 1, "max", "value").outputs(), [x]


def _suppression(ops: Any) -> Any:
    boxes, scores = (ops.parameter(s, np.float32, name=n) for s, n in (((1, 2000, 4), "b"), ((1, 20, 2000), "s")))
    limits = [ops.constant(np.int64(100)), ops.constant(np.float32(0.5)), ops.constant(np.float32(0.6))]
    return ops.non_max_suppression(boxes, scores, *limits).outputs(), [boxes, scores]


def _resize(mode: str) -> Callable[[Any], Any]:
    def build(ops: Any) -> Any:
        x = ops.parameter([1, 64, 40, 40], np.float32, name="x")
        size, axes = ops.constant(np.array([80, 80])), ops.constant(np.array([2, 3]))
        return [ops.interpolate(x, size, mode, "sizes", axes=axes).output(0)], [x]

    return build


def _norm(ops: Any) -> Any:
    x = ops.parameter([1, 320, 32, 32], np.float32, name="x")
    scale = _weights(ops, 320)
    return [ops.group_normalization(x, scale, scale, 32, 1e-5).output(0)], [x]


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "lstm 100 x 256, 256 units, both ways": _recurrent(4, 100, 256, 256, 2),
    "lstm 50 x 128, 512 units": _recurrent(4, 50, 128, 512, 1),
    "gru 100 x 64, 64 units": _recurrent(3, 100, 64, 64, 1),
    "top 300 of 25,200": _top_k,
    "suppression, 20 classes of 2,000 boxes": _suppression,
    "resize nearest 64 x 40 x 40 to 80 x 80": _resize("nearest"),
    "resize linear 64 x 40 x 40 to 80 x 80": _resize("linear_onnx"),
    "group normalization 320 x 32 x 32": _norm,
}


def compare(name: str, threads: int, rounds: int) -> None:
    """One line."""
    import openvino as ov
    from openvino import opset14 as ops

    import lpir
    from lpir.serialize.xml_read import read_model

    results, parameters = NETWORKS[name](ops)
    model = ov.Model([ops.result(r) for r in results], parameters, "one")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.xml")
        ov.save_model(model, path, compress_to_fp16=False)
        ours = lpir.compile_model(read_model(path), "CPU", {"INFERENCE_NUM_THREADS": threads})
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    theirs = ov.Core().compile_model(model, "CPU", config)
    inputs = [RNG.uniform(0, 1, [d.get_length() for d in p.get_partial_shape()]).astype(np.float32) for p in parameters]
    request = ours.create_infer_request()
    for i, x in enumerate(inputs):
        request.set_input_tensor(i, x)
    runs = {"lpir": request.infer, "OpenVINO": lambda: theirs(inputs, share_outputs=True)}
    times = measure(runs, one_by_one, rounds, 40)
    line = "  ".join(f"{key} {found.median:7.3f} ms" for key, found in times.items())
    print(f"{name:<42} threads {threads}  {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(describe())
    for name in NETWORKS:
        for threads in args.threads:
            if args.only in name:
                compare(name, threads, args.rounds)


if __name__ == "__main__":
    main()
