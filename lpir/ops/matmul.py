"""Matrix multiplication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import Dimension, PartialShape, broadcast
from lpir.ir.types import from_dtype
from lpir.ops.windows import checked
from lpir.record import record


@op
@record
class MatMul(Op):
    """`y[..., m, n] = sum_k a[..., m, k] * b[..., k, n]` with the leading axes broadcast (OpenVINO opset1 MatMul).

    transpose_a, transpose_b: swap the last two axes first. A vector `a` is a row and a vector `b` a column, their
    transpose flags have no effect, and the axis of length 1 that this adds is taken away from the result.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    transpose_a: bool = False
    transpose_b: bool = False

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        a, b = inputs
        if a.type != b.type:
            raise ModelError(f"the inputs have different types: {a.type} and {b.type}")
        if a.shape.dims is None or b.shape.dims is None:
            return [TensorType(a.type, PartialShape(None))]
        if not a.shape.dims or not b.shape.dims:
            raise ModelError(f"scalars cannot be multiplied as matrices: {a.shape} and {b.shape}")
        one = Dimension(1, 1)
        rows = (one, *a.shape.dims) if len(a.shape) == 1 else _swap(a.shape.dims, self.transpose_a)
        columns = (*b.shape.dims, one) if len(b.shape) == 1 else _swap(b.shape.dims, self.transpose_b)
        if rows[-1].merge(columns[-2]) is None:
            raise ModelError(f"the inner lengths {rows[-1]} of {a.shape} and {columns[-2]} of {b.shape} are different")
        batch = broadcast(PartialShape(rows[:-2]), PartialShape(columns[:-2])).known()
        out = [*batch]
        if len(a.shape) > 1:
            out.append(rows[-2])
        if len(b.shape) > 1:
            out.append(columns[-1])
        return [TensorType(a.type, checked(out))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        a, b = inputs
        if self.transpose_a and a.ndim > 1:
            a = a.swapaxes(-1, -2)
        if self.transpose_b and b.ndim > 1:
            b = b.swapaxes(-1, -2)
        work = accumulator(a.dtype)
        return (np.asarray(np.matmul(a.astype(work, copy=False), b.astype(work, copy=False))).astype(inputs[0].dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(1)

        def case(name: str, a: tuple[int, ...], b: tuple[int, ...], ta: bool = False, tb: bool = False) -> Case:
            arrays = (rng.standard_normal(a).astype(np.float32), rng.standard_normal(b).astype(np.float32))
            return Case(cls(ta, tb), arrays, name)

        return [
            case("plain", (3, 5), (5, 4)),
            case("transpose_b", (2, 7, 5), (4, 5), tb=True),
            case("transpose_a", (2, 5, 7), (2, 5, 4), ta=True),
            case("both_transposed", (5, 3), (4, 5), True, True),
            case("broadcast", (2, 1, 3, 4), (5, 4, 6)),
            case("vector_matrix", (5,), (2, 5, 3)),
            case("matrix_vector", (2, 3, 5), (5,)),
            case("vector_vector", (6,), (6,)),
            case("vector_flags", (5,), (3, 5), True, True),
            case("one_by_one", (1, 1), (1, 1)),
        ]


def _swap(dims: tuple[Dimension, ...], transpose: bool) -> tuple[Dimension, ...]:
    return (*dims[:-2], dims[-1], dims[-2]) if transpose else dims


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type to sum products of `dtype` in: float32 for floats up to 32 bits, int64 for integers."""
    if not from_dtype(dtype).is_float:
        return np.dtype(np.int64)
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
