"""The run-time loop as LLVM text: threads walk the same list of steps together.

A step has one part a thread: part `p` is the call `function(params, p, nthreads)`. A thread takes its own part first,
so that the data it wrote is in its cache, then any part that nobody has taken yet: a thread that sleeps, or that the
system gave no processor, holds up nobody. A step is over when all its parts are done, whoever did them; a thread that
comes late finds it so and moves on without touching anything.

Steps are numbered through over all jobs. A pool is `pool_bytes(nthreads)` of zeroed, 64-byte aligned memory; fields
that threads wait for or write are on cache lines of their own:

    byte   0  i64 nthreads, i64 spins, i64 number of the next step         byte  64  i32 job number
    byte 128  i32 threads asleep on the job number                        byte 192  i64 parts done, of all steps
    byte 256  i32 threads asleep on the parts done                        byte 320  i32 stop
    byte 384  two jobs {i64 steps, i64 count, i64 first step number}, by parity of the job number, 32 bytes each
    byte 448  + 64 p: i64 the next step whose part p is free

`steps` is an array of `{function, params}` pairs of 64-bit words, read by a thread only after it took a part of one: so
long the caller of `submit` waits. Functions: `submit(pool, steps, count)`, called by the thread that has work, one at a
time: it is thread 0 and returns when all is done; `worker(pool, tid)` serves jobs until `stop(pool)`.

A waiting thread spins `spins` times with `pause`, then sleeps on a futex (Linux) or yields (elsewhere). Sleepers count
themselves before the kernel compares the futex word, and the waker changes the word before it reads the count, all
sequentially consistent: either the waker sees the sleeper, or the sleeper sees the new word.
"""

from __future__ import annotations

import platform
import sys

from lpir.devices.cpu.codegen.effort import QUICK

HEADER_BYTES = 448
_FUTEX = {"x86_64": 202, "aarch64": 98}
_PAUSE = {
    "x86_64": 'call void asm sideeffect "pause", "~{memory}"()',
    # `yield`; as assembly it would need LLVM's parser, which is there for this machine only
    "aarch64": "call void @llvm.aarch64.hint(i32 1)",
}
_HINT = "declare void @llvm.aarch64.hint(i32)"

