"""Recurrent layers: LSTM, GRU and RNN, one step (cells) or a whole sequence in one or both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ops.recurrent_cells import GATES, CellKind
from lpir.record import record
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expr import Expr

DIRECTIONS = ("forward", "reverse", "bidirectional")


Evaluate = Callable[[Expr, Sequence[Array]], Array]


def recur(
    kind: CellKind, xw: Array, states: Sequence[Array], r: Array, rest: Array | None, compute: Evaluate = evaluate
) -> list[Array]:
    """The new states after one step: `[h]`, or `[h, c]` of an LSTM.

    xw `[B, G * H]`: what the input adds to the gates, biases included; r `[H, G * H]`; rest `[H]`: the bias of what
    the state adds to gate h of a linear GRU.
    """
    h, size = states[0], states[0].shape[1]
    gates = [xw[:, g * size : (g + 1) * size] for g in range(GATES[kind.kind])]
    weights = [r[:, g * size : (g + 1) * size] for g in range(GATES[kind.kind])]
    if kind.kind == "gru":
        z, reset = (x + h @ w for x, w in zip(gates[:2], weights[:2], strict=True))
        candidate = gates[2] + compute(kind.reset(), [reset, h]) @ weights[2]
        return [compute(kind.hidden(), [z, reset, candidate, h])]
    if kind.kind == "gru_linear":
        z, reset = (x + h @ w for x, w in zip(gates[:2], weights[:2], strict=True))
        own = h @ weights[2] + (np.zeros((), h.dtype) if rest is None else rest)
        return [compute(kind.hidden(), [z, reset, gates[2], h, own])]
    sums = [x + h @ w for x, w in zip(gates, weights, strict=True)]
    if kind.kind == "rnn":
        return [compute(kind.hidden(), sums)]
    cell = compute(kind.cell(), [*sums, states[1]])
    return [compute(kind.hidden(), [*sums, cell]), cell]


@record
class Recurrent(Op):
    """Base of all. Inputs: data, the initial states, [lengths,] W `[G * H, I]`, R `[G * H, H]`, B."""

    kind: ClassVar[str] = ""
    states: ClassVar[int] = 1
    hidden_size: int
    activations: tuple[str, ...] = ()
    activations_alpha: tuple[float, ...] = ()
    activations_beta: tuple[float, ...] = ()
    clip: float = 0.0

    @property
    def gates(self) -> int:
        return GATES[self.cell_kind.kind]

    @property
    def cell_kind(self) -> CellKind:
        """What a step computes."""
        kind = "gru_linear" if self.kind == "gru" and getattr(self, "linear_before_reset", False) else self.kind
        return CellKind(kind, tuple(a.lower() for a in self.activations), self.clip)

    def split_bias(self, b: Array) -> tuple[Array, Array | None]:
        """The bias of the gates, and of what the state adds to gate h of a linear GRU."""
        inner = self.gates * self.hidden_size
        return b[:inner], b[inner:] if self.cell_kind.kind == "gru_linear" else None

    def check_weights(self, weights: Sequence[Arg], directions: int | None) -> None:
        """Raises ModelError unless the weights fit the attributes."""
        self.cell_kind.check()
        rows = self.gates * self.hidden_size
        biases = rows + (self.hidden_size if self.cell_kind.kind == "gru_linear" else 0)
        lead = (Dimension(directions, directions),) if directions else ()
        tails: tuple[tuple[int | None, ...], ...] = ((rows, None), (rows, self.hidden_size), (biases,))
        for arg, tail in zip(weights, tails, strict=True):
            wanted = PartialShape((*lead, *(ANY if n is None else Dimension(n, n) for n in tail)))
            if arg.shape.merge(wanted) is None:
                raise ModelError(f"{self.type_name} needs weights {wanted}, not {arg.shape}")


@record
class RecurrentCell(Recurrent):
    """One step. Inputs: x `[B, I]`, states `[B, H]`, W, R, B. Outputs: the new states."""

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        self.check_weights(inputs[1 + self.states :], None)
        batch = ANY
        for arg in inputs[: 1 + self.states]:
            if arg.shape.rank not in (None, 2):
                raise ModelError(f"data and states must have rank 2, not {arg.shape}")
            merged = batch.merge(arg.shape[0]) if arg.shape.dims is not None else batch
            if merged is None:
                raise ModelError("data and states have different batches")
            batch = merged
        shape = PartialShape((batch, Dimension(self.hidden_size, self.hidden_size)))
        return [TensorType(x.type, shape)] * self.states

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, states, (w, r, b) = inputs[0], inputs[1 : 1 + self.states], inputs[1 + self.states :]
        bias, rest = self.split_bias(b)
        return tuple(recur(self.cell_kind, x @ w.T + bias, states, r.T, rest))

    @classmethod
    def cases(cls) -> list[Case]:
        batch, size, hidden = 2, 3, 5
        found = []
        for name, sample in cls.variants(hidden):
            rng = np.random.default_rng(len(name))
            biases = sample.gates * hidden + (hidden if sample.cell_kind.kind == "gru_linear" else 0)
            shapes: list[tuple[int, ...]] = [(batch, size), *[(batch, hidden)] * sample.states]
            shapes += [(sample.gates * hidden, size), (sample.gates * hidden, hidden), (biases,)]
            found.append(Case(sample, tuple(rng.standard_normal(s).astype(np.float32) for s in shapes), name))
        return found

    @classmethod
    def variants(cls, hidden: int) -> list[tuple[str, RecurrentCell]]:
        """Named samples of the operation."""
        return [("plain", cls(hidden)), ("clip", cls(hidden, clip=0.5))]


@record
class RecurrentSequence(Recurrent):
    """All steps. Inputs: x `[B, T, I]`, states `[B, D, H]`, lengths `[B]`, W `[D, G * H, I]`, R, B.

    Outputs: the hidden state after each step `[B, D, T, H]` (0 behind a sequence's length), and the last states. In
    reverse a sequence is read from its last step to its first; results stand where their step is.
    """

    direction: str = "forward"

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x = inputs[0]
        if self.direction not in DIRECTIONS:
            raise ModelError(f"direction must be one of {', '.join(DIRECTIONS)}, not {self.direction!r}")
        if not inputs[1 + self.states].type.is_integer:
            raise ModelError(f"lengths must be integers, not {inputs[1 + self.states].type}")
        self.check_weights(inputs[2 + self.states :], self.directions)
        batch, steps = ANY, ANY
        for arg in inputs[: 2 + self.states]:
            if arg.shape.dims is not None:
                merged = batch.merge(arg.shape[0])
                if merged is None:
                    raise ModelError("data, states and lengths have different batches")
                batch = merged
        if x.shape.dims is not None:
            if len(x.shape) != 3:
                raise ModelError(f"data must have rank 3, not {x.shape}")
            steps = x.shape[1]
        d, h = Dimension(self.directions, self.directions), Dimension(self.hidden_size, self.hidden_size)
        last = TensorType(x.type, PartialShape((batch, d, h)))
        return [TensorType(x.type, PartialShape((batch, d, steps, h))), *[last] * self.states]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, states, lengths = inputs[0], inputs[1 : 1 + self.states], inputs[1 + self.states]
        w, r, b = inputs[2 + self.states :]
        found = []
        for d in range(self.directions):
            bias, rest = self.split_bias(b[d])
            reverse = self.direction == "reverse" or d == 1
            xw = x @ w[d].T + bias
            found.append(run_steps(self.cell_kind, reverse, xw, [s[:, d] for s in states], r[d].T, rest, lengths))
        return tuple(np.stack(parts, 1) for parts in zip(*found, strict=True))

    @classmethod
    def cases(cls) -> list[Case]:
        batch, steps, size, hidden = 2, 4, 3, 5
        found = []
        for name, sample in cls.variants(hidden):
            rng, d = np.random.default_rng(len(name)), sample.directions
            biases = sample.gates * hidden + (hidden if sample.cell_kind.kind == "gru_linear" else 0)
            data = [(batch, steps, size), *[(batch, d, hidden)] * sample.states]
            weights = [(d, sample.gates * hidden, size), (d, sample.gates * hidden, hidden), (d, biases)]
            lengths = np.array([steps, 2 if name == "lengths" else steps], np.int64)
            arrays = [rng.standard_normal(s).astype(np.float32) for s in (*data, *weights)]
            found.append(Case(sample, (*arrays[: len(data)], lengths, *arrays[len(data) :]), name))
        return found

    @classmethod
    def variants(cls, hidden: int) -> list[tuple[str, RecurrentSequence]]:
        """Named samples of the operation."""
        return [(d, cls(hidden, direction=d)) for d in DIRECTIONS] + [("lengths", cls(hidden))]


def run_steps(
    kind: CellKind,
    reverse: bool,
    xw: Array,
    states: Sequence[Array],
    r: Array,
    rest: Array | None,
    lengths: Array | None = None,
    compute: Evaluate = evaluate,
) -> list[Array]:
    """The hidden state after each step `[B, T, H]`, and the last states, of xw `[B, T, G * H]`; see `recur`."""
    batch, steps = xw.shape[:2]
    lengths = np.full(batch, steps) if lengths is None else np.minimum(lengths, steps)
    y = np.zeros((batch, steps, states[0].shape[1]), xw.dtype)
    rows, current = np.arange(batch), list(states)
    for t in range(steps):
        active = t < lengths
        at = np.where(active, lengths - 1 - t, t) if reverse else np.full(batch, t)
        new = recur(kind, xw[rows, at], current, r, rest, compute)
        current = [np.where(active[:, None], n, old) for n, old in zip(new, current, strict=True)]
        y[rows, at] = np.where(active[:, None], new[0], np.zeros((), xw.dtype))
    return [y, *current]


@op
@record
class LSTMCell(RecurrentCell):
    """One step of an LSTM (opset4): gates f, i, c, o; the states are hidden and cell state."""

    version: ClassVar[str] = "opset4"
    arity: ClassVar[tuple[int, int | None]] = (6, 6)
    kind: ClassVar[str] = "lstm"
    states: ClassVar[int] = 2
    activations: tuple[str, ...] = ("sigmoid", "tanh", "tanh")


@op
@record
class LSTMSequence(RecurrentSequence):
    """An LSTM over a sequence (opset5); see LSTMCell."""

    version: ClassVar[str] = "opset5"
    arity: ClassVar[tuple[int, int | None]] = (7, 7)
    kind: ClassVar[str] = "lstm"
    states: ClassVar[int] = 2
    activations: tuple[str, ...] = ("sigmoid", "tanh", "tanh")


@op
@record
class GRUCell(RecurrentCell):
    """One step of a GRU (opset3): gates z, r, h. linear_before_reset: r multiplies the product, not the state."""

    version: ClassVar[str] = "opset3"
    arity: ClassVar[tuple[int, int | None]] = (5, 5)
    kind: ClassVar[str] = "gru"
    activations: tuple[str, ...] = ("sigmoid", "tanh")
    linear_before_reset: bool = False

    @classmethod
    def variants(cls, hidden: int) -> list[tuple[str, RecurrentCell]]:
        return [*super().variants(hidden), ("linear", cls(hidden, linear_before_reset=True))]


@op
@record
class GRUSequence(RecurrentSequence):
    """A GRU over a sequence (opset5); see GRUCell."""

    version: ClassVar[str] = "opset5"
    arity: ClassVar[tuple[int, int | None]] = (6, 6)
    kind: ClassVar[str] = "gru"
    activations: tuple[str, ...] = ("sigmoid", "tanh")
    linear_before_reset: bool = False

    @classmethod
    def variants(cls, hidden: int) -> list[tuple[str, RecurrentSequence]]:
        linear = cls(hidden, direction="bidirectional", linear_before_reset=True)
        return [*super().variants(hidden), ("linear both ways", linear)]


@op
@record
class RNNCell(RecurrentCell):
    """One step of a plain recurrent layer (opset1): `f(x W^T + h R^T + B)`."""

    arity: ClassVar[tuple[int, int | None]] = (5, 5)
    kind: ClassVar[str] = "rnn"
    activations: tuple[str, ...] = ("tanh",)

    @classmethod
    def variants(cls, hidden: int) -> list[tuple[str, RecurrentCell]]:
        return [*super().variants(hidden), ("relu", cls(hidden, activations=("relu",)))]


@op
@record
class RNNSequence(RecurrentSequence):
    """A plain recurrent layer over a sequence (opset5); see RNNCell."""

    version: ClassVar[str] = "opset5"
    arity: ClassVar[tuple[int, int | None]] = (6, 6)
    kind: ClassVar[str] = "rnn"
    activations: tuple[str, ...] = ("tanh",)
