"""A pool of native threads that run a list of compiled steps together.

A worker is a Python thread that enters native code once and stays there (ctypes releases the GIL): it spins for a short
while behind a job, so that the next one starts within a microsecond, then sleeps.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lpir.devices.cpu.codegen.executor import SYMBOLS, executor_text, pool_bytes
from lpir.errors import InputError

if TYPE_CHECKING:
    from lpir.devices.cpu.codegen.jit import Jit

SPINS = 4000  # with `pause`, some 50 us: longer than a step, much shorter than anyone notices


# the executor of the first library that was loaded, if that was before any was compiled; keeps no library alive
_LOADED: dict[str, int] = {}


def use_executor(addresses: Mapping[str, int]) -> None:
    """Takes the executor's functions from a library, which stays loaded, so that none has to be compiled."""
    _LOADED.update(addresses)


@functools.cache
def start_executor() -> Jit | None:
    """Starts to compile the executor in another thread, which loads LLVM, unless a library brought it."""
    if _LOADED:
        return None
    from lpir.devices.cpu.codegen.jit import Jit
    from lpir.devices.cpu.isa import by_name

    jit = Jit(by_name("generic"))
    # one text defines all the symbols
    jit.add(SYMBOLS[0], executor_text())
    for symbol in SYMBOLS[1:]:
        jit.add(symbol, "")
    return jit


@functools.cache
def executor() -> Mapping[str, int]:
    """The addresses of the executor's functions, for good."""
    jit = start_executor()
    return jit.compile() if jit else _LOADED


def _function(symbol: str, arguments: int) -> Callable[..., None]:
    address = executor()[symbol]
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(address)


class ThreadPool:
    """`threads` threads, the caller of `run` among them. Raises InputError for fewer than one."""

    def __init__(self, threads: int, spins: int = SPINS) -> None:
        if threads < 1:
            raise InputError(f"a pool needs at least one thread, not {threads}")
        self.threads = threads
        self._memory = ctypes.create_string_buffer(pool_bytes(threads) + 64)
        self._pool = -(-ctypes.addressof(self._memory) // 64) * 64
        words = (ctypes.c_int64 * 2).from_address(self._pool)
        words[0], words[1] = threads, spins
        self._submit = _function("submit", 3)
        self._lock = threading.Lock()
        self._workers = _start_workers(self._memory, self._pool, threads)
        self._finalizer = weakref.finalize(self, _stop, self._pool, self._workers, self._memory)

    def run(self, steps: int, count: int) -> None:
        """Runs `count` steps at address `steps` (pairs of function and parameter addresses) on all threads."""
        with self._lock:
            if not self._finalizer.alive:
                raise InputError("the thread pool is closed")
            self._submit(self._pool, steps, count)

    def stop_workers(self) -> None:
        """Ends the workers; `run` then does every thread's part on the calling thread."""
        _stop(self._pool, self._workers, self._memory)

    def close(self) -> None:
        """Ends the workers. The pool cannot run again."""
        with self._lock:
            self._finalizer()


def _start_workers(memory: object, pool: int, count: int) -> list[threading.Thread]:
    serve = _function("worker", 2)
    workers = [
        threading.Thread(target=serve, args=(pool, tid), name=f"lpir-cpu-{tid}", daemon=True) for tid in range(1, count)
    ]
    started: list[threading.Thread] = []
    try:
        for worker in workers:
            worker.start()
            started.append(worker)
    except RuntimeError as error:
        _stop(pool, started, memory)
        raise InputError(
            f"{count} threads are more than the system allows: {error}; set INFERENCE_NUM_THREADS"
        ) from error
    return workers


def _stop(pool: int, workers: list[threading.Thread], memory: object) -> None:
    """Ends the workers; `memory` is kept until they are gone."""
    _function("stop", 1)(pool)
    for worker in workers:
        if worker is not threading.current_thread():
            worker.join()


# a forked child has none of its parent's threads, hence the process id
_POOLS: dict[tuple[int, int, int], ThreadPool] = {}
_POOLS_LOCK = threading.Lock()


def pool_for(threads: int, stream: int) -> ThreadPool:
    """The process's pool of that many threads; each stream has its own."""
    key = (os.getpid(), threads, stream)
    pool = _POOLS.get(key)
    if pool is None:
        with _POOLS_LOCK:
            pool = _POOLS.get(key) or _POOLS.setdefault(key, ThreadPool(threads))
    return pool


def default_threads() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_and_streams(config: Mapping[str, Any]) -> tuple[int, int]:
    """Threads of one inference and inferences side by side, as the properties ask."""
    cores = int(config.get("INFERENCE_NUM_THREADS", 0)) or default_threads()
    streams = int(config.get("NUM_STREAMS", 1))
    if config.get("PERFORMANCE_HINT", "LATENCY") != "LATENCY" and streams <= 1:
        streams = cores
    streams = max(1, streams)
    return max(1, cores // streams), streams