# memory orders are spelled out: job and barrier numbers publish everything written before them
_TEXT = (
    f"{QUICK}\n"
    + """
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

define internal void @lpir_wait_done(ptr %done, i64 %target, ptr %sleepers, i64 %spins) {{
entry:
  br label %spin
spin:
  %i = phi i64 [ 0, %entry ], [ %next, %again ]
  %now = load atomic i64, ptr %done acquire, align 8
  %enough = icmp sge i64 %now, %target
  br i1 %enough, label %done.now, label %again
again:
  {pause}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %spins
  br i1 %more, label %spin, label %rest
rest:
  %in = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %look
look:
  %later = load atomic i64, ptr %done seq_cst, align 8
  %over = icmp sge i64 %later, %target
  br i1 %over, label %awake, label %sleep
sleep:
  %seen = trunc i64 %later to i32
  {sleep_done}
  br label %look
awake:
  %out = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %done.now
done.now:
  ret void
}}

; takes part %part of step %number if it is free, and does it
define internal void @lpir_part(ptr %pool, ptr %at, i64 %number, i64 %part, i64 %nthreads, i64 %target) {{
entry:
  %line = shl i64 %part, 6
  %slot = add i64 %line, 448
  %claim = getelementptr i8, ptr %pool, i64 %slot
  %free = load atomic i64, ptr %claim monotonic, align 8
  %mine = icmp eq i64 %free, %number
  br i1 %mine, label %take, label %end
take:
  %after = add i64 %number, 1
  %swap = cmpxchg ptr %claim, i64 %number, i64 %after acq_rel monotonic
  %won = extractvalue {{ i64, i1 }} %swap, 1
  br i1 %won, label %work, label %end
work:
  %function = load ptr, ptr %at, align 8
  %params.at = getelementptr i8, ptr %at, i64 8
  %params = load ptr, ptr %params.at, align 8
  call void %function(ptr %params, i64 %part, i64 %nthreads)
  %done = getelementptr i8, ptr %pool, i64 192
  %before = atomicrmw add ptr %done, i64 1 seq_cst
  %count = add i64 %before, 1
  %last = icmp eq i64 %count, %target
  br i1 %last, label %tell, label %end
tell:
  %sleepers = getelementptr i8, ptr %pool, i64 256
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %end
wake:
  {wake_done}
  br label %end
end:
  ret void
}}

define internal void @lpir_run(ptr %pool, ptr %steps, i64 %count, i64 %first, i64 %tid) {{
entry:
  %nthreads = load i64, ptr %pool, align 8
  %spins.at = getelementptr i8, ptr %pool, i64 8
  %spins = load i64, ptr %spins.at, align 8
  %done = getelementptr i8, ptr %pool, i64 192
  %sleepers = getelementptr i8, ptr %pool, i64 256
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %after ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %step, label %end
step:
  %next = add i64 %i, 1
  %number = add i64 %first, %i
  %following = add i64 %number, 1
  %target = mul i64 %following, %nthreads
  %now = load atomic i64, ptr %done acquire, align 8
  %over = icmp sge i64 %now, %target
  br i1 %over, label %after, label %own
own:
  %at = getelementptr {{ ptr, ptr }}, ptr %steps, i64 %i
  br label %parts
parts:
  %k = phi i64 [ 0, %own ], [ %k.next, %parts ]
  %sum = add i64 %tid, %k
  %wraps = icmp sge i64 %sum, %nthreads
  %less = sub i64 %sum, %nthreads
  %part = select i1 %wraps, i64 %less, i64 %sum
  call void @lpir_part(ptr %pool, ptr %at, i64 %number, i64 %part, i64 %nthreads, i64 %target)
  %k.next = add i64 %k, 1
  %again = icmp slt i64 %k.next, %nthreads
  br i1 %again, label %parts, label %meet
meet:
  call void @lpir_wait_done(ptr %done, i64 %target, ptr %sleepers, i64 %spins)
  br label %after
after:
  br label %head
end:
  ret void
}}

define internal void @lpir_alone(ptr %steps, i64 %count) {{
entry:
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %step ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %step, label %end
step:
  %at = getelementptr {{ ptr, ptr }}, ptr %steps, i64 %i
  %function = load ptr, ptr %at, align 8
  %params.at = getelementptr i8, ptr %at, i64 8
  %params = load ptr, ptr %params.at, align 8
  call void %function(ptr %params, i64 0, i64 1)
  %next = add i64 %i, 1
  br label %head
end:
  ret void
}}

define void @submit(ptr %pool, ptr %steps, i64 %count) {{
  %nthreads = load i64, ptr %pool, align 8
  %single = icmp eq i64 %nthreads, 1
  br i1 %single, label %alone, label %publish
alone:
  call void @lpir_alone(ptr %steps, i64 %count)
  ret void
publish:
  %number.at = getelementptr i8, ptr %pool, i64 16
  %first = load i64, ptr %number.at, align 8
  %after = add i64 %first, %count
  store i64 %after, ptr %number.at, align 8
  %job = getelementptr i8, ptr %pool, i64 64
  %sleepers = getelementptr i8, ptr %pool, i64 128
  %old = load atomic i32, ptr %job monotonic, align 4
  %new = add i32 %old, 1
  %slot = call ptr @lpir_job(ptr %pool, i32 %new)
  store atomic ptr %steps, ptr %slot release, align 8
  %count.at = getelementptr i8, ptr %slot, i64 8
  store atomic i64 %count, ptr %count.at release, align 8
  %first.at = getelementptr i8, ptr %slot, i64 16
  store atomic i64 %first, ptr %first.at release, align 8
  call void @lpir_wake(ptr %job, ptr %sleepers)
  call void @lpir_run(ptr %pool, ptr %steps, i64 %count, i64 %first, i64 0)
  ret void
}}

define internal ptr @lpir_job(ptr %pool, i32 %number) {{
  %odd = and i32 %number, 1
  %wide = zext i32 %odd to i64
  %bytes = shl i64 %wide, 5
  %offset = add i64 %bytes, 384
  %slot = getelementptr i8, ptr %pool, i64 %offset
  ret ptr %slot
}}

define void @worker(ptr %pool, i64 %tid) {{
entry:
  %job = getelementptr i8, ptr %pool, i64 64
  %sleepers = getelementptr i8, ptr %pool, i64 128
  %stop.at = getelementptr i8, ptr %pool, i64 320
  %spins.at = getelementptr i8, ptr %pool, i64 8
  br label %wait
wait:
  %seen = phi i32 [ 0, %entry ], [ %now, %work ], [ %now, %read ]
  %spins = load i64, ptr %spins.at, align 8
  call void @lpir_wait(ptr %job, i32 %seen, ptr %sleepers, i64 %spins)
  %stop = load atomic i32, ptr %stop.at acquire, align 4
  %quit = icmp ne i32 %stop, 0
  br i1 %quit, label %end, label %read
read:
  %now = load atomic i32, ptr %job acquire, align 4
  %slot = call ptr @lpir_job(ptr %pool, i32 %now)
  %steps = load atomic ptr, ptr %slot acquire, align 8
  %count.at = getelementptr i8, ptr %slot, i64 8
  %count = load atomic i64, ptr %count.at acquire, align 8
  %first.at = getelementptr i8, ptr %slot, i64 16
  %first = load atomic i64, ptr %first.at acquire, align 8
  ; a slot is written again only after the job number has moved on: unchanged, it was read whole
  %check = load atomic i32, ptr %job acquire, align 4
  %whole = icmp eq i32 %check, %now
  br i1 %whole, label %work, label %wait
work:
  call void @lpir_run(ptr %pool, ptr %steps, i64 %count, i64 %first, i64 %tid)
  br label %wait
end:
  ret void
}}

define void @stop(ptr %pool) {{
  %stop.at = getelementptr i8, ptr %pool, i64 320
  store atomic i32 1, ptr %stop.at release, align 4
  %job = getelementptr i8, ptr %pool, i64 64
  %sleepers = getelementptr i8, ptr %pool, i64 128
  call void @lpir_wake(ptr %job, ptr %sleepers)
  ret void
}}
"""
)

