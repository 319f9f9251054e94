"""Dot products of 4 bytes: `acc[l] + sum_i u8[4l+i] * s8[4l+i]`, by instruction."""

from __future__ import annotations

from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of

_VNNI = {4: "llvm.x86.avx512.vpdpbusd.128", 8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
_MADDUBS = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}
_MADDWD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def vpdpbusd(f: Function, acc: Value, u: Value, s: Value) -> Value:
    """One instruction, exact."""
    a, b = (f.convert("bitcast", x, acc.type) for x in (u, s))
    return f.call(_VNNI[acc.lanes], acc.type, acc, a, b)


def vpmaddubsw(f: Function, acc: Value, u: Value, s: Value) -> Value:
    """Three instructions; exact only if no pair of products leaves int16."""
    return add_pairs(f, acc, pmaddubsw(f, u, s))


def pmaddubsw(f: Function, u: Value, s: Value) -> Value:
    """`u[2l] * s[2l] + u[2l+1] * s[2l+1]` of u8 and i8 in int16, where it saturates."""
    lanes = u.lanes // 4
    return f.call(_MADDUBS[lanes], vector_of("i16", 2 * lanes), u, s)


def add_pairs(f: Function, acc: Value, words: Value) -> Value:
    """`acc[l] + words[2l] + words[2l+1]` of int16 in int32."""
    return f.add(acc, pmaddwd(f, words, f.const(words.type, 1)))


def pmaddwd(f: Function, a: Value, b: Value) -> Value:
    """`a[2l] * b[2l] + a[2l+1] * b[2l+1]` of int16 into int32."""
    lanes = a.lanes // 2
    return f.call(_MADDWD[lanes], vector_of("i32", lanes), a, b)


def usdot(f: Function, acc: Value, u: Value, s: Value) -> Value:
    """One instruction, exact (aarch64 with i8mm)."""
    return f.call("llvm.aarch64.neon.usdot.v4i32.v16i8", acc.type, acc, u, s)


def usmmla(f: Function, acc: Value, u: Value, s: Value) -> Value:
    """Two rows of 8 codes times two columns of 8 weights, exact (aarch64 with i8mm)."""
    return f.call("llvm.aarch64.neon.usmmla.v4i32.v16i8", acc.type, acc, u, s)


def shifted_sdot(f: Function, acc: Value, u: Value, s: Value) -> Value:
    """The products of `u - 128`: exact (aarch64 with dotprod)."""
    return _sdot(f, acc, f.binary("xor", u, f.const(u.type, 0x80)), s)


def sdot(f: Function, acc: Value, u: Value, s: Value) -> Value:
    """`shifted_sdot`, and `128 * sum(s)`, which LLVM computes once for all `u`."""
    half = f.const(s.type, 64)
    more = _sdot(f, _sdot(f, f.zeros(acc.type), s, half), s, half)
    return shifted_sdot(f, f.add(acc, more), u, s)


def _sdot(f: Function, acc: Value, a: Value, b: Value) -> Value:
    return f.call("llvm.aarch64.neon.sdot.v4i32.v16i8", acc.type, acc, a, b)


def widening(f: Function, acc: Value, u: Value, s: Value) -> Value:
    """Plain integer arithmetic for any target, exact."""
    wide = vector_of("i32", u.lanes)
    products = f.mul(f.convert("zext", u, wide), f.convert("sext", s, wide))
    for i in range(4):
        acc = f.add(acc, f.shuffle(products, None, range(i, u.lanes, 4)))
    return acc


def as_words(f: Function, u: Value) -> tuple[Value, Value]:
    """Bytes 0 and 2 of every 32-bit lane, and bytes 1 and 3, as 16-bit lanes."""
    pairs = f.convert("bitcast", u, vector_of("i16", u.lanes // 2))
    return f.binary("and", pairs, f.const(pairs.type, 255)), f.binary("lshr", pairs, f.const(pairs.type, 8))


def word_dot(f: Function, acc: Value, a: tuple[Value, Value], w: tuple[Value, Value]) -> Value:
    """`acc` plus the products of 4 as two `vpmaddwd` over `as_words`: always exact."""
    return f.add(f.add(acc, pmaddwd(f, a[0], w[0])), pmaddwd(f, a[1], w[1]))
