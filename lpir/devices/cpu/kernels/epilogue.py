"""What a kernel does with an accumulator before it stores it: an `Expr`, its operands, and how they are addressed.

Leaf 0 is the accumulator; leaf `i >= 1` is operand `i - 1`:

* `vector`: one element an output channel, at the channel's index;
* `scalar`: one element in memory, read once;
* `tensor`: one element an output element: a row pointer (`base + m * stride` or `base + table[m]` bytes) and channel.

Constants of the expression become parameter words, so that layers which differ only in a scale, a zero point or a clamp
share one kernel. Reads are whole vectors: every operand buffer needs 64 readable bytes behind its end.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Literal

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.emitter import Function, Value, size_of, vector_of
from lpir.devices.cpu.codegen.vector import emit_expr, from_memory, llvm_type, memory_type, to_memory
from lpir.devices.cpu.isa import Isa
from lpir.ir.types import ElementType, f32, i32, u8
from lpir.record import record
from lpir.scalar.expr import Expr, input_

Pointer = int | Ref
LIFT_LIMIT = 12  # more constants than this are a polynomial's: they stay in the code


@record
class Operand:
    """How leaf `i >= 1` of an epilogue is read. `table`: a tensor's rows are found by an offset table, not a stride."""

    kind: Literal["vector", "scalar", "tensor"]
    type: ElementType
    table: bool = False


@record
class Rows:
    """Where rows of a tensor start: `m * stride` bytes behind the pointer, or at `table[m]` (int32) bytes."""

    stride: int = 0
    table: Pointer | None = None


@record
class Bound:
    """An operand's buffer for one call: its pointer and, for a tensor, its rows."""

    pointer: Pointer
    rows: Rows = Rows()


def lift_constants(expr: Expr, first: int) -> tuple[Expr, list[Expr]]:
    """`expr` with its f32 and i32 constants replaced by leaves `first`, `first + 1`, ... and those constants.

    Not where it looks something up: so many values would stay in registers that sums are spilled in the inner loop.
    """
    constants: list[Expr] = []
    new: dict[int, Expr] = {}
    walked = expr.walk()
    if any(e.fn == "lookup" for e in walked):
        return expr, []
    for e in walked:
        if e.fn == "const" and e.type in (f32, i32):
            new[id(e)] = input_(first + len(constants), e.type)
            constants.append(e)
        elif e.args:
            new[id(e)] = Expr(e.fn, tuple(new[id(a)] for a in e.args), e.type, e.value)
        else:
            new[id(e)] = e
    return (new[id(expr)], constants) if len(constants) <= LIFT_LIMIT else (expr, [])


