"""Weight-only compression: lpir and OpenVINO on one network that NNCF compressed.

    python -m benchmarks.weight_only --cache DIR [--threads 1 2] [--rows 1 64] [--modes INT8_ASYM INT4_SYM ...]

Two layers, 2048 x 8192 and back, GELU between them. Per mode, number of rows and of threads: interleaved medians, the
bytes of weights read a second, the distance from float64 arithmetic on the decoded weights, and, in a process of its
own for each engine, the memory that loading and running takes.

OpenVINO runs as it does by itself ("hinted": bfloat16 and activations rounded to 8 bits where it likes) and in the
arithmetic of the file ("f32": no rounding of activations).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.rounds import Times, measure, one_by_one

D, HIDDEN = 2048, 8192
MODES = ("FP32", "INT8_ASYM", "INT8_SYM", "INT4_SYM", "INT4_ASYM")
BITS = {"FP32": 32, "INT8_ASYM": 8, "INT8_SYM": 8, "INT4_SYM": 4, "INT4_ASYM": 4}
GROUP = 128
Array = np.ndarray[Any, np.dtype[Any]]
HINTED: dict[str, str] = {}
SAME = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
ENGINES = ("lpir", "openvino f32", "openvino hinted")


def prepare(cache: Path, mode: str, rows: int) -> Path:
    """The network in a mode, for so many rows; made once."""
    path = cache / f"mlp_{mode}_{rows}.xml"
    if path.exists():
        return path
    import nncf
    import openvino as ov
    from openvino import opset14 as ops

    rng = np.random.default_rng(0)
    x = ops.parameter([rows, D], np.float32, name="x")
    up, down = (rng.standard_normal(s).astype(np.float32) / np.sqrt(s[1]) for s in ((HIDDEN, D), (D, HIDDEN)))
    y = ops.gelu(ops.matmul(x, ops.constant(np.float32(up)), False, True), "erf")
    y = ops.matmul(y, ops.constant(np.float32(down)), False, True)
    model = ov.Model([ops.result(y, name="y")], [x], "mlp")
    if mode != "FP32":
        more: dict[str, Any] = {} if "8" in mode else {"group_size": GROUP, "ratio": 1.0, "all_layers": True}
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode[mode], **more)
    cache.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def load(engine: str, path: Path, threads: int) -> Callable[[Array], Array]:
    """An engine with the network, as a function of its input."""
    if engine == "lpir":
        import lpir

        compiled = lpir.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads})
        request = compiled.create_infer_request()

        def run(x: Array) -> Array:
            request.set_input_tensor(x)
            request.infer()
            return np.asarray(request.results[0])

        return run
    import openvino as ov

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    theirs = ov.Core().compile_model(path, "CPU", config | (SAME if engine.endswith("f32") else HINTED))
    return lambda x: np.asarray(theirs(x, share_outputs=True)[0])


def exact(path: Path, x: Array) -> Array:
    """The network in float64, on the weights that the file holds."""
    import openvino as ov

    model = ov.Core().read_model(path)
    matrices = [op.input_value(1) for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    decoded = ov.Core().compile_model(ov.Model([m.node for m in matrices], [], "w"), "CPU", SAME)([])
    up, down = (np.asarray(decoded[i], np.float64) for i in range(2))
    hidden = x.astype(np.float64) @ up.T
    erf = np.vectorize(__import__("math").erf)
    return 0.5 * hidden * (1 + erf(hidden / np.sqrt(2))) @ down.T


def resident_mb() -> float:
    """What this process holds in memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(fields["RssAnon"].split()[0]) / 1024


def memory(engine: str, path: Path, rows: int) -> None:
    """Prints, in a process of its own, the private memory that an engine takes for the network."""
    x = np.zeros((rows, D), np.float32)
    __import__("lpir.devices.cpu.device" if engine == "lpir" else "openvino")
    before = resident_mb()
    run = load(engine, path, 1)
    run(x)
    print(f"{resident_mb() - before:.0f}")


def compare(cache: Path, mode: str, rows: int, threads: int, rounds: int) -> None:
    """A line an engine."""
    path = prepare(cache, mode, rows)
    x = np.random.default_rng(1).standard_normal((rows, D)).astype(np.float32)
    runs = {engine: load(engine, path, threads) for engine in ENGINES}
    truth = exact(path, x)
    off = {e: float(np.abs(run(x) - truth).max() / np.abs(truth).max()) for e, run in runs.items()}
    times: dict[str, Times] = measure({e: lambda r=r: r(x) for e, r in runs.items()}, one_by_one, rounds, 60)
    for engine, found in times.items():
        size = 2 * D * HIDDEN * BITS[mode] / 8
        print(
            f"{mode:<10} rows {rows:<3} threads {threads}  {engine:<16} {found.median:8.3f} ms"
            f"  {size / found.median / 1e6:6.1f} GB/s of weights"
            f"  {2 * D * HIDDEN * rows / found.median / 1e6:7.1f} GMAC/s  off {off[engine]:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", metavar="ENGINE", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        memory(args.memory, prepare(args.cache, args.modes[0], args.rows[0]), args.rows[0])
        return
    print(describe())
    for mode in args.modes:
        for rows in args.rows:
            for threads in args.threads:
                compare(args.cache, mode, rows, threads, args.rounds)
        for engine in ENGINES:
            options = ["--cache", str(args.cache), "--modes", mode, "--rows", "1", "--memory", engine]
            command = [sys.executable, "-m", "benchmarks.weight_only", *options]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
            print(f"{mode:<10} {engine:<16} {found} MB of memory")


if __name__ == "__main__":
    main()
