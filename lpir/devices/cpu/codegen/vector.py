"""Prints an expanded `Expr` over LLVM vectors: the same bits as `lpir.scalar.evaluate` computes.

`minimum(a, b)` is `b < a ? b : a` (one `minps`), `rint_i32` is `cvtps2dq`, every float operation is rounded by itself.
A comparison and a boolean are `i1` a lane; a boolean in memory is one byte (`to_memory`, `from_memory`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lpir.devices.cpu.codegen.emitter import Function, Value, mangle, vector_of
from lpir.errors import UnsupportedError
from lpir.ir.types import ElementType
from lpir.scalar.expr import ENTRIES, Expr

_LLVM = {
    **{"f64": "double", "f32": "float", "f16": "half", "bf16": "bfloat", "boolean": "i1"},
    **{"i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8", "u64": "i64", "u32": "i32", "u16": "i16", "u8": "i8"},
}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor", "shl": "shl"}
_FLOAT_UNARY = {
    **{"abs": "llvm.fabs", "floor": "llvm.floor", "ceil": "llvm.ceil"},
    **{"rint": "llvm.roundeven", "sqrt": "llvm.sqrt"},
}
_FCMP = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_ICMP = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
_ROUND = {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256", 16: "llvm.x86.avx512.mask.cvtps2dq.512"}

PRIMITIVES = frozenset(
    (*_FLOAT, *_INT, *_FLOAT_UNARY, *_FCMP, "shr", "minimum", "maximum", "neg", "not", "select", "cast", "bitcast")
) | {"rint_i32", "lookup", "input", "const"}


def llvm_type(type: ElementType, lanes: int = 1) -> str:
    """The LLVM type of `lanes` elements as values. Raises UnsupportedError for packed sub-byte types."""
    if type.name not in _LLVM:
        raise UnsupportedError(f"no vector code for elements of type {type.name}; convert to u8 first")
    return vector_of(_LLVM[type.name], lanes)


def memory_type(type: ElementType, lanes: int = 1) -> str:
    """The LLVM type of `lanes` elements in memory: as values, but a boolean is a byte."""
    return vector_of("i8", lanes) if type.name == "boolean" else llvm_type(type, lanes)


def from_memory(f: Function, x: Value, type: ElementType) -> Value:
    """A loaded `memory_type` vector as values."""
    return f.icmp("ne", x, 0) if type.name == "boolean" else x


def to_memory(f: Function, x: Value, type: ElementType) -> Value:
    """Values as the `memory_type` vector to store."""
    return f.convert("zext", x, vector_of("i8", x.lanes)) if type.name == "boolean" else x


def emit_expr(
    f: Function, expr: Expr, leaves: Sequence[Value] | Mapping[int, Value], lanes: int, bits: int = 0
) -> Value:
    """`expr` over vectors of `lanes`; `leaves[i]` is input `i`, of type `llvm_type(type, lanes)` or one scalar.

    `bits`: widest vector of the ISA, 0 for plain LLVM without x86 intrinsics.
    """
    done: dict[int, Value] = {}
    for e in expr.walk():
        if e.fn == "input":
            done[id(e)] = f.splat(leaves[int(e.value or 0)], lanes)
        elif e.fn == "const":
            done[id(e)] = _const(f, e, lanes)
        else:
            done[id(e)] = _apply(f, e, [done[id(a)] for a in e.args], lanes, bits)
    return done[id(expr)]


def _const(f: Function, e: Expr, lanes: int) -> Value:
    value = 0 if e.value is None else e.value
    if e.type.name in ("f16", "bf16"):
        return f.convert("fptrunc", f.const(vector_of("float", lanes), value), llvm_type(e.type, lanes))
    return f.const(llvm_type(e.type, lanes), value)


def _apply(f: Function, e: Expr, args: list[Value], lanes: int, bits: int) -> Value:
    of = e.args[0].type
    if e.fn == "cast":
        return cast(f, args[0], of, e.type)
    if e.fn == "bitcast":
        return f.convert("bitcast", args[0], llvm_type(e.type, lanes))
    if e.fn == "rint_i32":
        return rint_i32(f, args[0], bits)
    if e.fn == "select":
        return f.select(args[0], args[1], args[2])
    if e.fn == "lookup":
        return lookup(f, args[0], [float(a.value or 0) for a in e.args[1:]], bits)
    if e.fn in _FCMP:
        return _compare(f, e.fn, args[0], args[1], of)
    if e.fn in ("minimum", "maximum"):
        better = _compare(f, "lt" if e.fn == "minimum" else "gt", args[1], args[0], of)
        return f.select(better, args[1], args[0])
    return _float(f, e.fn, args) if of.is_float else _integer(f, e.fn, args, of)


def _compare(f: Function, fn: str, a: Value, b: Value, of: ElementType) -> Value:
    if of.is_float:
        return f.fcmp(_FCMP[fn], a, b)
    sign = "" if fn in ("eq", "ne") else "s" if of.is_signed else "u"
    return f.icmp(sign + _ICMP[fn], a, b)


def _float(f: Function, fn: str, args: list[Value]) -> Value:
    if fn in _FLOAT:
        return f.binary(_FLOAT[fn], args[0], args[1])
    if fn in _FLOAT_UNARY:
        return f.intrinsic(_FLOAT_UNARY[fn], args[0].type, args[0])
    if fn == "neg":
        # flips the sign bit, also of zero
        return f.fneg(args[0])
    raise UnsupportedError(f"{fn} of floats is not a primitive: run lpir.scalar.expand first")


def _integer(f: Function, fn: str, args: list[Value], of: ElementType) -> Value:
    x = args[0]
    if fn in _INT:
        return f.binary(_INT[fn], x, args[1])
    if fn == "shr":
        return f.binary("ashr" if of.is_signed else "lshr", x, args[1])
    if fn == "not":
        return f.binary("xor", x, f.const(x.type, 1 if of.name == "boolean" else -1))
    if fn == "neg":
        return f.sub(0, x)
    if fn == "abs":
        return f.call(f"llvm.abs.{_suffix(x)}", x.type, x, Value("i1", "false")) if of.is_signed else x
    if fn == "div":
        return _divide(f, x, args[1], of)
    raise UnsupportedError(f"{fn} of integers is not a primitive: run lpir.scalar.expand first")


def _suffix(x: Value) -> str:
    return x.element if x.lanes == 1 else f"v{x.lanes}{x.element}"


def _divide(f: Function, a: Value, b: Value, of: ElementType) -> Value:
    """Truncating division; by zero gives 0 and INT_MIN / -1 wraps, where the instruction would trap."""
    zero = f.icmp("eq", b, 0)
    if not of.is_signed:
        return f.select(zero, 0, f.udiv(a, f.select(zero, 1, b)))
    minus = f.icmp("eq", b, -1)
    quotient = f.binary("sdiv", a, f.select(f.binary("or", zero, minus), 1, b))
    return f.select(zero, 0, f.select(minus, f.sub(0, a), quotient))


def cast(f: Function, x: Value, of: ElementType, to: ElementType) -> Value:
    """`x` of element type `of` converted to `to`; float to integer truncates and saturates, a narrower
    integer keeps the low bits."""
    type = llvm_type(to, x.lanes)
    if of == to:
        return x
    if to.name == "boolean":
        return f.fcmp("une", x, f.zeros(x.type)) if of.is_float else f.icmp("ne", x, 0)
    if of.is_float and to.is_float:
        return (
            f.convert("fptrunc" if to.bits < of.bits else "fpext", x, type)
            if to.bits != of.bits
            else (f.convert("fptrunc", f.convert("fpext", x, vector_of("float", x.lanes)), type))
        )
    if of.is_float:
        return _float_to_int(f, x, to)
    signed = of.is_signed and of.name != "boolean"
    if to.is_float:
        return f.convert("sitofp" if signed else "uitofp", x, type)
    width = 1 if of.name == "boolean" else of.bits
    if to.bits == width:
        return x
    return f.convert("trunc" if to.bits < width else "sext" if signed else "zext", x, type)


def _float_to_int(f: Function, x: Value, to: ElementType) -> Value:
    # truncates, saturates at the target's limits, and gives 0 for NaN, as the reference does
    name = "llvm.fptosi.sat" if to.is_signed else "llvm.fptoui.sat"
    type = llvm_type(to, x.lanes)
    return f.call(f"{name}.{mangle(type)}.{mangle(x.type)}", type, x)


def rint_i32(f: Function, x: Value, bits: int) -> Value:
    """Half-to-even rounding of f32 into i32, INT32_MIN for NaN and out of range: x86's cvtps2dq."""
    native = bits // 32
    if native in _ROUND and x.lanes >= native and x.lanes % native == 0:
        parts = [_round_native(f, part) for part in split(f, x, native)]
        return concat(f, parts)
    if native > 4 and x.lanes in (4, 8):
        return rint_i32(f, x, x.lanes * 32)
    type = vector_of("i32", x.lanes)
    rounded = f.intrinsic("llvm.roundeven", x.type, x)
    # one `fcvtns` on ARM; what is too small is INT32_MIN already
    whole = f.call(f"llvm.fptosi.sat.{mangle(type)}.{mangle(x.type)}", type, rounded)
    return f.select(f.fcmp("olt", x, f.const(x.type, 2147483648.0)), whole, f.const(type, -(1 << 31)))


