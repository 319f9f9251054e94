"""Recurrent layers: every cell on every ISA against the lowered reference, and whole layers as exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lpir
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.recurrent import KERNELS
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.lowered_recurrent import Recurrence
from lpir.ops.recurrent import LSTMSequence
from lpir.ops.recurrent_cells import FUNCTIONS, GATES, CellKind
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import F32_SUM, assert_close

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def cell(kind: str, clip: float = 0.0, activation: str = "tanh") -> CellKind:
    names = ("sigmoid", activation, activation) if kind != "rnn" else (activation,)
    return CellKind(kind, names[: FUNCTIONS[kind]], clip)


def layer(op: Recurrence, batch: int, steps: int, units: int, lengths: Array | None = None) -> list[Array]:
    rng = np.random.default_rng(units)
    gates = GATES[op.cell.kind]
    shapes = [(batch, steps, gates * units), (units, gates * units), *[(batch, units)] * op.states]
    shapes += [(units,)] if op.cell.kind == "gru_linear" else []
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    arrays[1] /= np.float32(np.sqrt(units))
    return [*arrays, *([] if lengths is None else [lengths.astype(np.int32)])]


def check(op: Recurrence, inputs: list[Array], isa: Isa, threads: int) -> None:
    actual = run(KERNELS[0], op, inputs, isa, threads, (1,))
    # an error of one step is part of all later ones
    tolerance = F32_SUM.per(inputs[1].shape[0] * 50)
    for a, e in zip(actual, op.eval(*inputs), strict=True):
        assert_close(a, e, tolerance, str(op))


@ISAS
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_size(isa: Isa, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(GATES)))
    batch, steps = data.draw(st.sampled_from([1, 2, 3, 4, 8])), data.draw(st.integers(1, 7))
    units = data.draw(st.sampled_from([1, 3, 8, 15, 16, 17, 33, 64, 100]))
    some = data.draw(st.booleans())
    lengths = np.random.default_rng(1).integers(0, steps + 1, batch) if some else None
    op = Recurrence(cell(kind, data.draw(st.sampled_from([0.0, 0.7]))), data.draw(st.booleans()), some)
    check(op, layer(op, batch, steps, units, lengths), isa, data.draw(st.sampled_from([1, 2, 3])))


@ISAS
@pytest.mark.parametrize("kind", sorted(GATES))
def test_threads_share_the_units_of_a_large_layer(isa: Isa, kind: str) -> None:
    op = Recurrence(cell(kind, activation="relu" if kind == "rnn" else "tanh"), True, False)
    check(op, layer(op, 1, 6, 200), isa, 2)


@ISAS
def test_large_gates_do_not_overflow(isa: Isa) -> None:
    op = Recurrence(cell("lstm"), False, False)
    inputs = layer(op, 1, 3, 16)
    inputs[0] = np.where(inputs[0] > 0, np.float32(3e38), np.float32(-3e38))
    check(op, inputs, isa, 1)


def test_a_layer_runs_natively_and_says_so() -> None:
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return constant(rng.standard_normal(shape).astype(np.float32) * np.float32(0.2))

    x = parameter((2, 9, 12), f32, "x")
    zeros, lengths = constant(np.zeros((2, 2, 24), np.float32)), constant(np.array([9, 9]))
    op = LSTMSequence(24, direction="bidirectional")
    node = Node(op, [x.output, zeros, zeros, lengths, weights(2, 96, 12), weights(2, 96, 24), weights(2, 96)], "lstm")
    model = Model([Node(Result(), [v], f"r{v.index}") for v in node.outputs], [x])
    data = rng.standard_normal((2, 9, 12)).astype(np.float32)
    expected = lpir.compile_model(model, "REFERENCE")(data)
    compiled = lpir.compile_model(model, "CPU")
    for i in range(3):
        assert_close(np.asarray(compiled(data)[i]), np.asarray(expected[i]), F32_SUM.per(200))
    row = next(r for r in compiled.explain().rows if r.name == "lstm")
    assert "recurrence" in row.kernel
    assert "eval" not in row.kernel
