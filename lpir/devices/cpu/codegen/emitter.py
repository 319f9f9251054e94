"""A typed builder of LLVM text.

`Function` prints one kernel (`void @name(ptr %params, i64 %tid, i64 %nthreads)`), an instruction a method. A `Value`
knows its LLVM type, so a method needs no type argument where an operand has it. Loops and branches are `with` blocks:

    f = Function("scale", {"x": "ptr", "out": "ptr", "count": "i64", "by": "float"})
    by = f.splat(f.p["by"], 8)
    with f.loop(0, f.p["count"], 8) as i:
        x = f.load("<8 x float>", f.gep(f.p["x"], i.index, "float"), align=4)
        f.store(f.fmul(x, by), f.gep(f.p["out"], i.index, "float"), align=4)
    kernel = f.kernel()

A loop carries values through `carried=`; inside, `i.values` are this round's, and `i.next = [...]` states the next
round's; behind the block `i.results` are the last ones:

    with f.loop(0, n, carried=[zero]) as i:
        i.next = [f.add(i.values[0], f.load("i32", f.gep(x, i.index, "i32")))]
    total = i.results[0]

No instruction carries fast-math flags: what is printed is computed, one rounding an operation.
"""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.effort import AS_PRINTED

# LLVM's "locality" of a prefetch
FIRST_CACHE, SECOND_CACHE = 3, 2
_VECTOR = re.compile(r"<(\d+) x (.+)>")
_SIZES = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "bfloat": 2, "i32": 4, "float": 4, "i64": 8, "double": 8, "ptr": 8}
_MANGLED = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16", "ptr": "p0"}


class Value(NamedTuple):
    """An SSA value or a constant: LLVM type and text."""

    type: str
    text: str

    @property
    def lanes(self) -> int:
        """Elements of a vector, 1 for a scalar."""
        return lanes_of(self.type)

    @property
    def element(self) -> str:
        """The type of one element."""
        return element_of(self.type)

    def __str__(self) -> str:
        return self.text


Operand = Value | int


@functools.cache
def lanes_of(type: str) -> int:
    """Number of elements of an LLVM type, 1 for a scalar."""
    m = _VECTOR.fullmatch(type)
    return int(m[1]) if m else 1


@functools.cache
def element_of(type: str) -> str:
    """The element type of a vector type; a scalar type itself."""
    m = _VECTOR.fullmatch(type)
    return m[2] if m else type


def vector_of(element: str, lanes: int) -> str:
    """`<lanes x element>`, or `element` for one lane."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


def size_of(type: str) -> int:
    """Bytes that a type takes in memory."""
    return _SIZES[element_of(type)] * lanes_of(type)


@functools.cache
def mangle(type: str) -> str:
    """The suffix of an intrinsic's name: `<8 x float>` -> `v8f32`."""
    element = element_of(type)
    name = _MANGLED.get(element, element)
    return name if lanes_of(type) == 1 else f"v{lanes_of(type)}{name}"


def literal(type: str, value: float | int | bool) -> str:
    """A constant's text; floats as exact bits."""
    element = element_of(type)
    if element == "float" or element in ("half", "bfloat"):
        # LLVM writes every float constant that is exact in double as the bits of the double
        text = f"0x{struct.unpack('<Q', struct.pack('<d', _to_f32(float(value))))[0]:016X}"
        if element != "float":
            raise ValueError(f"constants of {element} must be cast from float")
    elif element == "double":
        text = f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"
    elif element == "i1":
        text = "true" if value else "false"
    else:
        bits = _SIZES[element] * 8
        wrapped = int(value) & ((1 << bits) - 1)
        text = str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped)
    return text if lanes_of(type) == 1 else f"splat ({element} {text})"


def _to_f32(value: float) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        return value
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@functools.cache
def _mask(indices: tuple[int, ...]) -> str:
    """The third operand of a shuffle; -1 is any lane."""
    lanes = ", ".join("i32 poison" if i < 0 else f"i32 {i}" for i in indices)
    return f"<{len(indices)} x i32> <{lanes}>"


