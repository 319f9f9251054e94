"""Many Python threads share one compiled model for a while: the bits must not change and memory must not grow.

    python -m scripts.soak --minutes 30 --threads 4

Exit code 1 when an output differs, or when memory after the run is more than `--slack` MB above that after warming up.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np

import lpir
from lpir.demo.mobilenet import mobilenet_v2
from lpir.demo.photos import photos
from lpir.runtime.session import CompiledModel


def resident_mb() -> float:
    """Memory of this process that is in RAM, from /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def soak(compiled: CompiledModel, inputs: list[np.ndarray], seconds: float, threads: int) -> tuple[int, int]:  # type: ignore[type-arg]
    """Runs until the time is over. Returns how many inferences ran and how many gave other bits than the first."""
    expected = [np.asarray(compiled(x)[0]).copy() for x in inputs]
    counts, wrong = [0] * threads, [0] * threads
    end = time.monotonic() + seconds

    def work(me: int) -> None:
        rng = np.random.default_rng(me)
        while time.monotonic() < end:
            which = int(rng.integers(len(inputs)))
            counts[me] += 1
            wrong[me] += not np.array_equal(np.asarray(compiled(inputs[which])[0]), expected[which])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts), sum(wrong)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--slack", type=float, default=8, help="MB that memory may grow after warming up")
    options = parser.parse_args()
    inputs = [photo.input() for photo in photos()]
    compiled = lpir.compile_model(lpir.quantize(mobilenet_v2(), inputs[:10], progress=False), "CPU")
    soak(compiled, inputs, min(10.0, 6 * options.minutes), options.threads)
    before = resident_mb()
    count, wrong = soak(compiled, inputs, 60 * options.minutes, options.threads)
    after = resident_mb()
    print(f"{count} inferences on {options.threads} threads, {wrong} with other bits")
    print(f"memory {before:.0f} -> {after:.0f} MB")
    return int(wrong > 0 or after - before > options.slack)


if __name__ == "__main__":
    sys.exit(main())
