"""Many Python threads share one compiled model for a while: the bits must not change and memory must not grow.

    python -m scripts.soak --minutes 30 --threads 4

Prints memory as it goes. Exit code 1 when an output differs, or when memory at any time is more than `--slack` MB above
that after warming up.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import lpir
from lpir.demo.mobilenet import mobilenet_v2
from lpir.demo.photos import photos
from lpir.runtime.session import CompiledModel

Array = np.ndarray[Any, np.dtype[Any]]

REPORTS = 10


def resident_mb() -> float:
    """Memory of this process that is in RAM, from /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class Soak:
    """A model, inputs, and the outputs that each must give from now on."""

    def __init__(self, compiled: CompiledModel, inputs: list[Array]) -> None:
        self.compiled, self.inputs = compiled, inputs
        self.expected = [np.asarray(compiled(x)[0]).copy() for x in inputs]

    def run(self, seconds: float, threads: int) -> tuple[int, int]:
        """Runs until the time is over. Returns how many inferences ran, and how many gave other bits."""
        counts, wrong = [0] * threads, [0] * threads
        end = time.monotonic() + seconds

        def work(me: int) -> None:
            rng = np.random.default_rng(me)
            while time.monotonic() < end:
                which = int(rng.integers(len(self.inputs)))
                found = np.asarray(self.compiled(self.inputs[which])[0])
                counts[me] += 1
                wrong[me] += not np.array_equal(found, self.expected[which])

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
    parser.add_argument("--threads", type=int, default=4, help="Python threads that share the model")
    parser.add_argument("--streams", type=int, default=1, help="of them, how many the model serves side by side")
    parser.add_argument("--slack", type=float, default=8, help="MB that memory may grow after warming up")
    options = parser.parse_args()
    inputs = [photo.input() for photo in photos()]
    quantized = lpir.quantize(mobilenet_v2(), inputs[:10], progress=False)
    soak = Soak(lpir.compile_model(quantized, "CPU", {"NUM_STREAMS": options.streams}), inputs)
    soak.run(min(10.0, 6 * options.minutes), options.threads)
    before = most = resident_mb()
    count = wrong = 0
    for part in range(REPORTS):
        found = soak.run(60 * options.minutes / REPORTS, options.threads)
        count, wrong, now = count + found[0], wrong + found[1], resident_mb()
        most = max(most, now)
        minutes = options.minutes * (part + 1) / REPORTS
        print(f"{minutes:6.1f} min: {count} inferences, {wrong} with other bits, {now:.1f} MB", flush=True)
    print(f"{options.threads} threads; memory {before:.1f} MB after warming up, at most {most:.1f} MB since")
    return int(wrong > 0 or most - before > options.slack)


if __name__ == "__main__":
    sys.exit(main())
