"""The lowered dialect: what a device implements. Static shapes, channels last, never in a file.

Every operation that computes ends in an `epilogue`: an expression whose leaf 0 is the accumulator and whose leaves
1, 2, ... are further inputs of the node, broadcast to the output. `eval` is the lowered reference: integer sums are
exact, every float32 step is rounded by itself, and functions such as exp are evaluated in their expanded form, so that
native code can give the same bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Op, TensorType, lowered_op
from lpir.ir.shape import PartialShape
from lpir.ir.types import ElementType, f32, from_dtype, i32, i64, u8
from lpir.record import record
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expand import expand
from lpir.scalar.expr import Expr, input_

ACCUMULATOR = input_(0, i32)
"""Leaf 0 of an epilogue over 8-bit inputs; `input_(0, f32)` over float inputs."""

# few shapes occur, and each is asked for many times
broadcast_shapes = functools.lru_cache(4096)(np.broadcast_shapes)


def accumulator_of(type: ElementType) -> ElementType:
    """Element type of the sums over inputs of `type`."""
    if type == i64:
        return i64
    return i32 if type.is_integer else f32


@functools.lru_cache(maxsize=4096)
def expanded(expr: Expr) -> Expr:
    """`expand`, remembered."""
    return expand(expr)


def finish(epilogue: Expr, acc: Array, operands: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """`epilogue` of the sums and its operands, as `shape`."""
    result = evaluate(expanded(epilogue), [acc, *operands])
    return np.broadcast_to(result, shape).astype(epilogue.type.dtype, copy=False)


def _static(arg: Arg) -> tuple[int, ...]:
    return arg.shape.to_static()


def epilogue_output(
    epilogue: Expr, acc_type: ElementType, shape: Sequence[int], operands: Sequence[Arg]
) -> list[TensorType]:
    """Checks the epilogue's leaves against the operands and gives the output's type."""
    for index, type in epilogue.inputs().items():
        if index == 0 and type != acc_type:
            raise ModelError(f"the epilogue reads a {type} accumulator, the sums are {acc_type}")
        if index > len(operands) or (index and operands[index - 1].type != type):
            raise ModelError(f"leaf {index} of the epilogue ({type}) has no matching operand")
    for operand in operands:
        if broadcast_shapes(tuple(shape), _static(operand)) != tuple(shape):
            raise ModelError(f"operand {operand.shape} does not broadcast to {list(shape)}")
    return [TensorType(epilogue.type, PartialShape.of(shape))]


@lowered_op
@record
class Elementwise(Op):
    """`expr` for each element; input i is leaf i, broadcast NumPy-style."""

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    expr: Expr

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        for index, type in self.expr.inputs().items():
            if index >= len(inputs) or inputs[index].type != type:
                raise ModelError(f"leaf {index} of {self.expr} ({type}) has no matching input")
        shape = broadcast_shapes(*(_static(a) for a in inputs))
        return [TensorType(self.expr.type, PartialShape.of(shape))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
        return (np.broadcast_to(evaluate(expanded(self.expr), inputs), shape),)


def window_counts(size: int, kernel: int, stride: int, dilation: int, pad_begin: int, pad_end: int) -> int:
    """Number of positions of a window along one axis."""
    return (size + pad_begin + pad_end - dilation * (kernel - 1) - 1) // stride + 1


@record
class Windowed(Op):
    """Shared geometry of convolution and pooling over `[N, *S, C]`."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]

    def positions(self, spatial: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Spatial lengths of the output. Raises ModelError when the window does not fit."""
        out = tuple(
            window_counts(*args)
            for args in zip(spatial, kernel, self.strides, self.dilations, self.pads_begin, self.pads_end, strict=True)
        )
        if min(out, default=1) < 1:
            raise ModelError(f"a window {list(kernel)} does not fit into {list(spatial)}")
        return out

    def padded(self, x: Array, fill: float) -> Array:
        pads = [(0, 0), *zip(self.pads_begin, self.pads_end, strict=True), (0, 0)]
        return np.pad(x, pads, constant_values=fill) if any(map(any, pads)) else x

    def tap(self, padded: Array, offset: Sequence[int], out: Sequence[int]) -> Array:
        """The input element under one tap for every output position: `[N, *So, C]`."""
        index = tuple(
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, s, n in zip(offset, self.dilations, self.strides, out, strict=True)
        )
        view: Array = padded[(slice(None), *index)]
        return view


@lowered_op
@record
class LoweredConvolution(Windowed):
    """Convolution of `x [N, *S, C]` with `w [*K, C / groups, O]`; operands broadcast to `[N, *So, O]`.

    The accumulator is the int32 sum of `(x - x_zero_point) * w` for 8-bit `x` (u8) and `w` (i8), the float32 sum of
    `x * w` otherwise. Padding counts as the real number 0. A depthwise convolution may have a zero point a channel.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, None)
    groups: int
    x_zero_point: int | tuple[int, ...]
    epilogue: Expr

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, w = _static(inputs[0]), _static(inputs[1])
        if x[-1] != w[-2] * self.groups or w[-1] % self.groups or len(w) != len(x):
            raise ModelError(f"weights {list(w)} in {self.groups} groups do not fit x {list(x)}")
        shape = (x[0], *self.positions(x[1:-1], w[:-2]), w[-1])
        return epilogue_output(self.epilogue, accumulator_of(inputs[0].type), shape, inputs[2:])

    @property
    def is_pointwise(self) -> bool:
        return not any((*self.pads_begin, *self.pads_end)) and all(s == 1 for s in self.strides)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, w, *operands = inputs
        integer = x.dtype.kind in "iu"
        # float64 sums of 8-bit products are exact: K * 255 * 128 < 2**53
        kind: Any = np.float64 if integer else np.float32
        zero = np.asarray(self.x_zero_point, kind)
        padded = self.padded(x.astype(kind) - zero, 0)
        out = self.positions(x.shape[1:-1], w.shape[:-2])
        acc = np.zeros((x.shape[0], *out, w.shape[-1]), kind)
        inner, outer = w.shape[-2], w.shape[-1] // self.groups
        for offset in np.ndindex(*w.shape[:-2]):
            taps, weights = self.tap(padded, offset, out), w[offset].astype(kind)
            if inner == 1 and outer == 1:
                acc += taps * weights[0]
                continue
            for g in range(self.groups):
                rows = taps[..., g * inner : (g + 1) * inner]
                acc[..., g * outer : (g + 1) * outer] += rows @ weights[:, g * outer : (g + 1) * outer]
        sums = acc.astype(np.int32) if integer else acc
        return (finish(self.epilogue, sums, operands, sums.shape),)