class Epilogue:
    """Prints an epilogue inside a kernel; see the module for the operands.

    Epilogues are equal where they print the same text: their constants' values do not count.
    """

    def __init__(self, expr: Expr, operands: Sequence[Operand], saturate: bool = False, prefix: str = "") -> None:
        """`saturate`: the int32 value of `expr` is stored as u8, clamped to 0 .. 255.

        `prefix`: of its parameters' names, where a kernel has more than one epilogue.
        """
        self.prefix = prefix
        self.operands = tuple(operands)
        self.saturate = saturate
        self.expr, self.constants = lift_constants(expr, 1 + len(self.operands))
        self.type = u8 if saturate else expr.type
        self._key: tuple[Hashable, ...] = (self.expr, self.operands, saturate, prefix)
        self._fixed: dict[int, Value] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Epilogue) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def with_tables(self) -> Epilogue:
        """The same, where the rows of all tensors are found by tables."""
        made = copy(self)
        made.operands = tuple(replace(o, table=o.kind == "tensor") for o in self.operands)
        made._key = (*self._key[:1], made.operands, *self._key[2:])
        return made

    @property
    def tensor_bytes(self) -> int:
        """Bytes that are read for each value beside the accumulator."""
        return sum(element_bytes(o.type) for o in self.operands if o.kind == "tensor")

    @property
    def tensor_leaves(self) -> tuple[int, ...]:
        """Numbers of the leaves that are tensors."""
        return tuple(i for i, o in enumerate(self.operands, 1) if o.kind == "tensor")

    @property
    def ends_in_bytes(self) -> bool:
        """Whether the last step takes int32 to u8, which a kernel may do for several vectors at once."""
        return self.saturate or (self.type == u8 and self.expr.fn == "cast" and self.expr.args[0].type == i32)

    @property
    def rows(self) -> int:
        """How many tensors it reads and writes row by row."""
        return 1 + sum(o.kind == "tensor" for o in self.operands)

    @property
    def row_bytes(self) -> int:
        """Bytes that one channel of one row reads and writes."""
        return element_bytes(self.type) + sum(element_bytes(o.type) for o in self.operands if o.kind == "tensor")

    def params(self) -> dict[str, str]:
        """Parameter names and types that the kernel declares."""
        names: dict[str, str] = {}
        for i, operand in enumerate(self.operands, 1):
            names[f"{self.prefix}e{i}"] = "ptr"
            if operand.kind == "tensor":
                names[f"{self.prefix}e{i}_rows"] = "ptr" if operand.table else "i64"
        for i, constant in enumerate(self.constants):
            names[f"{self.prefix}c{i}"] = "float" if constant.type == f32 else "i32"
        return names

    def values(self, bound: Sequence[Bound]) -> dict[str, int | F32 | Ref]:
        """Values of `params()`."""
        words: dict[str, int | F32 | Ref] = {}
        for i, (operand, at) in enumerate(zip(self.operands, bound, strict=True), 1):
            words[f"{self.prefix}e{i}"] = at.pointer
            if operand.kind == "tensor":
                words[f"{self.prefix}e{i}_rows"] = _row_word(at.rows)
        for i, constant in enumerate(self.constants):
            value = constant.value or 0
            words[f"{self.prefix}c{i}"] = F32(float(value)) if constant.type == f32 else int(value)
        return words

    def start(self, f: Function, lanes: int) -> None:
        """Reads and spreads scalars and constants; call once, at the kernel's start."""
        for i, operand in enumerate(self.operands, 1):
            if operand.kind == "scalar":
                x = f.load(memory_type(operand.type), f.p[f"{self.prefix}e{i}"])
                self._fixed[i] = f.splat(from_memory(f, x, operand.type), lanes)
        for i in range(len(self.constants)):
            self._fixed[1 + len(self.operands) + i] = f.splat(f.p[f"{self.prefix}c{i}"], lanes)

    def vectors(self, f: Function, n: Value, lanes: int) -> dict[int, Value]:
        """The per-channel leaves of channels `n .. n + lanes`."""
        return {
            i: self._load(f, o, f.p[f"{self.prefix}e{i}"], n, lanes)
            for i, o in enumerate(self.operands, 1)
            if o.kind == "vector"
        }

    def row(self, f: Function, m: Value) -> dict[int, Value]:
        """The row pointers of tensor leaves in row `m`."""
        pointers: dict[int, Value] = {}
        for i, operand in enumerate(self.operands, 1):
            if operand.kind == "tensor":
                pointers[i] = row_pointer(f, f.p[f"{self.prefix}e{i}"], f.p[f"{self.prefix}e{i}_rows"], m)
        return pointers

    def tensors(self, f: Function, row: Mapping[int, Value], n: Value, lanes: int) -> dict[int, Value]:
        """The tensor leaves at channels `n .. n + lanes` of the row that `row` points to."""
        return {i: self._load(f, self.operands[i - 1], pointer, n, lanes) for i, pointer in row.items()}

    def finish(self, f: Function, isa: Isa, acc: Value, leaves: Mapping[int, Value], wide: bool = False) -> Value:
        """The values to store for accumulator `acc`, in memory form; `wide`: as int32, before the last step to u8."""
        bits = isa.bits if isa.is_x86 else 0
        known = {0: acc, **self._fixed, **leaves}
        if self.saturate:
            return emit_expr(f, self.expr, known, acc.lanes, bits)
        if wide:
            return emit_expr(f, self.expr.args[0], known, acc.lanes, bits)
        return to_memory(f, emit_expr(f, self.expr, known, acc.lanes, bits), self.type)

    def _load(self, f: Function, operand: Operand, base: Value, n: Value, lanes: int) -> Value:
        at = f.gep(base, n, memory_type(operand.type))
        return from_memory(f, f.load(memory_type(operand.type, lanes), at), operand.type)


def row_pointer(f: Function, base: Value, rows: Value, m: Value) -> Value:
    """The address of row `m`: `rows` is a byte stride (i64) or an int32 table (ptr)."""
    if rows.type == "ptr":
        return f.gep(base, f.convert("sext", f.load("i32", f.gep(rows, m, "i32"), 4), "i64"))
    return f.gep(base, f.mul(m, rows))


def _row_word(rows: Rows) -> int | Ref:
    return rows.stride if rows.table is None else rows.table


def store_lanes(f: Function, x: Value, at: Value, count: Value, masks: bool) -> None:
    """Stores the first `count` lanes of `x`; `masks`: the ISA has cheap masked stores of this width."""
    if masks:
        wide = f.splat(f.convert("trunc", count, "i32"), x.lanes)
        f.masked_store(x, at, f.icmp("slt", f.iota("i32", x.lanes), wide))
        return
    scratch = f.alloca(vector_of(x.element, x.lanes))
    f.store(x, scratch)
    size = size_of(x.element)
    with f.loop(0, count) as i:
        element = f.load(x.element, f.gep(scratch, i.index, x.element), size)
        f.store(element, f.gep(at, i.index, x.element))


def element_bytes(type: ElementType) -> int:
    """Bytes of one element in memory."""
    return size_of(memory_type(type))


__all__ = [
    "Bound",
    "Epilogue",
    "Operand",
    "Pointer",
    "Rows",
    "element_bytes",
    "lift_constants",
    "llvm_type",
    "row_pointer",
    "store_lanes",
]
