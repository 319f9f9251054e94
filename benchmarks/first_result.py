"""One engine's first result in this process, phase by phase; `benchmarks.cold_start` and `benchmarks.peers` run it.

python -m benchmarks.first_result lpir FILE THREADS [INPUTS.npz]
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mark = Callable[[str], None]
# the arrays of one inference; NumPy is imported by whoever asks
Given = Callable[[], list[Any]]


def first_lpir(path: str, threads: int, mark: Mark, inputs: Given) -> None:
    # `import lpir` alone loads nothing: these names bring NumPy, as importing the other engines does
    from lpir import compile_model, read_model

    mark("import")
    model = read_model(path)
    mark("read")
    compiled = compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
    mark("compile")
    compiled(inputs())
    mark("first inference")


def first_lpir_cached(path: str, threads: int, mark: Mark, inputs: Given) -> None:
    """With CACHE_DIR beside the file: the first process fills it."""
    from lpir import compile_model

    mark("import")
    # the compiled model is found by the file's bytes: nothing is parsed
    mark("read")
    config = {"INFERENCE_NUM_THREADS": threads, "CACHE_DIR": str(Path(path).parent / "cache")}
    compiled = compile_model(path, "CPU", config)
    mark("compile")
    compiled(inputs())
    mark("first inference")


def first_openvino(path: str, threads: int, mark: Mark, inputs: Given) -> None:
    import openvino as ov

    mark("import")
    core = ov.Core()
    model = core.read_model(path)
    mark("read")
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", config)
    mark("compile")
    compiled(inputs())
    mark("first inference")


def first_onnxruntime(path: str, threads: int, mark: Mark, inputs: Given) -> None:
    import onnxruntime as ort

    mark("import")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    mark("read")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    mark("compile")
    session.run(None, {port.name: x for port, x in zip(session.get_inputs(), inputs(), strict=True)})
    mark("first inference")


def first_litert(path: str, threads: int, mark: Mark, inputs: Given) -> None:
    from ai_edge_litert.interpreter import Interpreter

    mark("import")
    interpreter = Interpreter(path, num_threads=threads)
    mark("read")
    interpreter.allocate_tensors()
    mark("compile")
    for port, x in zip(interpreter.get_input_details(), inputs(), strict=True):
        interpreter.set_tensor(port["index"], x.astype(port["dtype"]))
    interpreter.invoke()
    mark("first inference")


FIRST = {
    "lpir": first_lpir,
    "lpircached": first_lpir_cached,
    "openvino": first_openvino,
    "onnxruntime": first_onnxruntime,
    "litert": first_litert,
}


def photo() -> list[Any]:
    """Some input; its values do not matter here."""
    import numpy as np

    return [np.zeros((1, 3, 224, 224), np.float32)]


def arrays(path: str) -> list[Any]:
    """The inputs that a file of NumPy's holds."""
    import numpy as np

    return list(np.load(path).values())


def main() -> None:
    """Prints milliseconds of each phase and the peak memory as JSON."""
    engine, path, threads, *given = sys.argv[1:]
    last = time.perf_counter()
    phases: dict[str, float] = {}

    def mark(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[name], last = 1e3 * (now - last), now

    FIRST[engine](path, int(threads), mark, functools.partial(arrays, given[0]) if given else photo)
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
