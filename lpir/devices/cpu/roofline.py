"""How fast this machine can be, measured: products of codes, of floats, and reading memory.

    line = roofline("avx2", threads=2)
    line.bound(work_of(node), constants=3_500_000)       # Bound(seconds=..., by="vpmaddubsw", rate=...)

The loops are those of a matrix product whose operands never leave the first cache (AMX: the tiles), and of a sum over
a buffer; they run on all threads at once, and the best of a few runs counts. It takes some 70 ms, once a process.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.jit import Jit
from lpir.devices.cpu.isa import Isa, by_name
from lpir.devices.cpu.isa.dots import add_pairs, pmaddubsw
from lpir.devices.cpu.threads import ThreadPool
from lpir.devices.cpu.work import Work
from lpir.errors import UnsupportedError
from lpir.record import record
from lpir.runtime.memory import allocate
from lpir.runtime.profile import Bound

# bytes that one thread reads over and over: what fits into the first, the second, the third cache, or none
READS = (16 << 10, 256 << 10, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 8 << 20, 32 << 20)
# of a step of that loop
READ_BYTES = 512
# k-steps of the product, for which both operands fit into the first cache
STEPS = 64
# of AMX, and the multiply-adds that one does
TILE_DOT, TILE_MACS = "tdpbusd", 16 * 16 * 64
TILE_BYTES = 1024
MEASURED_S = 1e-3
RUNS = 5

Dot = Callable[[Function, Value, Value, Value], Value]


@record
class Roofline:
    """What `threads` threads do together at most: multiply-adds a second, and bytes a second by bytes of a thread.

    dot: of the instruction that vectors of bytes have; tiles: of AMX's, 0 without.
    """

    instruction: str
    threads: int
    dot: float
    fma: float
    reads: tuple[tuple[int, float], ...]
    tiles: float = 0

    def bound(self, work: Work, constants: int) -> Bound:
        """The least time for some work of a model with so many bytes of constants.

        Tensors may lie in the smallest cache that holds them; of constants, what does not fit into a cache together is
        gone from it when an inference comes back to it.
        """
        by_tiles = self.tiles > 0 and not work.depthwise
        arithmetic = work.int8 / (self.tiles if by_tiles else self.dot) + work.float32 / self.fma
        memory = work.tensors / self.bandwidth(work.tensors) + work.constants / self.bandwidth(constants)
        if memory >= arithmetic:
            return Bound(memory, "memory", work.nbytes / memory if memory else self.bandwidth(0))
        instruction = TILE_DOT if by_tiles else self.instruction
        return Bound(arithmetic, instruction if work.int8 >= work.float32 else "fma", work.macs / arithmetic)

    def bandwidth(self, nbytes: int) -> float:
        """Bytes a second for so many bytes, shared by the threads: of the next smaller size that was measured."""
        fitting = [rate for size, rate in self.reads if size * self.threads <= nbytes]
        return fitting[-1] if fitting else self.reads[0][1]


@functools.cache
def roofline(isa_name: str, threads: int) -> Roofline:
    """The bounds of an instruction set, measured at the first call. Raises UnsupportedError where it cannot run."""
    isa = by_name(isa_name)
    # asking is what makes the system permit tile registers
    if not isa.available():
        raise UnsupportedError(f"this machine cannot run ISA {isa_name}")
    # the fastest of those whose sums fit into the registers
    rows, vectors = (8, 3) if isa.registers >= 32 else (6, 2) if isa.exact else (5, 2)
    kernels = {
        "dot": product(isa, vector_of("i32", isa.lanes()), isa.dot if isa.exact else _dot_of_8, rows, vectors),
        "fma": product(isa, vector_of("float", isa.lanes()), _fma, rows, vectors),
        "read": reading(isa),
        **({"tiles": tile_product()} if isa.tiles else {}),
    }
    jit = Jit(isa)
    for kernel in kernels.values():
        jit.add(kernel.symbol, kernel.text)
    addresses = jit.compile()
    cells = STEPS * rows * vectors * isa.lanes() * threads
    width = STEPS * vectors * isa.bits // 8
    with Machine(threads) as machine:
        rate = {name: functools.partial(machine.rate, addresses[k.symbol]) for name, k in kernels.items()}
        return Roofline(
            instruction=isa.proof or "dot",
            threads=threads,
            dot=(4 if isa.exact else 8) * cells * rate["dot"](width),
            fma=cells * rate["fma"](width),
            reads=_falling([(size, size * threads * rate["read"](size)) for size in READS]),
            tiles=STEPS * 4 * TILE_MACS * threads * rate["tiles"](4 * TILE_BYTES) if isa.tiles else 0,
        )


def _falling(reads: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Rates of growing sizes; what a larger size reached, a smaller one can too, if its measurement was disturbed."""
    best = accumulate((rate for _, rate in reversed(reads)), max)
    return tuple(reversed([(size, rate) for (size, _), rate in zip(reversed(reads), best, strict=True)]))


