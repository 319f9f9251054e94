"""What one step of a recurrent layer computes, as expressions over its gates.

The gates of a hidden unit come in OpenVINO's order: f, i, c, o (LSTM) or z, r, h (GRU).
"""

from __future__ import annotations

from collections.abc import Callable

from lpir.errors import ModelError
from lpir.ops.activation import sigmoid
from lpir.record import record
from lpir.scalar.expr import Expr, clamp, input_, maximum, tanh

ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": lambda x: maximum(x, 0.0),
}
# kind -> gates a hidden unit, and activations
GATES = {"lstm": 4, "gru": 3, "gru_linear": 3, "rnn": 1}
FUNCTIONS = {"lstm": 3, "gru": 2, "gru_linear": 2, "rnn": 1}


@record
class CellKind:
    """`kind` (a key of GATES), the names of its activations, and the limit of gates before them (0: none)."""

    kind: str
    activations: tuple[str, ...]
    clip: float

    def check(self) -> None:
        """Raises ModelError for activations that there are not."""
        wanted = FUNCTIONS[self.kind]
        unknown = sorted(set(self.activations) - set(ACTIVATIONS))
        if len(self.activations) != wanted or unknown:
            raise ModelError(f"activations must be {wanted} of {', '.join(ACTIVATIONS)}, not {list(self.activations)}")
        if self.clip < 0:
            raise ModelError(f"clip must not be negative: {self.clip}")

    def gate(self, number: int, x: Expr) -> Expr:
        """Activation `number` of a gate's sum."""
        return ACTIVATIONS[self.activations[number]](clamp(x, -self.clip, self.clip) if self.clip else x)

    def reset(self) -> Expr:
        """GRU: `r * h`, of the sum of gate r (leaf 0) and the state (leaf 1)."""
        return self.gate(0, input_(0)) * input_(1)

    def cell(self) -> Expr:
        """LSTM: the new cell state, of the sums of f, i, c (leaves 0 to 2) and the old one (leaf 4)."""
        return self.gate(0, input_(0)) * input_(4) + self.gate(0, input_(1)) * self.gate(1, input_(2))

    def hidden(self) -> Expr:
        """The new hidden state.

        lstm: of the sum of o (leaf 3) and the new cell state (leaf 4). gru: of the sums of z and h (leaves 0 and 2)
        and the old state (leaf 3). gru_linear: the same, with the sum of r (leaf 1), and what the state adds to h,
        bias included (leaf 4). rnn: of the sum (leaf 0).
        """
        if self.kind == "rnn":
            return self.gate(0, input_(0))
        if self.kind == "lstm":
            return self.gate(0, input_(3)) * ACTIVATIONS[self.activations[2]](input_(4))
        update, candidate = self.gate(0, input_(0)), input_(2)
        if self.kind == "gru_linear":
            candidate = candidate + self.gate(0, input_(1)) * input_(4)
        return (1.0 - update) * self.gate(1, candidate) + update * input_(3)
