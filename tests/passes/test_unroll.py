"""Loops are unrolled where it pays, and mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, from_dtype
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.loops import Loop, Part, Port, TensorIterator, sample_body, sample_loop
from lpir.passes.manager import transform
from lpir.passes.unroll import unroll_loops
from lpir.runtime.interpreter import Interpreter
from tests.tolerances import EXACT, assert_close

RNG = np.random.default_rng(0)
X, START = RNG.normal(size=(2, 6, 3)).astype(np.float32), RNG.normal(size=(2, 1, 3)).astype(np.float32)
PARTS = {
    "whole": Part(1),
    "from behind": Part(1, -1, 0, -1),
    "middle": Part(1, 1, 4),
    "middle from behind": Part(-2, 4, 2, -1),
    "pairs": Part(1, 0, -1, 2, 2),
}


def iterator(part: Part, carried: bool = True) -> Model:
    """TensorIterator over X with START as its state (or as it is in each iteration)."""
    x, s = parameter(X.shape, f32, "x"), parameter(START.shape, f32, "s")
    ports = (Port(0, 0, part), Port(1, 1))
    writes = (Port(0, 0, Part(1, 0, -1, part.part_size, part.part_size)), Port(1, 0))
    op = TensorIterator(sample_body(part.part_size), ports, writes, ((0, 1),) if carried else ())
    node = Node(op, [x.output, s.output], "loop")
    return Model([Node(Result(), [v], f"r{i}") for i, v in enumerate(node.outputs)], [x, s])


def run(model: Model, *arrays: np.ndarray) -> list[np.ndarray]:
    return Interpreter(model).create_runner().run(arrays)


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str) -> None:
    part = PARTS[name]
    model = iterator(part, carried=part.part_size == 1)
    expected = run(model, X, START)
    assert unroll_loops(model) == 1
    assert "TensorIterator" not in {n.op.type_name for n in model.nodes()}
    model.validate()
    for actual, wanted in zip(run(model, X, START), expected, strict=True):
        assert_close(actual, wanted, EXACT)
    assert unroll_loops(model) == 0
    assert {n.name for n in transform(model).nodes() if n.op.type_name == "Tanh"} == {"loop"}


def loop(count: int, most: float | None, fixed: bool) -> tuple[Model, list[np.ndarray]]:
    x = RNG.uniform(0.5, 1, (1, 3)).astype(np.float32)
    op = Loop(sample_loop(most), (Port(2, 1),), (Port(0, 1), Port(1, 1, Part(0))), ((1, 1),), None, 0, 0)
    entry, number = parameter(x.shape, f32, "x"), parameter((), from_dtype(np.int64), "count")
    most_times: Value = constant(np.array(count)) if fixed else number.output
    node = Node(op, [most_times, constant(np.array(True)), entry.output], "loop")
    model = Model([Node(Result(), [v], f"r{i}") for i, v in enumerate(node.outputs)], [entry, number])
    return model, [x, np.array(count)]


def test_a_count_that_is_known() -> None:
    model, arrays = loop(4, None, True)
    expected = run(model, *arrays)
    assert unroll_loops(model) == 1
    for actual, wanted in zip(run(model, *arrays), expected, strict=True):
        assert_close(actual, wanted, EXACT)


@pytest.mark.parametrize(("count", "most", "fixed"), [(4, 9.0, True), (4, None, False), (1000, None, True)])
def test_what_stays_a_loop(count: int, most: float | None, fixed: bool) -> None:
    assert unroll_loops(loop(count, most, fixed)[0]) == 0
