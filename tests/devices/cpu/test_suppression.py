"""NonMaxSuppression: bit-identical to the reference, and native in a whole detector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lpir
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.suppression import KERNELS
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32, i32, i64
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.ops.lowered_detection import PaddedSuppression
from lpir.ops.sorting import NonMaxSuppression
from tests.devices.cpu.harness import HOST_ISAS, Array, make_node, run

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def inputs(batch: int, n: int, classes: int, limits: tuple[float, float, float], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 1, (batch, n, 2))
    boxes = np.concatenate([start, start + rng.uniform(-0.1, 0.5, (batch, n, 2))], -1).astype(np.float32)
    # few different scores: ties
    scores = rng.integers(0, 50, (batch, classes, n)).astype(np.float32) / np.float32(50)
    most, iou, least = limits
    return [boxes, scores, np.asarray(int(most)), np.asarray(iou, np.float32), np.asarray(least, np.float32)]


def check(op: NonMaxSuppression, arrays: list[Array], isa: Isa, threads: int = 1) -> None:
    batch, classes, n = arrays[1].shape
    padded = PaddedSuppression(op, batch * classes * min(n, int(arrays[2])))
    with np.errstate(all="ignore"):
        expected = padded.eval(*arrays)
    for actual, wanted in zip(run(KERNELS[0], padded, arrays, isa, threads, (2, 3, 4)), expected, strict=True):
        assert actual.tobytes() == wanted.tobytes(), f"{actual[:8]}, expected {wanted[:8]}"


@ISAS
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_problem(isa: Isa, data: st.DataObject) -> None:
    op = NonMaxSuppression(
        data.draw(st.sampled_from(["corner", "center"])),
        data.draw(st.booleans()),
        data.draw(st.sampled_from([i32, i64])),
    )
    limits = (
        data.draw(st.integers(1, 40)),
        data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        data.draw(st.sampled_from([-1.0, 0.0, 0.3, 2.0])),
    )
    sizes = (
        data.draw(st.integers(1, 2)),
        data.draw(st.sampled_from([1, 2, 15, 33, 100])),
        data.draw(st.integers(1, 3)),
    )
    check(op, inputs(*sizes, limits, data.draw(st.integers(0, 5))), isa, data.draw(st.sampled_from([1, 3])))


@ISAS
def test_awkward_boxes(isa: Isa) -> None:
    arrays = inputs(1, 60, 2, (30, 0.3, 0.0))
    arrays[0][0, ::7] = np.nan
    arrays[0][0, 1::7, 2:] = np.inf
    arrays[0][0, 2::7] = 0
    arrays[0][0, 3::7] = 3e38
    arrays[1][0, :, ::5] = np.nan
    check(NonMaxSuppression(), arrays, isa, 2)


@ISAS
def test_equal_boxes_and_scores(isa: Isa) -> None:
    arrays = inputs(1, 50, 1, (50, 0.5, 0.0))
    arrays[0][:] = np.array([0, 0, 1, 1], np.float32)
    arrays[1][:] = 0.5
    check(NonMaxSuppression(), arrays, isa)


def test_soft_suppression_is_refused() -> None:
    arrays = [*inputs(1, 5, 1, (5, 0.5, 0.0)), np.asarray(0.5, np.float32)]
    node = make_node(PaddedSuppression(NonMaxSuppression(), 5), arrays, (2, 3, 4, 5))
    assert "soft" in (KERNELS[0].applies(node, HOST_ISAS[0]) or "")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_detector(threads: int) -> None:
    """What is in front of the selection, and the selection itself, is native; what reads the chosen rows is not."""
    arrays = inputs(1, 300, 4, (20, 0.5, 0.4))
    boxes, scores = (parameter(x.shape, f32, name) for x, name in zip(arrays[:2], ("boxes", "scores"), strict=True))
    raised = make("Sigmoid", scores.output)
    limits = [constant(x) for x in arrays[2:]]
    selection = Node(NonMaxSuppression(), [boxes.output, raised, *limits], "selection")
    column = make("Gather", selection.outputs[0], constant(np.array(2)), constant(np.array(1)), name="column")
    chosen = make("Gather", boxes.output, column, constant(np.array(1)), name="chosen")
    model = Model([Node(Result(), [v], f"r{i}") for i, v in enumerate([*selection.outputs, chosen])], [boxes, scores])
    compiled = lpir.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
    expected = lpir.compile_model(model, "REFERENCE")(arrays[:2])
    actual = compiled(arrays[:2])
    assert np.asarray(expected[0]).shape[0] > 4
    for i in (0, 2, 3):
        np.testing.assert_array_equal(np.asarray(actual[i]), np.asarray(expected[i]))
    np.testing.assert_allclose(np.asarray(actual[1]), np.asarray(expected[1]), rtol=1e-6)
    rows = {r.name: r.kernel for r in compiled.explain().rows}
    assert rows["selection"] == "suppression"
    assert rows["chosen"] == "eval"