@dataclass
class Loop:
    """A loop being printed: `index`, this round's carried `values`, the `next` ones, and the `results` behind it.

    `again`: of a loop without a count, whether there is another round. `moving`: see `Function.moving`.
    """

    index: Value
    values: list[Value]
    next: list[Value] = field(default_factory=list)
    again: Value | None = None
    results: list[Value] = field(default_factory=list)
    moving: list[tuple[Value, Value, Operand]] = field(default_factory=list)
    step: Operand = 1


class Function:
    """Prints one kernel. `params`: name -> "ptr", "i64", "i32" or "float"; each is loaded once, as `f.p[name]`.

    `optimize=False`: the text is good as it is (values computed once, loops entered at the top, invariants outside), so
    LLVM's optimization passes, the greater part of its time, are left out; code generation still optimizes.
    `aligned`: vectors that are kept on the stack do not lie across two cache lines, which takes a register. `lean`: of
    the instruction set; what `moving` gives does move.
    """

    def __init__(
        self, name: str, params: Mapping[str, str], optimize: bool = True, aligned: bool = False, lean: bool = False
    ) -> None:
        self.name = name
        self._attributes = " alignstack(64)" if aligned else ""
        self.optimize, self.lean = optimize, lean
        self.params = tuple(params.items())
        self.tid = Value("i64", "%tid")
        self.nthreads = Value("i64", "%nthreads")
        self._entry: list[str] = []
        self._lines: list[str] = []
        self._declared: dict[str, str] = {}
        self._count = 0
        self._block = "body"
        self.p: dict[str, Value] = {}
        for i, (param, type) in enumerate(self.params):
            self._entry.append(f"  %{param}.at = getelementptr i64, ptr %params, i64 {i}")
            self._entry.append(f"  %{param} = load {type}, ptr %{param}.at, align 8")
            self.p[param] = Value(type, f"%{param}")

    # -- text ---------------------------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        """The finished kernel, its symbol made unique by a hash of its text."""
        body = "\n".join(["entry:", *self._entry, "  br label %body", "body:", *self._lines, "  ret void", "}"])
        digest = hashlib.sha256((body + "".join(self._declared)).encode()).hexdigest()[:12]
        symbol = f"{self.name}_{digest}"
        note = [] if self.optimize else [AS_PRINTED]
        start = f"define void @{symbol}(ptr %params, i64 %tid, i64 %nthreads){self._attributes} {{"
        head = [*note, *self._declared.values(), start]
        return Kernel(symbol, "\n".join([*head, body, ""]), self.params)

    def comment(self, text: str) -> None:
        """A comment line in the output."""
        self._lines.append(f"  ; {text}")

    def _name(self, hint: str = "") -> str:
        self._count += 1
        return f"%{hint or 'v'}{self._count}"

    def _emit(self, type: str, text: str, hint: str = "") -> Value:
        name = self._name(hint)
        self._lines.append(f"  {name} = {text}")
        return Value(type, name)

    def _value(self, x: Operand, type: str = "i64") -> Value:
        return x if isinstance(x, Value) else Value(type, literal(type, x))

    def _pair(self, a: Operand, b: Operand) -> tuple[Value, Value]:
        kind = a.type if isinstance(a, Value) else b.type if isinstance(b, Value) else "i64"
        return self._value(a, kind), self._value(b, kind)

    # -- constants and lanes ------------------------------------------------------------------------------------------

    def const(self, type: str, value: float | int | bool) -> Value:
        """A constant; of a vector type, the same in every lane."""
        return Value(type, literal(type, value))

    def zeros(self, type: str) -> Value:
        """All bits zero."""
        return Value(type, "zeroinitializer") if lanes_of(type) > 1 else self.const(type, 0)

    def splat(self, x: Value, lanes: int) -> Value:
        """A vector with scalar `x` in every lane; `x` itself for one lane."""
        if lanes == 1 or x.lanes > 1:
            return x
        type = vector_of(x.type, lanes)
        one = self._emit(type, f"insertelement {type} poison, {x.type} {x}, i64 0")
        return self._emit(type, f"shufflevector {type} {one}, {type} poison, <{lanes} x i32> zeroinitializer")

    def iota(self, element: str, lanes: int) -> Value:
        """`<0, 1, 2, ...>`."""
        return Value(vector_of(element, lanes), f"<{', '.join(f'{element} {i}' for i in range(lanes))}>")

    def literals(self, element: str, values: Sequence[float]) -> Value:
        """A vector of constants."""
        type = vector_of(element, len(values))
        return Value(type, f"<{', '.join(f'{element} {literal(element, v)}' for v in values)}>")

    def table(self, element: str, values: Sequence[float]) -> Value:
        """The address of constants in memory."""
        body = ", ".join(f"{element} {literal(element, v)}" for v in values)
        text = f"private unnamed_addr constant [{len(values)} x {element}] [{body}], align 64"
        # kernels of one program may hold several; equal ones are one
        name = f"@table_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self._declared[name] = f"{name} = {text}"
        return Value("ptr", name)

    def shuffle(self, a: Value, b: Value | None, indices: Sequence[int]) -> Value:
        """Lanes `indices` of `a` followed by `b`; -1 leaves a lane undefined."""
        type = vector_of(a.element, len(indices))
        other = f"{a.type} {b if b is not None else 'poison'}"
        return self._emit(type, f"shufflevector {a.type} {a}, {other}, {_mask(tuple(indices))}")

    def extract(self, x: Value, lane: Operand) -> Value:
        """One element of a vector."""
        return self._emit(x.element, f"extractelement {x.type} {x}, i64 {self._value(lane)}")

    def insert(self, x: Value, element: Value, lane: Operand) -> Value:
        """`x` with one element replaced."""
        return self._emit(x.type, f"insertelement {x.type} {x}, {element.type} {element}, i64 {self._value(lane)}")

    # -- arithmetic ---------------------------------------------------------------------------------------------------

    def binary(self, op: str, a: Operand, b: Operand) -> Value:
        """`op a, b` for any two-operand LLVM instruction."""
        left, right = self._pair(a, b)
        return self._emit(left.type, f"{op} {left.type} {left}, {right}")

    def add(self, a: Operand, b: Operand) -> Value:
        return self.binary("add", a, b)

    def sub(self, a: Operand, b: Operand) -> Value:
        return self.binary("sub", a, b)

    def mul(self, a: Operand, b: Operand) -> Value:
        return self.binary("mul", a, b)

    def udiv(self, a: Operand, b: Operand) -> Value:
        return self.binary("udiv", a, b)

    def urem(self, a: Operand, b: Operand) -> Value:
        return self.binary("urem", a, b)

    def fadd(self, a: Operand, b: Operand) -> Value:
        return self.binary("fadd", a, b)

    def fsub(self, a: Operand, b: Operand) -> Value:
        return self.binary("fsub", a, b)

    def fmul(self, a: Operand, b: Operand) -> Value:
        return self.binary("fmul", a, b)

    def fdiv(self, a: Operand, b: Operand) -> Value:
        return self.binary("fdiv", a, b)

    def fneg(self, x: Value) -> Value:
        """`x` with its sign bit flipped."""
        return self._emit(x.type, f"fneg {x.type} {x}")

    def icmp(self, predicate: str, a: Operand, b: Operand) -> Value:
        """Integer or pointer comparison: eq ne slt sle sgt sge ult ule ugt uge."""
        left, right = self._pair(a, b)
        return self._emit(vector_of("i1", left.lanes), f"icmp {predicate} {left.type} {left}, {right}")

    def fcmp(self, predicate: str, a: Value, b: Value) -> Value:
        """Float comparison: oeq une olt ole ogt oge uno ord."""
        return self._emit(vector_of("i1", a.lanes), f"fcmp {predicate} {a.type} {a}, {b}")

    def select(self, condition: Value, a: Operand, b: Operand) -> Value:
        """`a` where `condition`, else `b`."""
        left, right = self._pair(a, b)
        return self._emit(left.type, f"select {condition.type} {condition}, {left.type} {left}, {right.type} {right}")

    def smin(self, a: Operand, b: Operand) -> Value:
        """The smaller of two signed integers."""
        left, right = self._pair(a, b)
        return self.intrinsic("llvm.smin", left.type, left, right)

    def smax(self, a: Operand, b: Operand) -> Value:
        """The larger of two signed integers."""
        left, right = self._pair(a, b)
        return self.intrinsic("llvm.smax", left.type, left, right)

    def convert(self, op: str, x: Value, type: str) -> Value:
        """`op x to type`: zext sext trunc sitofp uitofp fptosi fptoui fpext fptrunc bitcast ptrtoint inttoptr."""
        return x if x.type == type else self._emit(type, f"{op} {x.type} {x} to {type}")

    # -- memory -------------------------------------------------------------------------------------------------------

    def gep(self, base: Value, index: Operand, element: str = "i8") -> Value:
        """`base` plus `index` elements (bytes by default)."""
        at = self._value(index)
        return self._emit("ptr", f"getelementptr {element}, ptr {base}, {at.type} {at}", "p")

    def load(self, type: str, at: Value, align: int = 1) -> Value:
        """`type` at address `at`, which is a multiple of `align` bytes."""
        return self._emit(type, f"load {type}, ptr {at}, align {align}")

    def store(self, x: Value, at: Value, align: int = 1) -> None:
        """Writes `x` at address `at`, which is a multiple of `align` bytes."""
        self._lines.append(f"  store {x.type} {x}, ptr {at}, align {align}")

    def masked_load(self, type: str, at: Value, mask: Value) -> Value:
        """Lanes of `mask` from memory, zero elsewhere; lanes outside the mask are not touched in memory."""
        name = f"llvm.masked.load.{mangle(type)}.p0"
        self._declared[name] = f"declare {type} @{name}(ptr, i32, {mask.type}, {type})"
        args = f"ptr {at}, i32 1, {mask.type} {mask}, {type} zeroinitializer"
        return self._emit(type, f"call {type} @{name}({args})")

    def masked_store(self, x: Value, at: Value, mask: Value) -> None:
        """Writes lanes of `mask` only."""
        name = f"llvm.masked.store.{mangle(x.type)}.p0"
        self._declared[name] = f"declare void @{name}({x.type}, ptr, i32, {mask.type})"
        self._lines.append(f"  call void @{name}({x.type} {x}, ptr {at}, i32 1, {mask.type} {mask})")

    def alloca(self, type: str, count: int = 1, align: int = 64) -> Value:
        """Scratch memory on the stack, reserved once at function entry."""
        name = self._name("stack")
        self._entry.append(f"  {name} = alloca {type}, i64 {count}, align {align}")
        return Value("ptr", name)

    def memset(self, at: Value, byte: Value, count: Operand) -> None:
        """Fills `count` bytes."""
        name = "llvm.memset.p0.i64"
        self._declared[name] = f"declare void @{name}(ptr, i8, i64, i1)"
        self._lines.append(f"  call void @{name}(ptr {at}, i8 {byte}, i64 {self._value(count)}, i1 false)")

    def memcpy(self, to: Value, source: Value, count: Operand) -> None:
        """Copies `count` bytes between buffers that do not overlap."""
        name = "llvm.memcpy.p0.p0.i64"
        self._declared[name] = f"declare void @{name}(ptr, ptr, i64, i1)"
        self._lines.append(f"  call void @{name}(ptr {to}, ptr {source}, i64 {self._value(count)}, i1 false)")

    def prefetch(self, at: Value, into: int = FIRST_CACHE) -> None:
        """Asks for the cache line at `at`, for reading."""
        self._declared["llvm.prefetch.p0"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        self._lines.append(f"  call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 {into}, i32 1)")

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, name: str, type: str, *args: Value) -> Value:
        """Calls `@name`, an intrinsic or external function that returns `type`; declares it."""
        self._declared[name] = f"declare {type} @{name}({', '.join(a.type for a in args)})"
        text = f"call {type} @{name}({', '.join(f'{a.type} {a}' for a in args)})"
        if type == "void":
            self._lines.append(f"  {text}")
            return Value("void", "")
        return self._emit(type, text)

    def intrinsic(self, name: str, type: str, *args: Value) -> Value:
        """Calls an intrinsic overloaded on its result type: `llvm.fabs` of `<8 x float>` is `llvm.fabs.v8f32`."""
        return self.call(f"{name}.{mangle(type)}", type, *args)

    # -- control ------------------------------------------------------------------------------------------------------

    def _label(self, hint: str) -> str:
        self._count += 1
        return f"{hint}{self._count}"

    def _start(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label

    @contextmanager
    def loop(
        self,
        start: Operand,
        stop: Operand,
        step: Operand = 1,
        carried: Sequence[Value] = (),
        nonempty: bool = False,
        name: str = "i",
    ) -> Iterator[Loop]:
        """`for index in range(start, stop, step)` over i64; `nonempty` says that the first round always runs."""
        first, last, by = self._value(start), self._value(stop), self._value(step)
        before, body, exit_ = self._block, self._label(f"{name}.body"), self._label(f"{name}.exit")
        head = body if nonempty else self._label(f"{name}.head")
        self._lines.append(f"  br label %{head}")
        self._start(head)
        index = Value(first.type, self._name(f"{name}."))
        state = Loop(index, [Value(c.type, self._name("c")) for c in carried], step=step)
        phis = len(self._lines)
        if not nonempty:
            more = self.icmp("slt", index, last)
            self._lines.append(f"  br i1 {more}, label %{body}, label %{exit_}")
            self._start(body)
        yield state
        following = self._emit(index.type, f"add nsw {index.type} {index}, {by}")
        if len(state.next) != len(state.values):
            raise ValueError(f"loop carries {len(state.values)} values, its body states {len(state.next)}")
        latch = self._block
        lines = [f"  {index} = phi {index.type} [ {first}, %{before} ], [ {following}, %{latch} ]"]
        moved = [(x, start, self._further(x, by)) for x, start, by in state.moving]
        for value, initial, after in [*zip(state.values, carried, state.next, strict=True), *moved]:
            lines.append(f"  {value} = phi {value.type} [ {initial}, %{before} ], [ {after}, %{latch} ]")
        self._lines[phis:phis] = lines
        if nonempty:
            again = self.icmp("slt", following, last)
            self._lines.append(f"  br i1 {again}, label %{head}, label %{exit_}")
        else:
            self._lines.append(f"  br label %{head}")
        self._start(exit_)
        state.results = list(state.next if nonempty else state.values)

    def moving(self, loop: Loop, start: Value, by: Operand) -> Value:
        """`start + index * by` in a loop from 0 on, of an address or an offset; `by` is an int unless steps are of one.

        Where LLVM leaves addresses alone, it moves on by an addition a round.
        """
        if not self.lean:
            return self._further(start, self.mul(loop.index, by))
        x = Value(start.type, self._name("at"))
        round_ = by * loop.step if isinstance(by, int) and isinstance(loop.step, int) else by
        loop.moving.append((x, start, round_))
        return x

    def _further(self, x: Value, by: Operand) -> Value:
        return self.gep(x, by) if x.type == "ptr" else self.add(x, by)

    @contextmanager
    def repeat(self, carried: Sequence[Value], name: str = "while") -> Iterator[Loop]:
        """Runs its body once, and again while `again` (i1, which the body states beside `next`) holds."""
        before, body, exit_ = self._block, self._label(f"{name}.body"), self._label(f"{name}.exit")
        self._lines.append(f"  br label %{body}")
        self._start(body)
        state = Loop(Value("i64", ""), [Value(c.type, self._name("c")) for c in carried])
        phis = len(self._lines)
        yield state
        if state.again is None or len(state.next) != len(state.values):
            raise ValueError("a repeated body states `again` and as many values as it carries")
        self._lines[phis:phis] = [
            f"  {value} = phi {value.type} [ {initial}, %{before} ], [ {after}, %{self._block} ]"
            for value, initial, after in zip(state.values, carried, state.next, strict=True)
        ]
        self._lines.append(f"  br i1 {state.again}, label %{body}, label %{exit_}")
        self._start(exit_)
        state.results = list(state.next)

    @contextmanager
    def if_(self, condition: Value) -> Iterator[None]:
        """Runs the block where `condition` (i1) holds. Values inside must not be used behind it."""
        then, end = self._label("then"), self._label("end")
        self._lines.append(f"  br i1 {condition}, label %{then}, label %{end}")
        self._start(then)
        yield
        self._lines.append(f"  br label %{end}")
        self._start(end)

    def my_range(self, count: Value) -> tuple[Value, Value]:
        """This thread's `[first, last)` of `count` items: contiguous, sizes differ by at most one."""
        first = self.udiv(self.mul(count, self.tid), self.nthreads)
        last = self.udiv(self.mul(count, self.add(self.tid, 1)), self.nthreads)
        return first, last
