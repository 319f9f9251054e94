"""The native thread pool: every thread runs every step, in order, and sleeps when idle."""

from __future__ import annotations

import ctypes
import threading
import time

import numpy as np
import pytest

from lpir.devices.cpu.codegen.emitter import Function
from lpir.devices.cpu.codegen.executor import executor_text
from lpir.devices.cpu.codegen.jit import Jit
from lpir.devices.cpu.isa import host_isa
from lpir.devices.cpu.threads import ThreadPool, default_threads
from lpir.errors import InputError


def step_kernels() -> tuple[Jit, int, int]:
    """`fill`: counts[tid, i] += 1 for own i; `check`: adds up all counts, so it must see every thread's writes."""
    fill = Function("fill", {"counts": "ptr", "sums": "ptr", "n": "i64"})
    first, last = fill.my_range(fill.p["n"])
    with fill.loop(first, last) as i:
        at = fill.gep(fill.p["counts"], i.index, "i64")
        fill.store(fill.add(fill.load("i64", at), 1), at)
    check = Function("check", {"counts": "ptr", "sums": "ptr", "n": "i64"})
    with check.loop(0, check.p["n"], carried=[check.const("i64", 0)]) as i:
        i.next = [check.add(i.values[0], check.load("i64", check.gep(check.p["counts"], i.index, "i64")))]
    check.store(i.results[0], check.gep(check.p["sums"], check.tid, "i64"))
    jit = Jit(host_isa())
    kernels = [fill.kernel(), check.kernel()]
    for kernel in kernels:
        jit.add(kernel.symbol, kernel.text)
    addresses = jit.compile()
    return jit, addresses[kernels[0].symbol], addresses[kernels[1].symbol]


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("spins", [1, 4000])
def test_steps_run_in_order_on_all_threads(threads: int, spins: int) -> None:
    jit, fill, check = step_kernels()
    counts, sums = np.zeros(97, np.int64), np.zeros(threads, np.int64)
    params = (ctypes.c_uint64 * 3)(counts.ctypes.data, sums.ctypes.data, len(counts))
    at = ctypes.addressof(params)
    steps = (ctypes.c_uint64 * 8)(fill, at, check, at, fill, at, check, at)
    pool = ThreadPool(threads, spins)
    for job in range(1, 101):
        pool.run(ctypes.addressof(steps), 4)
        assert counts.tolist() == [2 * job] * 97
        assert sums.tolist() == [2 * job * 97] * threads
    pool.close()
    assert jit is not None


def test_a_step_does_not_wait_for_a_thread_that_never_comes() -> None:
    jit, fill, check = step_kernels()
    counts, sums = np.zeros(10, np.int64), np.zeros(3, np.int64)
    params = (ctypes.c_uint64 * 3)(counts.ctypes.data, sums.ctypes.data, len(counts))
    steps = (ctypes.c_uint64 * 4)(fill, ctypes.addressof(params), check, ctypes.addressof(params))
    pool = ThreadPool(3)
    pool.stop_workers()
    pool.run(ctypes.addressof(steps), 2)
    assert counts.tolist() == [1] * 10
    assert sums.tolist() == [10] * 3
    pool.close()
    assert jit is not None


def test_python_goes_on_while_native_code_runs() -> None:
    """Another Python thread sees the middle of a native call, so the call does not hold the interpreter's lock."""
    f = Function("count", {"rounds": "ptr", "most": "i64"}, optimize=False)
    with f.loop(0, f.p["most"]) as i:
        f.store(f.add(i.index, 1), f.p["rounds"])
    kernel = f.kernel()
    jit = Jit(host_isa())
    jit.add(kernel.symbol, kernel.text)
    address = jit.compile()[kernel.symbol]
    rounds, most = np.zeros(1, np.int64), 300_000_000
    params = (ctypes.c_uint64 * 2)(rounds.ctypes.data, most)
    steps = (ctypes.c_uint64 * 2)(address, ctypes.addressof(params))
    pool = ThreadPool(1)
    native = threading.Thread(target=pool.run, args=(ctypes.addressof(steps), 1))
    native.start()
    seen = set()
    while native.is_alive():
        seen.add(int(rounds[0]))
    native.join()
    pool.close()
    assert rounds[0] == most
    assert len(seen - {0, most}) > 2


def test_idle_workers_sleep() -> None:
    pool = ThreadPool(3)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.05
    pool.close()


def test_closed_pool_refuses() -> None:
    pool = ThreadPool(2)
    pool.close()
    pool.close()
    with pytest.raises(InputError, match="closed"):
        pool.run(0, 0)


def test_at_least_one_thread() -> None:
    with pytest.raises(InputError):
        ThreadPool(0)
    assert default_threads() >= 1


@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("linux", "riscv64"), ("darwin", "aarch64")])
def test_text_for_other_systems(system: str, machine: str) -> None:
    text = executor_text(system, machine)
    assert ("@syscall" in text) == ((system, machine) == ("linux", "x86_64"))
    assert "{{" not in text
    assert "}}" not in text
