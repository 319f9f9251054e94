"""The lowered recurrence: what is left of a recurrent layer once its input is multiplied by its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Op, TensorType, lowered_op
from lpir.ir.shape import PartialShape
from lpir.ir.types import f32
from lpir.ops.lowered import expanded
from lpir.ops.recurrent import run_steps
from lpir.ops.recurrent_cells import GATES, CellKind
from lpir.record import record
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr


@lowered_op
@record
class Recurrence(Op):
    """The steps of one direction of an LSTM, GRU or RNN.

    Inputs: xw `[B, T, G * H]`, the input's part of each gate, biases included; r `[H, G * H]`; the states `[B, H]`;
    then, for a linear GRU, the bias `[H]` of what the state adds to gate h; and with `has_lengths` lengths `[B]`.
    Outputs: the hidden state after each step `[B, T, H]`, and the last states. Sums over `r` may be reordered.
    """

    arity: ClassVar[tuple[int, int | None]] = (3, 6)
    cell: CellKind
    reverse: bool
    has_lengths: bool

    @property
    def states(self) -> int:
        return 2 if self.cell.kind == "lstm" else 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        xw, r, h = (a.shape.to_static() for a in inputs[:3])
        wide = GATES[self.cell.kind] * h[1]
        wanted = 2 + self.states + (self.cell.kind == "gru_linear") + self.has_lengths
        if len(inputs) != wanted or xw[2] != wide or r != (h[1], wide) or xw[0] != h[0]:
            raise ModelError(f"gates {list(xw)}, weights {list(r)} and states {list(h)} do not fit")
        last = TensorType(f32, PartialShape.of(h))
        return [TensorType(f32, PartialShape.of((*xw[:2], h[1]))), *[last] * self.states]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        xw, r, rest = inputs[0], inputs[1], list(inputs[2:])
        states = [rest.pop(0) for _ in range(self.states)]
        bias = rest.pop(0) if self.cell.kind == "gru_linear" else None
        lengths = rest.pop(0) if self.has_lengths else None
        return tuple(run_steps(self.cell, self.reverse, xw, states, r, bias, lengths, evaluate_expanded))


def evaluate_expanded(expr: Expr, inputs: Sequence[Array]) -> Array:
    """`expr` with its functions as the polynomials that native code computes."""
    return evaluate(expanded(expr), inputs)
