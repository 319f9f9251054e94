"""What dynamic shapes cost lpir: a plan for each, hardly a kernel, and then the speed of a model of that shape.

    python -m benchmarks.dynamic --cache FOLDER

MobileNetV2 in INT8 with any batch, height and width: ten shapes, each the first time and once planned, interleaved with
a model that was reshaped to it before it was compiled.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.prepare import NETWORKS, prepare
from benchmarks.report import markdown
from benchmarks.rounds import Times, measure, one_by_one, ratio

NETWORK = "mobilenet_v2"
SHAPES = [(n, 224, 224) for n in (1, 2, 3, 4)] + [(1, 160, 160), (1, 192, 256), (1, 256, 192), (1, 288, 288)]
SHAPES += [(1, 320, 240), (2, 128, 128)]


class Planned:
    """One shape: an input, a request of the dynamic model that has planned it, and one of a static model."""

    def __init__(self, dynamic: Any, path: Path, shape: tuple[int, int, int], threads: int) -> None:
        import lpir

        batch, height, width = shape
        self.x = np.random.default_rng(0).normal(size=(batch, 3, height, width)).astype(np.float32)
        self.request = dynamic.create_infer_request()
        start = time.perf_counter()
        self.request.infer([self.x])
        self.first_ms = 1e3 * (time.perf_counter() - start)
        self.plans, self.kernels = (dynamic.get_property(name) for name in ("PLANS", "COMPILED_KERNELS"))
        model = lpir.read_model(path)
        model.reshape(self.x.shape)
        static = lpir.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
        self.static = static.create_infer_request()

    def times(self, rounds: int, burst_ms: float) -> dict[str, Times]:
        """Interleaved."""
        runs = {
            "dynamic": lambda: self.request.infer([self.x]),
            "static": lambda: self.static.infer([self.x]),
        }
        return measure(runs, one_by_one, rounds, burst_ms)


def rows(path: Path, threads: int, rounds: int, burst_ms: float) -> list[Sequence[str]]:
    """A line for each shape."""
    import lpir

    model = lpir.read_model(path)
    model.reshape([-1, 3, -1, -1])
    dynamic = lpir.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
    # the first plan compiles nearly all kernels
    planned = [Planned(dynamic, path, shape, threads) for shape in SHAPES]
    found = []
    for item in planned:
        times = item.times(rounds, burst_ms)
        found.append(
            [
                "x".join(map(str, item.x.shape)),
                f"{item.first_ms:.0f}",
                str(item.plans),
                str(item.kernels),
                f"{times['dynamic'].median:.3f}",
                f"{times['static'].median:.3f}",
                f"{ratio(times['static'], times['dynamic']):.2f}x",
            ]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="bursts of each model")
    parser.add_argument("--burst-ms", type=float, default=60, help="length of a burst")
    parser.add_argument("--cache", type=Path, help="keep the prepared networks in this folder")
    options = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.cache or Path(temporary)
        files = prepare(NETWORK, folder, NETWORKS[NETWORK].samples(folder).inputs)
        header = ["shape", "first inference, ms", "plans so far", "functions compiled so far"]
        header += ["planned, ms", "static model, ms", "speed of the static model"]
        print(markdown(header, rows(files.nncf, options.threads, options.rounds, options.burst_ms)))


if __name__ == "__main__":
    main()
