"""FakeQuantize: the quantization of the public IR, and what its limits mean for 8-bit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, TensorType, op
from lpir.ir.shape import PartialShape, broadcast_dimension
from lpir.ir.types import ElementType
from lpir.ops.bases import ElementwiseOp
from lpir.record import record
from lpir.scalar.expr import Expr, apply, input_, maximum, minimum, rint, select


@op
@record
class FakeQuantize(ElementwiseOp):
    """Rounds to `levels` values between limits (opset1). Inputs: x, input low, input high, output low, output high.

    In the data type, in this order of operations, rounding half to even::

        x <= min(il, ih)  ->  ol            x > max(il, ih)  ->  oh
        otherwise         ->  rint((x - il) / (ih - il) * (levels - 1)) / (levels - 1) * (oh - ol) + ol

    NaN stays NaN; `il == ih` is a step; reversed limits follow the formula. The limits broadcast to x, each on its own.
    """

    arity: ClassVar[tuple[int, int | None]] = (5, 5)
    levels: int
    auto_broadcast: str = "numpy"

    def expression(self, types: Sequence[ElementType]) -> Expr:
        x, il, ih, ol, oh = (input_(i, t) for i, t in enumerate(types))
        steps = float(self.levels - 1)
        ramp = rint((x - il) / (ih - il) * steps) / steps * (oh - ol) + ol
        below = apply("le", x, minimum(il, ih))
        above = apply("gt", x, maximum(il, ih))
        return select(below, ol, select(above, oh, ramp))

    def leaf_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        x, *limits = shapes
        if self.auto_broadcast == "pdpd":
            limits = [s + (1,) * (len(x) - len(s)) for s in limits]
        # further leading ones are allowed and say nothing
        return [x, *(s[len(s) - len(x) :] if len(s) > len(x) else s for s in limits)]

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, *limits = inputs
        if not x.type.is_float:
            raise ModelError(f"the data must be floating point, not {x.type}")
        if self.levels < 2:
            raise ModelError(f"levels must be at least 2, not {self.levels}")
        for limit in limits:
            if limit.type != x.type:
                raise ModelError(f"the limits must be {x.type}, not {limit.type}")
            self._check_shape(x.shape, limit.shape)
        return [TensorType(x.type, x.shape)]

    def _check_shape(self, data: PartialShape, limit: PartialShape) -> None:
        if self.auto_broadcast not in ("numpy", "none", "pdpd"):
            raise ModelError(f"auto_broadcast must be numpy, none or pdpd, not {self.auto_broadcast!r}")
        if data.dims is None or limit.dims is None:
            return
        own, other = list(data.dims), list(limit.dims)
        if self.auto_broadcast == "pdpd":
            pairs = list(zip(own, other, strict=False))
        elif self.auto_broadcast == "none":
            if data.merge(limit) is None:
                raise ModelError(f"auto_broadcast='none' needs equal shapes, not {data} and {limit}")
            return
        else:
            pairs = list(zip(reversed(own), reversed(other), strict=False))
            if any(d.lo > 1 for d in other[: max(0, len(other) - len(own))]):
                raise ModelError(f"limits of shape {limit} do not broadcast to {data}")
        for a, b in pairs:
            found = broadcast_dimension(a, b)
            if found is None or (a.is_static and found.merge(a) is None):
                raise ModelError(f"limits of shape {limit} do not broadcast to {data}")

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(10).normal(0, 1.5, (2, 3, 4, 5)).astype(np.float32)
        edges = np.array([0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, 1e-40], np.float32)

        def limits(*values: object) -> tuple[Array, ...]:
            return tuple(np.asarray(v, np.float32) for v in values)

        channel = np.array([0.5, 1.0, 2.0], np.float32).reshape(1, 3, 1, 1)
        return [
            Case(cls(256), (x, *limits(-1, 1, -1, 1)), "scalar"),
            Case(cls(255), (x, -channel, channel, -channel, channel), "per channel"),
            Case(cls(256), (x, *limits(0, 2.5), *limits([[[[0]]]], [[[[255]]]])), "to codes"),
            Case(cls(16), (x, *limits(-1), channel, *limits(-2), channel * 2), "mixed shapes"),
            Case(cls(2), (x, *limits(-1, 1, -1, 1)), "two levels"),
            Case(cls(65536), (x, *limits(-1, 1, -1, 1)), "65536 levels"),
            Case(cls(256), (edges, *limits(-1, 1, -1, 1)), "edges"),
            Case(cls(256), (edges, *limits(0.5, 0.5, -1, 1)), "step"),
            Case(cls(5), (edges, *limits(1, 0, 0, 1)), "reversed input"),
            Case(cls(5), (edges, *limits(0, 1, 1, 0)), "reversed output"),
            Case(cls(256), (x, *(v.reshape(1, 1, 1, 1, 1) for v in limits(-1, 1, -1, 1))), "more dimensions"),
        ]


@record(eq=False)
class CodeGrid:
    """Codes `0 .. levels - 1` on a line: `real = scale * (code - zero_point)`, arrays of the limits' shape.

    scale: float64, negative for reversed limits, 0 for equal ones. zero_point: int64, the whole number nearest to the
    exact one. misfit: how far the exact zero point is from it, in codes; not 0 means that no code is the real 0.
    """

    scale: Array
    zero_point: Array
    misfit: Array

    @property
    def is_usable(self) -> bool:
        """Whether every scale is finite and positive, so that the codes can be told apart."""
        return bool(np.all(np.isfinite(self.scale)) and np.all(self.scale > 0))


def code_grid(levels: int, low: Array | float, high: Array | float) -> CodeGrid:
    """The grid of one pair of FakeQuantize limits (broadcast against each other).

    `scale = (high - low) / (levels - 1)`, `zero_point = rint(-low / scale)`, in float64. A scale that cannot be
    divided by has zero point 0 and an infinite misfit. Raises ModelError for fewer than two levels.
    """
    if levels < 2:
        raise ModelError(f"levels must be at least 2, not {levels}")
    lo, hi = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    with np.errstate(all="ignore"):
        scale = (hi - lo) / (levels - 1)
        exact = -lo / scale
    good = np.isfinite(exact) & (np.abs(exact) < 2.0**62)
    nearest = np.rint(np.where(good, exact, 0.0))
    misfit = np.where(good, np.abs(exact - nearest), np.inf)
    return CodeGrid(scale, nearest.astype(np.int64), misfit)
