"""One engine's first result in this process, phase by phase; `benchmarks.cold_start` runs it.

python -m benchmarks.first_result lpir FILE THREADS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def first_lpir(path: str, threads: int, mark: Callable[[str], None]) -> None:
    import lpir

    mark("import")
    model = lpir.read_model(path)
    mark("read")
    compiled = lpir.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
    mark("compile")
    compiled(photo())
    mark("first inference")


def first_lpir_cached(path: str, threads: int, mark: Callable[[str], None]) -> None:
    """With CACHE_DIR beside the file: the first process fills it."""
    import lpir

    mark("import")
    # the compiled model is found by the file's bytes: nothing is parsed
    mark("read")
    config = {"INFERENCE_NUM_THREADS": threads, "CACHE_DIR": str(Path(path).parent / "cache")}
    compiled = lpir.compile_model(path, "CPU", config)
    mark("compile")
    compiled(photo())
    mark("first inference")


def first_openvino(path: str, threads: int, mark: Callable[[str], None]) -> None:
    import openvino as ov

    mark("import")
    core = ov.Core()
    model = core.read_model(path)
    mark("read")
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", config)
    mark("compile")
    compiled(photo())
    mark("first inference")


def first_onnxruntime(path: str, threads: int, mark: Callable[[str], None]) -> None:
    import onnxruntime as ort

    mark("import")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    mark("read")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    mark("compile")
    session.run(None, {"input": photo()})
    mark("first inference")


FIRST = {
    "lpir": first_lpir,
    "lpircached": first_lpir_cached,
    "openvino": first_openvino,
    "onnxruntime": first_onnxruntime,
}


def photo() -> Any:
    """Some input; its values do not matter here."""
    import numpy as np

    return np.zeros((1, 3, 224, 224), np.float32)


def main() -> None:
    """Prints milliseconds of each phase and the peak memory as JSON."""
    engine, path, threads = sys.argv[1:]
    last = time.perf_counter()
    phases: dict[str, float] = {}

    def mark(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[name], last = 1e3 * (now - last), now

    FIRST[engine](path, int(threads), mark)
    print(json.dumps({**phases, "peak MB": peak_mb()}))


def peak_mb() -> float:
    """Peak resident memory of this process in MB (10^6 bytes); 0 where the system does not tell.

    Not getrusage: its maximum is inherited from the process that forked this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
