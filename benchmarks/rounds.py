"""Interleaved timing: on a shared machine only what was measured side by side can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from threading import Barrier, Thread
from typing import TypeVar

# one engine's waiting threads spin for a while behind its last run; the next engine must not pay for it
SETTLE_S = 0.02
WARM_UP = 2
LEAST_RUNS = 3

T = TypeVar("T")


@dataclass
class Times:
    """Milliseconds of one engine: the median of each round, and the fastest run of all."""

    rounds: list[float] = field(default_factory=list)
    best: float = float("inf")

    @property
    def median(self) -> float:
        return median(self.rounds)


def measure(
    engines: Mapping[str, T], burst: Callable[[T, float, Times], None], rounds: int, burst_ms: float
) -> dict[str, Times]:
    """Times of each engine. In each round each runs a `burst` of about `burst_ms`, each round begins with another."""
    names = list(engines)
    times = {name: Times() for name in names}
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(SETTLE_S)
            burst(engines[name], burst_ms, times[name])
    return times


def one_by_one(run: Callable[[], None], burst_ms: float, into: Times) -> None:
    """Runs for `burst_ms`, and adds the median and the best."""
    for _ in range(WARM_UP):
        run()
    found: list[float] = []
    end = time.perf_counter() + burst_ms / 1e3
    while len(found) < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        found.append(1e3 * (time.perf_counter() - start))
    into.rounds.append(median(found))
    into.best = min(into.best, *found)


def side_by_side(runs: Sequence[Callable[[], None]], burst_ms: float, into: Times) -> None:
    """Runs each of `runs` in a Python thread of its own for `burst_ms`, and adds the time that one inference took of
    all threads together: 1000 / inferences a second."""
    counts = [0] * len(runs)
    ready = Barrier(len(runs) + 1)

    def work(me: int) -> None:
        for _ in range(WARM_UP):
            runs[me]()
        ready.wait()
        end = time.perf_counter() + burst_ms / 1e3
        while time.perf_counter() < end:
            runs[me]()
            counts[me] += 1

    workers = [Thread(target=work, args=(me,)) for me in range(len(runs))]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    into.rounds.append(1e3 * (time.perf_counter() - start) / sum(counts))
    into.best = min(into.best, into.rounds[-1])


def ratio(a: Times, b: Times) -> float:
    """The median over rounds of `a` / `b`: what both suffered alike cancels."""
    return median(x / y for x, y in zip(a.rounds, b.rounds, strict=True))
