"""TopK: the largest or smallest elements along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import Dimension, PartialShape
from lpir.ir.types import ElementType, i32, i64
from lpir.ops.bases import integers, normalize_axis


@op
@dataclass(frozen=True)
class TopK(Op):
    """The `k` largest (mode "max") or smallest ("min") elements along `axis`, and their positions (OpenVINO opset11).

    sort: "value" orders them by value, "index" by position, "none" leaves the order open (here: by value). Of equal
    values the one in front comes first. Inputs: x and k (scalar).
    """

    version: ClassVar[str] = "opset11"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    axis: int
    mode: str
    sort: str
    index_element_type: ElementType = i32
    stable: bool = False

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, k = inputs
        if self.mode not in ("max", "min"):
            raise ModelError(f"mode must be max or min, not {self.mode!r}")
        if self.sort not in ("value", "index", "none"):
            raise ModelError(f"sort must be value, index or none, not {self.sort!r}")
        if self.index_element_type not in (i32, i64):
            raise ModelError(f"index_element_type must be i32 or i64, not {self.index_element_type}")
        shape = x.shape
        if shape.dims is not None:
            axis = normalize_axis(self.axis, len(shape))
            if not shape.dims:
                raise ModelError("a scalar has no axis to choose along")
            dim = shape[axis]
            new = Dimension(0, dim.hi)
            if k.value is not None:
                count = integers(k, "k")[0]
                if count < 0 or (dim.hi is not None and count > dim.hi):
                    raise ModelError(f"k = {count} is not between 0 and the length {dim} of axis {axis}")
                new = Dimension(count, count)
            shape = PartialShape(new if a == axis else d for a, d in enumerate(shape))
        return [TensorType(x.type, shape), TensorType(self.index_element_type, shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, count = inputs[0], int(inputs[1].reshape(-1)[0])
        if self.mode == "max":
            # a stable ascending sort of the mirrored array keeps equal values in front-first order when mirrored back
            flipped = np.argsort(np.flip(x, self.axis), self.axis, kind="stable")
            order = x.shape[self.axis] - 1 - np.flip(flipped, self.axis)
        else:
            order = np.argsort(x, self.axis, kind="stable")
        chosen = np.take(order, np.arange(count), self.axis)
        if self.sort == "index":
            chosen = np.sort(chosen, self.axis)
        return np.take_along_axis(x, chosen, self.axis), chosen.astype(self.index_element_type.dtype)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(8).permutation(60).reshape(3, 4, 5).astype(np.float32)
        ties = np.array([[1, 3, 3, 0, 3, 1]], np.float32)
        return [
            Case(cls(-1, "max", "value"), (x, np.array(3)), "max"),
            Case(cls(0, "min", "value", i32), (x, np.array(2)), "min"),
            Case(cls(1, "max", "index"), (x, np.array(2)), "by_index"),
            Case(cls(1, "max", "value", i32, True), (ties, np.array(4)), "ties"),
            Case(cls(2, "max", "value"), (x, np.array(5)), "all"),
            Case(cls(1, "min", "value"), (x.astype(np.int32), np.array(1)), "i32"),
        ]
