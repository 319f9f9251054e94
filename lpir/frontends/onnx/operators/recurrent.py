"""LSTM, GRU and RNN: weights in OpenVINO's order of gates, sequences with their batch in front."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpir.errors import UnsupportedError
from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.operators.peepholes import lstm_with_peepholes
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value
from lpir.ir.types import i64

# gates of a hidden unit, and where OpenVINO's are among ONNX's i, o, f, c
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LSTM_ORDER = (2, 0, 3, 1)
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@operator("LSTM", "GRU", "RNN")
def recurrent(c: Call) -> list[Value]:
    """X, W, R, B, lengths, initial states, peepholes: a sequence of OpenVINO's; a loop where that lacks something."""
    kind = c.operator.type
    batch_first = bool(c.integer("layout", 0))
    x = c[0] if batch_first else c.make("Transpose", c[0], c.const([1, 0, 2]))
    size = c.integer("hidden_size") if c.has("hidden_size") else c[2].shape[2].length
    direction = c.text("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    shape = c.make("ShapeOf", x, output_type=i64)
    batch = c.make("Gather", shape, c.const([0]), c.const(0), batch_dims=0)
    states = [_state(c, 5 + i, batch_first, x, batch, directions, size) for i in range(2 if kind == "LSTM" else 1)]
    lengths = c.maybe(4)
    if lengths is None:
        steps = c.make("Gather", shape, c.const(1), c.const(0), batch_dims=0)
        lengths = c.make("Broadcast", steps, batch, mode="numpy")
    linear = kind == "GRU" and bool(c.integer("linear_before_reset", 0))
    weights = [_ordered(c, c[1], kind), _ordered(c, c[2], kind), _bias(c, kind, x, directions, size, linear)]
    activations = _activations(c, kind, directions)
    if kind == "LSTM" and (c.maybe(7) is not None or c.integer("input_forget", 0)):
        y, *last = lstm_with_peepholes(c, x, states, lengths, weights, activations)
    else:
        more: dict[str, Any] = {"linear_before_reset": linear} if kind == "GRU" else {}
        more |= {"hidden_size": size, "activations": activations, "clip": c.real("clip", 0.0), "direction": direction}
        y, *last = c.make_all(f"{kind}Sequence", *(x, *states, lengths, *weights), **more)
    y = c.make("Transpose", y, c.const([0, 2, 1, 3] if batch_first else [2, 1, 0, 3]))
    return [y, *(s if batch_first else c.make("Transpose", s, c.const([1, 0, 2])) for s in last)]


def _state(c: Call, index: int, batch_first: bool, x: Value, batch: Value, directions: int, size: int) -> Value:
    """An initial state `[B, D, H]`, zero where the file gives none."""
    given = c.maybe(index)
    if given is not None:
        return given if batch_first else c.make("Transpose", given, c.const([1, 0, 2]))
    shape = c.make("Concat", batch, c.const([directions, size]), axis=0)
    return c.make("Broadcast", c.like(x, 0), shape, mode="numpy")


def _ordered(c: Call, weights: Value, kind: str) -> Value:
    """Weights or biases `[D, G * H, ...]` with the gates in OpenVINO's order."""
    if kind != "LSTM":
        return weights
    gates = c.make_all("Split", weights, c.const(1), num_splits=GATES[kind])
    return c.make("Concat", *(gates[i] for i in LSTM_ORDER), axis=1)


def _bias(c: Call, kind: str, x: Value, directions: int, size: int, linear: bool) -> Value:
    """The sum of the biases of input and state; of a linear GRU's gate h both."""
    gates, given = GATES[kind], c.maybe(3)
    if given is None:
        return c.like(x, np.zeros((directions, (gates + linear) * size)))
    own, states = c.make_all("Split", given, c.const(1), num_splits=2)
    if not linear:
        return _ordered(c, c.make("Add", own, states), kind)
    parts = [c.make_all("Split", v, c.const(1), num_splits=gates) for v in (own, states)]
    sums = [c.make("Add", a, b) for a, b in zip(*(p[:2] for p in parts), strict=True)]
    return c.make("Concat", *sums, parts[0][2], parts[1][2], axis=1)


def _activations(c: Call, kind: str, directions: int) -> tuple[str, ...]:
    """The names of one direction's activations; both directions must have the same."""
    names = tuple(str(a) for a in c.get("activations", tuple, DEFAULTS[kind] * directions))
    count = len(DEFAULTS[kind])
    if len(names) != count * directions or names[:count] * directions != names:
        raise UnsupportedError(f"activations {', '.join(names)} are not the same in both directions")
    return tuple(n.lower() for n in names[:count])
