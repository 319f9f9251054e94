"""What a quantized file means: its outputs in the float arithmetic of the engine that it was made for.

Computed in another process, because a limit on oneDNN's instruction set (`peers --isa`) holds for a whole process, and
OpenVINO cannot run i8 weights in float under one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

from benchmarks.engines import ISA_LIMIT, Array
from benchmarks.lineup import ENGINES
from benchmarks.samples import Inputs


def exact_outputs(engine: str, path: Path, inputs: list[Inputs]) -> list[Array]:
    """One output for each input; kept beside `path` for later calls with the same inputs."""
    digest = 0
    for array in (array for arrays in inputs for array in arrays):
        digest = zlib.crc32(np.ascontiguousarray(array).data, digest)
    kept = path.with_suffix(f".{engine}.exact-{digest:08x}.npy")
    if not kept.exists() or kept.stat().st_mtime < path.stat().st_mtime:
        environment = {k: v for k, v in os.environ.items() if k != ISA_LIMIT}
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "inputs.npz"
            np.savez(given, *(np.stack(arrays) for arrays in zip(*inputs, strict=True)))
            command = [sys.executable, "-m", "benchmarks.exact", engine, str(path), str(given), str(kept)]
            subprocess.run(command, check=True, env=environment)
    return list(np.load(kept))


def main() -> None:
    engine, path, given, kept = sys.argv[1:]
    loaded = ENGINES[engine]("INT8", Path(path), 1, True)
    inputs = np.load(given)
    np.save(kept, np.stack([loaded.infer(*x) for x in zip(*(inputs[name] for name in inputs.files), strict=True)]))


if __name__ == "__main__":
    main()
