"""LSTM whose gates look at the cell (peepholes) or hang together: LSTMSequence has neither, so it is a loop."""

from __future__ import annotations

from collections.abc import Sequence

from lpir.errors import UnsupportedError
from lpir.frontends.onnx.conversion import Call
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.shape import ONE
from lpir.ir.types import i64
from lpir.ops.boundary import Parameter, Result
from lpir.ops.loops import Part, Port, with_length

# of the inputs that a step reads one element of: the axis of time
AXES = {0: 1, 1: 0}
ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


def lstm_with_peepholes(
    c: Call, x: Value, states: Sequence[Value], lengths: Value, weights: Sequence[Value], activations: Sequence[str]
) -> list[Value]:
    """As LSTMSequence: x `[B, T, I]`, states `[B, D, H]`, lengths `[B]`, weights W, R, B with gates f, i, c, o."""
    unknown = sorted(set(activations) - set(ACTIVATIONS))
    if unknown:
        raise UnsupportedError(f"the activations {', '.join(unknown)} beside peepholes or coupled gates")
    names = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[c.text("direction", "forward")]
    peepholes = c.maybe(7)
    given = [*weights, *([] if peepholes is None else [peepholes])]
    # what belongs to each direction
    apart = [c.make_all("Split", v, c.const(0), num_splits=len(names)) for v in given]
    starts = [c.make_all("Split", s, c.const(1), num_splits=len(names)) for s in states]
    found = []
    for i, backward in enumerate(names):
        own = [v[i] for v in apart]
        found.append(_direction(c, x, [s[i] for s in starts], lengths, own, activations, backward))
    return [c.make("Concat", *parts, axis=1) for parts in zip(*found, strict=True)]


def _direction(
    c: Call,
    x: Value,
    states: Sequence[Value],
    lengths: Value,
    weights: Sequence[Value],
    activations: Sequence[str],
    backward: bool,
) -> list[Value]:
    """One direction: y `[B, 1, T, H]`, and the last states `[B, 1, H]`."""
    w, r, b = (c.make("Squeeze", v, c.const([0])) for v in weights[:3])
    x = _turned(c, x, lengths) if backward else x
    xw = c.make("Add", c.make("MatMul", x, w, transpose_a=False, transpose_b=True), b)
    shape = c.make("ShapeOf", x, output_type=i64)
    steps = c.make("Gather", shape, c.const(1), c.const(0), batch_dims=0)
    numbers = c.make("Range", c.const(0), steps, c.const(1), output_type=i64)
    ends = c.make("Unsqueeze", c.convert(lengths, i64), c.const([1, 2]))
    inputs = [xw, numbers, *states, ends, r, *weights[3:]]
    y, *last = c.make_all(
        "TensorIterator",
        *inputs,
        body=_body(c, inputs, activations),
        reads=tuple(Port(i, i, Part(AXES[i]) if i in AXES else None) for i in range(len(inputs))),
        writes=(Port(0, 0, Part(1)), Port(1, 1), Port(2, 2)),
        carried=((1, 2), (2, 3)),
    )
    return [c.make("Unsqueeze", _turned(c, y, lengths) if backward else y, c.const([1])), *last]


def _turned(c: Call, x: Value, lengths: Value) -> Value:
    return c.make("ReverseSequence", x, lengths, batch_axis=0, seq_axis=1)


def _body(c: Call, inputs: Sequence[Value], activations: Sequence[str]) -> Model:
    """One step: the part of the gates that comes from x, number of the step, h, cell, lengths, R, [P] to y, h, cell."""
    shapes = [with_length(v.shape, AXES[i], ONE) if i in AXES else v.shape for i, v in enumerate(inputs)]
    parameters = [Node(Parameter(s, v.element_type), (), c.name) for s, v in zip(shapes, inputs, strict=True)]
    xw, number, h, cell, ends, r, *peepholes = (p.output for p in parameters)
    gates = c.make("Add", xw, c.make("MatMul", h, r, transpose_a=False, transpose_b=True))
    f, i, g, o = c.make_all("Split", gates, c.const(2), num_splits=4)
    looks = c.make_all("Split", peepholes[0], c.const(1), num_splits=3) if peepholes else []

    def gate(value: Value, activation: str, which: int | None = None, state: Value = cell) -> Value:
        if which is not None and looks:
            value = c.make("Add", value, c.make("Multiply", looks[which], state))
        if clip := c.real("clip", 0.0):
            value = c.make("Clamp", value, min=-clip, max=clip)
        return c.make(ACTIVATIONS[activation], value)

    # ONNX has the peepholes of gates i, o, f
    i = gate(i, activations[0], 0)
    f = c.make("Subtract", c.like(i, 1), i) if c.integer("input_forget", 0) else gate(f, activations[0], 2)
    new = c.make("Add", c.make("Multiply", f, cell), c.make("Multiply", i, gate(g, activations[1])))
    out = c.make("Multiply", gate(o, activations[0], 1, new), c.make(ACTIVATIONS[activations[2]], new))
    there = c.make("Less", number, ends)
    results = [c.make("Select", there, out, other) for other in (c.like(out, 0), h)]
    results.append(c.make("Select", there, new, cell))
    return Model([Node(Result(), [v], f"result{k}") for k, v in enumerate(results)], parameters, c.name)
