"""The run-time loop as LLVM text: every thread walks the same list of steps, with a barrier behind each.

`steps` is an array of `{function, params}` pairs of 64-bit words. A pool is `POOL_BYTES` of zeroed, 64-byte aligned
memory; fields lie on cache lines of their own:

    byte   0  i64 steps, i64 count of steps, i64 nthreads, i64 spins
    byte  64  i32 job number (workers wait for it to change)       byte 128  i32 workers asleep on it
    byte 192  i32 threads arrived at the barrier                   byte 256  i32 barrier number
    byte 320  i32 threads asleep on the barrier number             byte 384  i32 stop

Functions: `run(steps, count, tid, nthreads, pool)`; `submit(pool, steps, count)`, called by the thread that has work:
it is thread 0 and returns when all is done; `worker(pool, tid)` serves jobs until `stop(pool)`.

A waiting thread spins `spins` times with `pause`, then sleeps on a futex (Linux) or yields (elsewhere). Sleepers count
themselves before the kernel compares the futex word, and the waker changes the word before it reads the count, all
sequentially consistent: either the waker sees the sleeper, or the sleeper sees the new word.
"""

from __future__ import annotations

import platform
import sys

POOL_BYTES = 448
_FUTEX = {"x86_64": 202, "aarch64": 98}
_PAUSE = {
    "x86_64": 'call void asm sideeffect "pause", "~{memory}"()',
    "aarch64": 'call void asm sideeffect "yield", "~{memory}"()',
}

