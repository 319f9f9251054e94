"""The products of q and k in AMX's tile registers: up to 16 rows of codes by 16 columns, up to 64 bytes a step.

Tiles 0 to 3 hold sums (2 tiles of rows by 2 of columns), 4 and 5 rows of q, 6 and 7 columns of k. k as the attention
kernel packs it, `[steps, columns]` of 4 bytes, is what a tile of columns is: rows of 4 bytes a column.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.emitter import Function, Value

# rows and columns of a tile, bytes of a row; tiles of rows and of columns at once
MOST, BYTES = 16, 64
PAIR = range(2)


def depth_of(codes: int) -> int:
    """Bytes of each step for rows of so many codes; 0 where equal steps of whole quads do not make them up."""
    parts = -(-codes // BYTES)
    return codes // parts if codes % (4 * parts) == 0 else 0


def config(rows: int, depth: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What `ldtilecfg` reads: palette 1, then bytes a row and rows of each tile."""
    data = np.zeros(64, np.uint8)
    data[0] = 1
    shape = dict.fromkeys(range(4), (rows, BYTES)) | dict.fromkeys((4, 5), (rows, depth))
    shape |= dict.fromkeys((6, 7), (depth // 4, BYTES))
    for tile, (height, width) in shape.items():
        data[16 + 2 * tile], data[48 + tile] = width, height
    return data


def configure(f: Function) -> None:
    """Once a thread, before `multiply`."""
    f.call("llvm.x86.ldtilecfg", "void", f.p["config"])


def release(f: Function) -> None:
    """Once a thread, at the end."""
    f.call("llvm.x86.tilerelease", "void")


def multiply(f: Function, q: Value, k: Value, block: Value, init: Value | None, single: bool) -> None:
    """Sums of a block of rows, `block_rows` of the kernel's parameters from `q` on. `init`: what the sum of each column
    starts from; `single`: one step is all. Tiles at the ends overlap those before them."""
    p = f.p
    pitch, rows = f.mul(p["columns"], 4), p["tile_rows"]
    last = f.sub(p["block_rows"], rows)
    with f.loop(0, p["block_rows"], f.mul(rows, len(PAIR)), name="tr") as r:
        firsts = [f.smin(f.add(r.index, f.mul(rows, a)), last) for a in PAIR]
        sources = [f.gep(q, f.mul(first, p["q_row"])) for first in firsts]
        targets = [f.gep(block, f.mul(first, pitch)) for first in firsts]
        if single:
            _load_rows(f, sources)
        with f.loop(0, p["columns"], len(PAIR) * MOST, name="tc") as c:
            columns = [f.smin(f.add(c.index, b * MOST), f.sub(p["columns"], MOST)) for b in PAIR]
            for a in PAIR:
                for b in PAIR:
                    _start(f, 2 * a + b, None if init is None else f.gep(init, columns[b], "i32"))
            _steps(f, sources, [f.gep(k, column, "i32") for column in columns], pitch, single)
            for a, target in enumerate(targets):
                for b, column in enumerate(columns):
                    emit(f, "tilestored64", 2 * a + b, f.gep(target, column, "i32"), pitch)


def _steps(f: Function, sources: list[Value], columns: list[Value], pitch: Value, single: bool) -> None:
    p = f.p
    quads = f.udiv(p["depth"], 4)
    steps = f.const("i64", 1) if single else f.udiv(f.add(p["steps"], f.sub(quads, 1)), quads)
    step_bytes = f.mul(quads, pitch)
    with f.loop(0, steps, nonempty=True, name="ts") as s:
        if not single:
            offset = f.mul(s.index, p["depth"])
            _load_rows(f, [f.gep(source, offset) for source in sources])
        for b, column in enumerate(columns):
            emit(f, "tileloadd64", 6 + b, f.gep(column, f.mul(s.index, step_bytes)), pitch)
            for a in PAIR:
                emit(f, "tdpbusd", 2 * a + b, 4 + a, 6 + b)


def _load_rows(f: Function, sources: list[Value]) -> None:
    for a, source in enumerate(sources):
        emit(f, "tileloadd64", 4 + a, source, f.p["q_row"])


def _start(f: Function, number: int, init: Value | None) -> None:
    if init is None:
        emit(f, "tilezero", number)
    else:
        # a stride of zero puts one line into every row
        emit(f, "tileloadd64", number, init, f.const("i64", 0))


def emit(f: Function, instruction: str, *operands: Value | int) -> None:
    """A tile instruction; an int is the number of a tile."""
    values = [Value("i8", str(x)) if isinstance(x, int) else x for x in operands]
    f.call(f"llvm.x86.{instruction}", "void", *values)