class Machine:
    """Threads, and memory for each."""

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPool(threads)
        self.memory = allocate(threads * max(READS))
        # pages that nobody wrote are all one page
        self.memory.fill(0x3F)
        self.config = np.zeros(64, np.uint8)
        # palette 1, and 8 tiles of 16 rows of 64 bytes
        self.config[0], self.config[16:32:2], self.config[48:56] = 1, 64, 16

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.close()

    def rate(self, function: int, stride: int) -> float:
        """Rounds a second of a function, the best of a few runs of about MEASURED_S; `stride` bytes to a thread."""
        words = (ctypes.c_uint64 * 4)(int(self.memory.ctypes.data), stride, 1, int(self.config.ctypes.data))
        step = (ctypes.c_uint64 * 2)(function, ctypes.addressof(words))
        best = 0.0
        for _ in range(RUNS):
            start = time.perf_counter()
            self.pool.run(ctypes.addressof(step), 1)
            seconds = time.perf_counter() - start
            best = max(best, words[2] / seconds)
            words[2] = max(1, int(best * MEASURED_S))
        return best


def _function(name: str) -> tuple[Function, Value]:
    """A function of what `Machine.rate` gives, and where the memory of the calling thread is."""
    params = {"memory": "ptr", "stride": "i64", "rounds": "i64", "config": "ptr"}
    f = Function(name, params, optimize=False)
    return f, f.gep(f.p["memory"], f.mul(f.tid, f.p["stride"]))


def product(isa: Isa, kind: str, dot: Dot, rows: int, vectors: int) -> Kernel:
    """`rounds` times STEPS k-steps of a register tile: 32 bits of a row in every lane, by a vector a column."""
    f, base = _function("peak_product")
    bytes_of = vector_of("i8", 4 * isa.lanes())
    operand = kind if kind == vector_of("float", isa.lanes()) else bytes_of
    sums = [f.zeros(kind)] * (rows * vectors)
    with f.loop(0, f.p["rounds"], carried=sums, nonempty=True, name="round") as outer:
        with f.loop(0, STEPS, carried=outer.values, nonempty=True, name="step") as k:
            at = f.gep(base, f.mul(k.index, vectors * isa.bits // 8))
            weights = [f.load(operand, f.gep(at, v * isa.bits // 8), 1) for v in range(vectors)]
            k.next = []
            for row in range(rows):
                four = f.load("i32", f.gep(f.gep(base, f.mul(k.index, 4)), row * 4 * STEPS), 1)
                x = f.convert("bitcast", f.splat(four, isa.lanes()), operand)
                own = k.values[row * vectors : (row + 1) * vectors]
                k.next += [dot(f, total, x, w) for total, w in zip(own, weights, strict=True)]
        outer.next = k.results
    _keep(f, outer.results)
    return f.kernel()


def _dot_of_8(f: Function, total: Value, x: Value, w: Value) -> Value:
    """Two products of 4 that share an int16 sum, as the packer's pairs do; here it does not matter of which bytes."""
    return add_pairs(f, total, f.add(pmaddubsw(f, x, w), pmaddubsw(f, w, x)))


def tile_product() -> Kernel:
    """`rounds` times STEPS steps of 2 by 2 tiles of sums, from operands that stay in tiles."""
    f, base = _function("peak_tiles")

    def tile(instruction: str, *operands: Value | int) -> None:
        values = [Value("i8", str(x)) if isinstance(x, int) else x for x in operands]
        f.call(f"llvm.x86.{instruction}", "void", *values)

    tile("ldtilecfg", f.p["config"])
    line = f.const("i64", 64)
    for number in range(4):
        tile("tilezero", number)
    for number in range(4, 8):
        tile("tileloadd64", number, f.gep(base, (number - 4) * TILE_BYTES), line)
    with f.loop(0, f.mul(f.p["rounds"], STEPS), nonempty=True, name="step"):
        for number in range(4):
            tile("tdpbusd", number, 4 + number // 2, 6 + number % 2)
    tile("tilestored64", 0, base, line)
    tile("tilerelease")
    return f.kernel()


def reading(isa: Isa) -> Kernel:
    """`rounds` times the sum of `stride` bytes, a multiple of READ_BYTES."""
    f, base = _function("peak_read")
    kind = vector_of("i32", isa.lanes())
    width = isa.bits // 8
    streams = READ_BYTES // width
    with f.loop(0, f.p["rounds"], carried=[f.zeros(kind)] * streams, nonempty=True, name="round") as outer:
        with f.loop(0, f.p["stride"], streams * width, carried=outer.values, nonempty=True, name="at") as i:
            at = f.gep(base, i.index)
            i.next = [f.add(x, f.load(kind, f.gep(at, s * width), width)) for s, x in enumerate(i.values)]
        outer.next = i.results
    _keep(f, outer.results)
    return f.kernel()


def _fma(f: Function, total: Value, x: Value, w: Value) -> Value:
    return f.intrinsic("llvm.fmuladd", total.type, x, w, total)


def _keep(f: Function, values: list[Value]) -> None:
    """Writes the sum of all, so that nothing of the loop can be left out."""
    add = f.fadd if values[0].element == "float" else f.add
    f.store(functools.reduce(add, values), f.alloca(values[0].type))