def _round_native(f: Function, x: Value) -> Value:
    type = vector_of("i32", x.lanes)
    if x.lanes < 16:
        return f.call(_ROUND[x.lanes], type, x)
    return f.call(_ROUND[16], type, x, f.zeros(type), Value("i16", "-1"), Value("i32", "4"))


def lookup(f: Function, index: Value, entries: Sequence[float], bits: int) -> Value:
    """`entries[index mod 16]` of 16 floats: a permutation of one register, of two, or loads."""
    native = bits // 32
    if native in (8, 16) and index.lanes >= native and index.lanes % native == 0:
        return concat(f, [_permute(f, part, entries) for part in split(f, index, native)])
    table = f.table("float", entries)
    places = f.binary("and", index, f.const(index.type, ENTRIES - 1))
    if index.lanes == 1:
        return f.load("float", f.gep(table, f.convert("zext", places, "i64"), "float"), 4)
    result = f.zeros(vector_of("float", index.lanes))
    for lane in range(index.lanes):
        place = f.convert("zext", f.extract(places, lane), "i64")
        result = f.insert(result, f.load("float", f.gep(table, place, "float"), 4), lane)
    return result


def _permute(f: Function, index: Value, entries: Sequence[float]) -> Value:
    type = vector_of("float", index.lanes)
    if index.lanes == ENTRIES:
        return f.call("llvm.x86.avx512.permvar.sf.512", type, f.literals("float", entries), index)
    low, high = (
        f.call("llvm.x86.avx2.permps", type, f.literals("float", part), index) for part in (entries[:8], entries[8:])
    )
    # bit 3 of the index as the sign that a blend reads
    upper = f.icmp("slt", f.binary("shl", index, f.const(index.type, 28)), 0)
    return f.select(upper, high, low)


def split(f: Function, x: Value, lanes: int) -> list[Value]:
    """`x` cut into vectors of `lanes`."""
    if x.lanes == lanes:
        return [x]
    return [f.shuffle(x, None, range(i, i + lanes)) for i in range(0, x.lanes, lanes)]


def concat(f: Function, parts: Sequence[Value]) -> Value:
    """Vectors of one type joined; their number must be a power of two."""
    row = list(parts)
    while len(row) > 1:
        row = [f.shuffle(a, b, range(2 * a.lanes)) for a, b in zip(row[::2], row[1::2], strict=True)]
    return row[0]
