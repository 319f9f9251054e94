"""What a first result costs: import, read, compile, first inference, memory and installed size, each in new processes.

    python -m benchmarks.cold_start --runs 7 --threads 2 --cache FOLDER

The network is MobileNetV2 in INT8; no engine may keep anything between runs.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NETWORK = "mobilenet_v2"
# what an application installs; a package's own requirements are followed
CACHED = "lpir, from CACHE_DIR"
# engine -> its name for benchmarks.first_result, and the packages that it needs at run time
ENGINES = {
    "lpir": ("lpir", ["lpir"]),
    CACHED: ("lpircached", ["numpy", "ml-dtypes"]),
    "OpenVINO": ("openvino", ["openvino"]),
    "ONNX Runtime": ("onnxruntime", ["onnxruntime"]),
}
SOURCE = Path(__file__).parent.parent
IMPORTS = {"nothing": "", "numpy": "numpy", "lpir": "lpir", "OpenVINO": "openvino", "ONNX Runtime": "onnxruntime"}


@functools.cache
def environment() -> dict[str, str]:
    """Of new processes: byte code is kept from one to the next, as `pip` does for what it installs."""
    folder = tempfile.TemporaryDirectory(prefix="lpir-bytecode-")
    atexit.register(folder.cleanup)
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": folder.name}


def start(engine: str, path: Path, threads: int, *inputs: Path) -> dict[str, float]:
    """One new process: its phases, and "whole" from before it started to its end. `engine` as first_result has it."""
    command = [sys.executable, "-m", "benchmarks.first_result", engine, *map(str, (path, threads, *inputs))]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"whole": 1e3 * (time.perf_counter() - begin), **found}


def import_ms(runs: int) -> dict[str, float]:
    """Median milliseconds of a process that imports a package and nothing else; engines take turns."""
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(runs):
        for name, module in IMPORTS.items():
            begin = time.perf_counter()
            command = [sys.executable, "-c", f"import {module}" if module else ""]
            subprocess.run(command, check=True, env=environment())
            found[name].append(1e3 * (time.perf_counter() - begin))
    return {name: median(times) for name, times in found.items()}


def requirements(name: str) -> list[Requirement]:
    """What a package needs without extras here; lpir's from its source tree, which may not be installed."""
    if name == "lpir":
        lines = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["dependencies"]
    else:
        lines = distribution(name).requires or []
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


def closure(name: str) -> set[str]:
    """The package and all that it needs, as far as it is installed."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        package = canonicalize_name(waiting.pop())
        if package not in found:
            try:
                waiting += [r.name for r in requirements(package)]
            except PackageNotFoundError:
                continue
            found.add(package)
    return found


def installed_mb(packages: set[str]) -> float:
    """MB (10^6 bytes) of the files that packages brought, without byte code."""
    total = 0
    for name in packages:
        if name == "lpir":
            files = list((SOURCE / "lpir").rglob("*"))
        else:
            files = [Path(str(f.locate())) for f in distribution(name).files or []]
        total += sum(f.stat().st_size for f in files if f.suffix != ".pyc" and f.is_file())
    return total / 1e6


def needed(engine: str) -> set[str]:
    """All packages that an engine needs; from the cache, lpir needs neither LLVM nor a file format's library."""
    packages = set().union(*(closure(p) for p in ENGINES[engine][1]))
    return packages | {"lpir"} if engine == CACHED else packages


def report(runs: int, threads: int, folder: Path) -> dict[str, Any]:
    """Every figure, after one run of each engine that fills the system's file cache."""
    from benchmarks.prepare import prepare
    from lpir.demo.photos import photos

    files = prepare(NETWORK, folder, [(p.input(),) for p in photos()])
    paths = {"lpir": files.nncf, CACHED: files.nncf, "OpenVINO": files.nncf, "ONNX Runtime": files.onnx_int8}
    phases: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for index in range(runs + 1):
        for engine, path in paths.items():
            found = start(ENGINES[engine][0], path, threads)
            if index:
                phases[engine].append(found)
    return {
        "import_ms": import_ms(runs),
        "start_ms": {e: {key: median(r[key] for r in rows) for key in rows[0]} for e, rows in phases.items()},
        "installed_mb": {engine: installed_mb(needed(engine)) for engine in ENGINES},
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
