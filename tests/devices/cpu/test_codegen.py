"""The text builder, the JIT and the expression printer, on every instruction set of this machine."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from lpir.devices.cpu.codegen.abi import F32, Kernel
from lpir.devices.cpu.codegen.emitter import Function
from lpir.devices.cpu.codegen.jit import Jit, assembly
from lpir.devices.cpu.codegen.vector import emit_expr, from_memory, memory_type, to_memory
from lpir.devices.cpu.isa import Isa, all_isas, by_name
from lpir.errors import InputError
from lpir.ir.types import ElementType, boolean, f32, i32, u8
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import (
    Expr,
    absolute,
    apply,
    bitcast,
    cast,
    ceil,
    clamp,
    floor,
    input_,
    less,
    rint_i32,
    select,
    sqrt,
)

HOST_ISAS = [isa for isa in all_isas() if isa.available()]


def run(isa: Isa, kernel: Kernel, values: dict[str, int | float | F32]) -> None:
    jit = Jit(isa)
    jit.add(kernel.symbol, kernel.text)
    address = jit.compile()[kernel.symbol]
    words = [w for w in kernel.words(values) if isinstance(w, int)]
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    call((ctypes.c_uint64 * len(words))(*words), 0, 1)


def scale_kernel(lanes: int) -> Kernel:
    f = Function("scale", {"x": "ptr", "out": "ptr", "count": "i64", "by": "float"})
    by = f.splat(f.p["by"], lanes)
    with f.loop(0, f.p["count"], lanes) as i:
        x = f.load(f"<{lanes} x float>", f.gep(f.p["x"], i.index, "float"), align=4)
        f.store(f.fmul(x, by), f.gep(f.p["out"], i.index, "float"), align=4)
    return f.kernel()


@pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
def test_scale(isa: Isa) -> None:
    x = np.arange(32, dtype=np.float32)
    out = np.zeros_like(x)
    kernel = scale_kernel(isa.lanes())
    run(isa, kernel, {"x": x.ctypes.data, "out": out.ctypes.data, "count": 32, "by": F32(0.1)})
    np.testing.assert_array_equal(out, x * np.float32(0.1))


@pytest.mark.parametrize("isa", all_isas(), ids=lambda isa: isa.name)
def test_compiles_for_an_instruction_set_the_host_lacks(isa: Isa) -> None:
    assert ("fmul" if isa.triple.startswith("aarch64") else "mulps") in assembly([scale_kernel(isa.lanes()).text], isa)


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="avx512_vnni"):
        by_name("mmx")


X, Y, N, U = input_(0), input_(1), input_(2, i32), input_(3, u8)
EXPRESSIONS = {
    "quantize": cast(rint_i32(clamp(X * 3.7, -12.0, 243.0)) + 12, u8),
    "dequantize": cast(cast(U, i32) - 128, f32) * 0.02,
    "unfused": X * Y + X,
    "divide": X / Y,
    "minmax": apply("minimum", X, Y) - apply("maximum", Y, X),
    "round": floor(X) + ceil(Y) + apply("rint", X),
    "rint_i32": rint_i32(X * 1e9),
    "bits": bitcast(apply("shl", apply("and", bitcast(X, i32), N), 1), f32),
    "shift": apply("shr", N, 3) + apply("xor", N, 77),
    "not": apply("or", apply("not", N), 3),
    "select": select(less(X, Y), absolute(X), -Y),
    "sqrt": sqrt(absolute(X)),
    "boolean": less(X, Y),
    "truncate": cast(X, i32),
    "wrap": cast(N, u8),
    "unsigned": select(apply("gt", U, 127), U, U + 3),
    "integer": apply("maximum", absolute(N), -N),
}


def expr_kernel(expr: Expr, leaves: dict[int, ElementType], isa: Isa) -> Kernel:
    names = [f"x{i}" for i in range(4)]
    f = Function("expr", {**dict.fromkeys(names, "ptr"), "out": "ptr", "count": "i64"})
    lanes = isa.lanes()
    with f.loop(0, f.p["count"], lanes) as i:
        values = {}
        for n, type in leaves.items():
            at = f.gep(f.p[names[n]], i.index, memory_type(type))
            values[n] = from_memory(f, f.load(memory_type(type, lanes), at), type)
        out = to_memory(f, emit_expr(f, expr, values, lanes, isa.bits if isa.is_x86 else 0), expr.type)
        f.store(out, f.gep(f.p["out"], i.index, memory_type(expr.type)))
    return f.kernel()


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)
def test_expression_bits_equal_numpy(isa: Isa, name: str) -> None:
    expr = EXPRESSIONS[name]
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(64) * 50).astype(np.float32)
    y = (rng.standard_normal(64) * 50).astype(np.float32)
    if name != "truncate":
        x[:6] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5]
        y[2:8] = [np.nan, -0.0, 0.0, 1.5, 2.5, -2.5]
    arrays: list[np.ndarray[Any, Any]] = [
        x,
        y,
        rng.integers(-(2**31), 2**31, 64, dtype=np.int32),
        rng.integers(0, 256, 64, dtype=np.uint8),
    ]
    with np.errstate(all="ignore"):
        expected = np.ascontiguousarray(evaluate(expr, arrays))
    out = np.zeros(64, expr.type.dtype)
    kernel = expr_kernel(expr, expr.inputs(), isa)
    values = {f"x{i}": a.ctypes.data for i, a in enumerate(arrays)}
    run(isa, kernel, {**values, "out": out.ctypes.data, "count": 64})
    assert expected.dtype == out.dtype
    same = out.view(np.uint8) == expected.view(np.uint8)
    both_nan = np.isnan(out) & np.isnan(expected) if expr.type == f32 else np.zeros(64, bool)
    assert np.all(same.reshape(64, -1).all(1) | both_nan)


def test_boolean_is_a_byte() -> None:
    assert memory_type(boolean, 8) == "<8 x i8>"