@lowered_op
@record
class LoweredMatMul(Op):
    """`a [*B, M, K]` times `b [*B, K, N]`; with transpose_b `b` is `[*B, N, K]`. Operands broadcast to `[*B, M, N]`.

    The accumulator is the int32 sum of `(a - a_zero_point) * (b - b_zero_point)` for 8-bit inputs (`b`: constant i8
    weights or u8 codes), the float32 sum otherwise.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, None)
    transpose_b: bool
    a_zero_point: int
    b_zero_point: int
    epilogue: Expr

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        a, b = _static(inputs[0]), _static(inputs[1])
        if len(a) < 2 or len(b) < 2:
            raise ModelError("both inputs need at least two dimensions")
        k, n = (b[-1], b[-2]) if self.transpose_b else (b[-2], b[-1])
        if a[-1] != k:
            raise ModelError(f"{list(a)} and {list(b)} do not multiply")
        shape = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], n)
        return epilogue_output(self.epilogue, accumulator_of(inputs[0].type), shape, inputs[2:])

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        a, b, *operands = inputs
        integer = a.dtype.kind in "iu"
        kind: Any = np.float64 if integer else np.float32
        left, right = a.astype(kind) - kind(self.a_zero_point), b.astype(kind) - kind(self.b_zero_point)
        acc = left @ (np.swapaxes(right, -1, -2) if self.transpose_b else right)
        sums = acc.astype(np.int32) if integer else acc
        return (finish(self.epilogue, sums, operands, sums.shape),)


@lowered_op
@record
class Pool(Windowed):
    """Maximum or sum over windows of `x [N, *S, C]`.

    kind "max": leaf 0 is the maximum (int32 of the codes for 8-bit x); padding never wins. kind "avg": leaf 0 is the
    sum of `x - x_zero_point` (int32 or float32) and leaf 1 the float32 number of elements that the mean divides by:
    the elements inside the tensor with `exclude_pad`, the whole window otherwise. Further operands start at leaf 2 for
    "avg" and at leaf 1 for "max".
    """

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    kind: str
    kernel: tuple[int, ...]
    exclude_pad: bool
    x_zero_point: int
    epilogue: Expr

    @property
    def first_operand(self) -> int:
        """Number of the leaf that is input 1."""
        return 2 if self.kind == "avg" else 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = _static(inputs[0])
        shape = (x[0], *self.positions(x[1:-1], self.kernel), x[-1])
        count = [Arg(f32, PartialShape.of(()))] if self.kind == "avg" else []
        return epilogue_output(self.epilogue, accumulator_of(inputs[0].type), shape, [*count, *inputs[1:]])

    def counts(self, spatial: Sequence[int]) -> Array:
        """What the mean divides by at each output position: float32 `[1, *So, 1]`."""
        out = self.positions(spatial, self.kernel)
        if not self.exclude_pad:
            return np.full((1, *out, 1), math.prod(self.kernel), np.float32)
        ones = self.padded(np.ones((1, *spatial, 1), np.float32), 0)
        total = np.zeros((1, *out, 1), np.float32)
        for offset in np.ndindex(*self.kernel):
            total += self.tap(ones, offset, out)
        return total

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, *operands = inputs
        integer = x.dtype.kind in "iu"
        kind = np.int32 if integer else np.float32
        out = self.positions(x.shape[1:-1], self.kernel)
        lowest = -(2**31) if integer else -np.inf
        padded = self.padded(x.astype(kind) - kind(self.x_zero_point), 0 if self.kind == "avg" else lowest)
        acc: Array | None = None
        for offset in np.ndindex(*self.kernel):
            taps = self.tap(padded, offset, out)
            if acc is None:
                acc = taps.copy()
            else:
                acc = acc + taps if self.kind == "avg" else np.where(taps > acc, taps, acc)
        assert acc is not None
        extra = [self.counts(x.shape[1:-1])] if self.kind == "avg" else []
        return (finish(self.epilogue, acc, [*extra, *operands], acc.shape),)


@lowered_op
@record
class Reduce(Op):
    """Reduction over `axes` (sorted, counted from the front): leaf 0 is the result, an int32, int64 or float32.

    kind: "sum", "max", "min" or "prod". An 8-bit `x` counts as `x - x_zero_point`.
    """

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    kind: str
    axes: tuple[int, ...]
    keep_dims: bool
    x_zero_point: int
    epilogue: Expr

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = _static(inputs[0])
        kept = [1 if i in self.axes else n for i, n in enumerate(x) if self.keep_dims or i not in self.axes]
        return epilogue_output(self.epilogue, accumulator_of(inputs[0].type), kept, inputs[1:])

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, *operands = inputs
        kind = accumulator_of(from_dtype(x.dtype)).dtype.type
        function: Any = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}[self.kind]
        acc = np.asarray(
            function.reduce(x.astype(kind) - kind(self.x_zero_point), axis=self.axes, keepdims=self.keep_dims)
        )
        return (finish(self.epilogue, acc, operands, acc.shape),)


@lowered_op
class Table(Op):
    """`table[x]` for u8 `x` and a table of 256 entries of any type."""

    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if inputs[0].type != u8 or _static(inputs[1]) != (256,):
            raise ModelError(f"a table needs u8 codes and 256 entries, not {inputs[0].type} and {inputs[1].shape}")
        return [TensorType(inputs[1].type, inputs[0].shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        return (inputs[1][inputs[0]],)


@lowered_op
@record
class LoweredSoftmax(Op):
    """`exp(x - max) / sum` over the last axis, then the epilogue. The sum may be reordered."""

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    epilogue: Expr

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return epilogue_output(self.epilogue, f32, _static(inputs[0]), inputs[1:])

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, *operands = inputs
        shifted = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
        powers = evaluate(expanded(Expr("exp", (input_(0),), f32)), [shifted])
        y = powers / powers.sum(axis=-1, keepdims=True)
        return (finish(self.epilogue, y, operands, y.shape),)


@lowered_op
@record
class LoweredNormalize(Op):
    """`(x - mean) / sqrt(var + eps)` over the last `axes` axes, then the epilogue (MVN). Sums may be reordered.

    eps_mode: "INSIDE_SQRT" or "OUTSIDE_SQRT". `second`: what a second output is made of, if there is one: leaf 0 is the
    first output, the others are the same operands as the epilogue's.
    """

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    axes: int
    normalize_variance: bool
    eps: float
    eps_mode: str
    epilogue: Expr
    second: Expr | None = None

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        shape, operands = _static(inputs[0]), inputs[1:]
        found = epilogue_output(self.epilogue, f32, shape, operands)
        return found + (epilogue_output(self.second, self.epilogue.type, shape, operands) if self.second else [])

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, *operands = inputs
        axes = tuple(range(x.ndim - self.axes, x.ndim))
        centred = x - x.mean(axis=axes, keepdims=True, dtype=np.float32)
        if self.normalize_variance:
            variance = np.mean(centred * centred, axis=axes, keepdims=True, dtype=np.float32)
            inside = self.eps_mode == "INSIDE_SQRT"
            eps = np.float32(self.eps)
            centred = centred / (np.sqrt(variance + eps) if inside else np.sqrt(variance) + eps)
        first = finish(self.epilogue, centred, operands, centred.shape)
        return (first, finish(self.second, first, operands, centred.shape)) if self.second else (first,)
