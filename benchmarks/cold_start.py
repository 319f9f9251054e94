"""What a first result costs: import, read, compile, first inference, memory and installed size, each in new processes.

    python -m benchmarks.cold_start --runs 7 --threads 2 --cache FOLDER

The network is MobileNetV2 in INT8; no engine may keep anything between runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median
from typing import Any

NETWORK = "mobilenet_v2"
# what an application installs with each engine; numpy is in all of them
PACKAGES = {
    "lpir": ("lpir", "llvmlite", "ml-dtypes", "numpy"),
    "OpenVINO": ("openvino", "openvino-telemetry", "numpy"),
    "ONNX Runtime": ("onnxruntime", "flatbuffers", "protobuf", "packaging", "numpy"),
}
IMPORTS = {"nothing": "", "numpy": "numpy", "lpir": "lpir", "OpenVINO": "openvino", "ONNX Runtime": "onnxruntime"}


def first_lpir(path: str, threads: int, mark: Callable[[str], None]) -> None:
    import lpir

    mark("import")
    model = lpir.read_model(path)
    mark("read")
    compiled = lpir.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
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


FIRST = {"lpir": first_lpir, "OpenVINO": first_openvino, "ONNX Runtime": first_onnxruntime}


def photo() -> Any:
    """Some input; its values do not matter here."""
    import numpy as np

    return np.zeros((1, 3, 224, 224), np.float32)


def child(engine: str, path: str, threads: int) -> None:
    """Runs in the new process: prints milliseconds of each phase and the peak memory as JSON."""
    last = time.perf_counter()
    phases: dict[str, float] = {}

    def mark(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[name], last = 1e3 * (now - last), now

    FIRST[engine](path, threads, mark)
    print(json.dumps({**phases, "peak MB": peak_mb()}))


def peak_mb() -> float:
    """Peak resident memory of this process in MB (10^6 bytes); 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    # kilobytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def start(engine: str, path: Path, threads: int) -> dict[str, float]:
    """One new process: its phases, and "whole" from before it started to its end."""
    command = [sys.executable, "-m", "benchmarks.cold_start", "--child", engine, str(path), str(threads)]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"whole": 1e3 * (time.perf_counter() - begin), **found}


def import_ms(runs: int) -> dict[str, float]:
    """Median milliseconds of a process that imports a package and nothing else; engines take turns."""
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(runs):
        for name, module in IMPORTS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}" if module else ""], check=True)
            found[name].append(1e3 * (time.perf_counter() - begin))
    return {name: median(times) for name, times in found.items()}


def installed_mb(packages: tuple[str, ...]) -> float:
    """MB (10^6 bytes) of the files that packages brought, without byte code; lpir's own may be a source tree."""
    total = 0
    for name in packages:
        try:
            files = [Path(str(f.locate())) for f in distribution(name).files or []]
        except PackageNotFoundError:
            files = []
        if name == "lpir":
            files = list(Path(__file__).parent.parent.joinpath("lpir").rglob("*"))
        total += sum(f.stat().st_size for f in files if f.suffix != ".pyc" and f.is_file())
    return total / 1e6


def report(runs: int, threads: int, folder: Path) -> dict[str, Any]:
    """Every figure, after one run of each engine that fills the system's file cache."""
    from benchmarks.prepare import prepare
    from lpir.demo.photos import photos

    files = prepare(NETWORK, folder, [p.input() for p in photos()])
    paths = {"lpir": files.nncf, "OpenVINO": files.nncf, "ONNX Runtime": files.onnx_int8}
    phases: dict[str, list[dict[str, float]]] = {engine: [] for engine in FIRST}
    for index in range(runs + 1):
        for engine, path in paths.items():
            found = start(engine, path, threads)
            if index:
                phases[engine].append(found)
    return {
        "import_ms": import_ms(runs),
        "start_ms": {e: {key: median(r[key] for r in rows) for key in rows[0]} for e, rows in phases.items()},
        "installed_mb": {engine: installed_mb(packages) for engine, packages in PACKAGES.items()},
    }


def show(found: dict[str, Any]) -> None:
    nothing = found["import_ms"]["nothing"]
    print(f"\nPython alone: {nothing:.0f} ms; imports on top of it: ", end="")
    print(", ".join(f"{n} {ms - nothing:.0f} ms" for n, ms in found["import_ms"].items() if n != "nothing"))
    phases = list(found["start_ms"]["lpir"])
    print("\n| engine | " + " | ".join(p if p.endswith("MB") else f"{p}, ms" for p in phases) + " | installed MB |")
    print("| --- " * (len(phases) + 2) + "|")
    for engine, row in found["start_ms"].items():
        cells = " | ".join(f"{row[p]:.0f}" for p in phases)
        print(f"| {engine} | {cells} | {found['installed_mb'][engine]:.0f} |")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        engine, path, threads = sys.argv[2:5]
        child(engine, path, int(threads))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every figure there too")
    parser.add_argument("--cache", type=Path, help="keep the prepared network in this folder")
    options = parser.parse_args()
    from benchmarks.machine import describe

    print(describe())
    with tempfile.TemporaryDirectory() as temporary:
        found = report(options.runs, options.threads, options.cache or Path(temporary))
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