SYMBOLS = ("submit", "worker", "stop")


def pool_bytes(threads: int) -> int:
    """Bytes of a pool of `threads`."""
    return HEADER_BYTES + 64 * threads


def executor_text(system: str = sys.platform, machine: str = "") -> str:
    """LLVM text that defines `SYMBOLS`; `system` as `sys.platform`, `machine` as `platform.machine()` names them."""
    machine = machine or platform.machine()
    yield_ = "%idle = call i32 @sched_yield()"
    pause = _PAUSE.get(machine, yield_.replace("idle", "paused"))
    hint = _HINT if machine == "aarch64" else ""
    if not system.startswith("linux") or machine not in _FUTEX:
        return _TEXT.format(declare=hint, pause=pause, sleep=yield_, wake="", sleep_done=yield_, wake_done="")
    # FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129; the low half of a word comes first on both machines
    call = f"call i64 (i64, ...) @syscall(i64 {_FUTEX[machine]}, ptr"
    return _TEXT.format(
        declare=f"declare i64 @syscall(i64, ...)\n{hint}",
        pause=pause,
        sleep=f"%slept = {call} %word, i64 128, i32 %seen, ptr null)",
        wake=f"%woken = {call} %word, i64 129, i64 2147483647)",
        sleep_done=f"%slept = {call} %done, i64 128, i32 %seen, ptr null)",
        wake_done=f"%woken = {call} %done, i64 129, i64 2147483647)",
    )