# memory orders are spelled out: job and barrier numbers publish everything written before them
_TEXT = """
declare i32 @sched_yield()
{declare}
define internal void @lpir_wait(ptr %word, i32 %seen, ptr %sleepers, i64 %spins) {{
entry:
  br label %spin
spin:
  %i = phi i64 [ 0, %entry ], [ %next, %again ]
  %now = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %now, %seen
  br i1 %same, label %again, label %done
again:
  {pause}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %spins
  br i1 %more, label %spin, label %rest
rest:
  %in = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %sleep
sleep:
  {sleep}
  %after = load atomic i32, ptr %word seq_cst, align 4
  %still = icmp eq i32 %after, %seen
  br i1 %still, label %sleep, label %awake
awake:
  %out = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %done
done:
  ret void
}}

define internal void @lpir_wake(ptr %word, ptr %sleepers) {{
  %new = atomicrmw add ptr %word, i32 1 seq_cst
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %done
wake:
  {wake}
  br label %done
done:
  ret void
}}

define internal void @lpir_barrier(ptr %pool, i64 %nthreads) {{
  %arrived = getelementptr i8, ptr %pool, i64 192
  %number = getelementptr i8, ptr %pool, i64 256
  %sleepers = getelementptr i8, ptr %pool, i64 320
  %seen = load atomic i32, ptr %number acquire, align 4
  %before = atomicrmw add ptr %arrived, i32 1 acq_rel
  %wide = zext i32 %before to i64
  %mine = add i64 %wide, 1
  %last = icmp eq i64 %mine, %nthreads
  br i1 %last, label %open, label %wait
open:
  store atomic i32 0, ptr %arrived release, align 4
  call void @lpir_wake(ptr %number, ptr %sleepers)
  ret void
wait:
  %spins.at = getelementptr i8, ptr %pool, i64 24
  %spins = load i64, ptr %spins.at, align 8
  call void @lpir_wait(ptr %number, i32 %seen, ptr %sleepers, i64 %spins)
  ret void
}}

define void @run(ptr %steps, i64 %count, i64 %tid, i64 %nthreads, ptr %pool) {{
entry:
  %alone = icmp eq i64 %nthreads, 1
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %after ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %step, label %done
step:
  %at = getelementptr {{ ptr, ptr }}, ptr %steps, i64 %i
  %function = load ptr, ptr %at, align 8
  %params.at = getelementptr i8, ptr %at, i64 8
  %params = load ptr, ptr %params.at, align 8
  call void %function(ptr %params, i64 %tid, i64 %nthreads)
  br i1 %alone, label %after, label %meet
meet:
  call void @lpir_barrier(ptr %pool, i64 %nthreads)
  br label %after
after:
  %next = add i64 %i, 1
  br label %head
done:
  ret void
}}

define void @submit(ptr %pool, ptr %steps, i64 %count) {{
  %threads.at = getelementptr i8, ptr %pool, i64 16
  %nthreads = load i64, ptr %threads.at, align 8
  %alone = icmp eq i64 %nthreads, 1
  br i1 %alone, label %go, label %publish
publish:
  store ptr %steps, ptr %pool, align 8
  %count.at = getelementptr i8, ptr %pool, i64 8
  store i64 %count, ptr %count.at, align 8
  %job = getelementptr i8, ptr %pool, i64 64
  %sleepers = getelementptr i8, ptr %pool, i64 128
  call void @lpir_wake(ptr %job, ptr %sleepers)
  br label %go
go:
  call void @run(ptr %steps, i64 %count, i64 0, i64 %nthreads, ptr %pool)
  ret void
}}

define void @worker(ptr %pool, i64 %tid) {{
entry:
  %job = getelementptr i8, ptr %pool, i64 64
  %sleepers = getelementptr i8, ptr %pool, i64 128
  %stop.at = getelementptr i8, ptr %pool, i64 384
  %count.at = getelementptr i8, ptr %pool, i64 8
  %threads.at = getelementptr i8, ptr %pool, i64 16
  %spins.at = getelementptr i8, ptr %pool, i64 24
  br label %wait
wait:
  %seen = phi i32 [ 0, %entry ], [ %now, %work ]
  %spins = load i64, ptr %spins.at, align 8
  call void @lpir_wait(ptr %job, i32 %seen, ptr %sleepers, i64 %spins)
  %now = load atomic i32, ptr %job acquire, align 4
  %stop = load atomic i32, ptr %stop.at acquire, align 4
  %quit = icmp ne i32 %stop, 0
  br i1 %quit, label %done, label %work
work:
  %steps = load ptr, ptr %pool, align 8
  %count = load i64, ptr %count.at, align 8
  %nthreads = load i64, ptr %threads.at, align 8
  call void @run(ptr %steps, i64 %count, i64 %tid, i64 %nthreads, ptr %pool)
  br label %wait
done:
  ret void
}}

define void @stop(ptr %pool) {{
  %stop.at = getelementptr i8, ptr %pool, i64 384
  store atomic i32 1, ptr %stop.at release, align 4
  %job = getelementptr i8, ptr %pool, i64 64
  %sleepers = getelementptr i8, ptr %pool, i64 128
  call void @lpir_wake(ptr %job, ptr %sleepers)
  ret void
}}
"""

SYMBOLS = ("run", "submit", "worker", "stop")


def executor_text(system: str = sys.platform, machine: str = "") -> str:
    """LLVM text that defines `SYMBOLS`; `system` as `sys.platform`, `machine` as `platform.machine()` names them."""
    machine = machine or platform.machine()
    yield_ = "%idle = call i32 @sched_yield()"
    pause = _PAUSE.get(machine, yield_.replace("idle", "paused"))
    if not system.startswith("linux") or machine not in _FUTEX:
        return _TEXT.format(declare="", pause=pause, sleep=yield_, wake="")
    number = f"i64 {_FUTEX[machine]}"
    # FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129
    call = "call i64 (i64, ...) @syscall"
    sleep = f"%slept = {call}({number}, ptr %word, i64 128, i32 %seen, ptr null)"
    wake = f"%woken = {call}({number}, ptr %word, i64 129, i64 2147483647)"
    return _TEXT.format(declare="declare i64 @syscall(i64, ...)", pause=pause, sleep=sleep, wake=wake)
