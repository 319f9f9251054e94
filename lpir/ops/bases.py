"""Families of operations that share everything but an expression or a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType
from lpir.ir.shape import PartialShape, broadcast
from lpir.ir.types import ElementType, boolean, f32, from_dtype
from lpir.record import record
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr, cast, input_


class ElementwiseOp(Op):
    """Base of operations that compute every output element from one element of each input."""

    def expression(self, types: Sequence[ElementType]) -> Expr:
        """The operation as an expression over leaves 0, 1, ... of these types."""
        raise ModelError(f"{self.type_name} states no expression")

    def leaf_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Shapes with as many elements as `shapes`, which broadcast NumPy-style to the output."""
        return list(shapes)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        types = [from_dtype(x.dtype) for x in inputs]
        shapes = self.leaf_shapes([x.shape for x in inputs])
        leaves = [x.reshape(s) for x, s in zip(inputs, shapes, strict=True)]
        result = evaluate(self.expression(types), leaves)
        shape = np.broadcast_shapes(*shapes)
        return (result if result.shape == shape else np.broadcast_to(result, shape).copy(),)


def rounded_once(expr: Callable[..., Expr], *leaves: Expr) -> Expr:
    """`expr(*leaves)`; with 16 bit floats it is computed in f32 and only the result is rounded."""
    own = leaves[0].type
    if not (own.is_float and own.bits == 16):
        return expr(*leaves)
    result = expr(*(cast(x, f32) for x in leaves))
    return cast(result, own) if result.type == f32 else result


class Unary(ElementwiseOp):
    """`y = f(x)`, element by element; the type and the shape stay. A subclass states `expr`.

    `domain`: where samples lie; `edges`: whether infinities and NaN are sampled too.
    """

    domain: ClassVar[tuple[float, float]] = (-6.0, 6.0)
    edges: ClassVar[bool] = True

    def expr(self, x: Expr) -> Expr:
        raise ModelError(f"{self.type_name} states no expression")

    def expression(self, types: Sequence[ElementType]) -> Expr:
        return rounded_once(self.expr, input_(0, types[0]))

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        return [TensorType(inputs[0].type, inputs[0].shape)]

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.linspace(*cls.domain, 60, dtype=np.float32)
        limits = [0.0, -0.0, np.inf, -np.inf, np.nan] if cls.edges else []
        return [
            Case(cls(), (x.reshape(3, 4, 5),), "f32"),
            Case(cls(), (x[7].reshape(()),), "scalar"),
            Case(cls(), (np.array([*limits, x[0], x[-1]], np.float32),), "edges"),
        ]


class FloatUnary(Unary):
    """A Unary that takes floating point only."""

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if not inputs[0].type.is_float:
            raise ModelError(f"the input must be floating point, not {inputs[0].type}")
        return super().infer(inputs)


@record
class Binary(ElementwiseOp):
    """`y = f(a, b)` with broadcasting. A subclass states `expr`.

    auto_broadcast: "numpy", "none" (equal shapes) or "pdpd" (b aligned to the left part of a).
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    auto_broadcast: str = "numpy"

    def expr(self, a: Expr, b: Expr) -> Expr:
        raise ModelError(f"{self.type_name} states no expression")

    def expression(self, types: Sequence[ElementType]) -> Expr:
        return self.expr(input_(0, types[0]), input_(1, types[1]))

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        a, b = inputs
        if a.type != b.type:
            raise ModelError(f"the inputs have different types: {a.type} and {b.type}")
        return [TensorType(self.result_type(a.type), broadcast_as(self.auto_broadcast, a.shape, b.shape))]

    def result_type(self, type: ElementType) -> ElementType:
        return type

    def leaf_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        a, b = shapes
        if self.auto_broadcast == "pdpd":
            return [a, b + (1,) * (len(a) - len(b))]
        return [a, b]

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(0)
        a = rng.uniform(0.5, 4.0, (2, 3, 4)).astype(np.float32)
        b = rng.choice([-2.0, -0.75, 0.5, 1.0, 3.0], (2, 3, 4)).astype(np.float32)
        return [
            Case(cls(), (a, b), "equal shapes"),
            Case(cls(), (a, b[0, :, :1]), "per channel"),
            Case(cls(), (a[:, :1], b[0, 0]), "both broadcast"),
            Case(cls(), (a, b[0, 0, 0]), "scalar"),
            Case(cls(auto_broadcast="none"), (a, b), "no broadcast"),
            Case(cls(), (np.arange(1, 7, dtype=np.int32), np.array([2, 3, 1, 4, 6, 5], np.int32)), "i32"),
        ]


class Comparison(Binary):
    """A Binary whose result is boolean."""

    def result_type(self, type: ElementType) -> ElementType:
        return boolean


def broadcast_as(mode: str, a: PartialShape, b: PartialShape) -> PartialShape:
    """The shape of `a` and `b` broadcast in OpenVINO's mode "numpy", "none" or "pdpd"."""
    if mode == "numpy":
        return broadcast(a, b)
    if mode == "none":
        merged = a.merge(b)
        if merged is None:
            raise ModelError(f"auto_broadcast='none' needs equal shapes, not {a} and {b}")
        return merged
    if mode == "pdpd":
        return a
    raise ModelError(f"auto_broadcast must be numpy, none or pdpd, not {mode!r}")


def normalize_axis(axis: int, rank: int) -> int:
    """`axis` counted from the front. Raises ModelError when it is out of range."""
    if not -rank <= axis < max(rank, 1):
        raise ModelError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank if rank else 0


def integers(arg: Arg, what: str) -> list[int]:
    """The value of a shape-like input. Raises ModelError when it is not known."""
    if arg.value is None:
        raise ModelError(f"{what} must be known before the model runs")
    return [int(v) for v in np.asarray(arg.value).reshape(-1)]
