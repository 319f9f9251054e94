"""FakeQuantize: bit-identical with OpenVINO's reference, wherever the formula is defined; grids of codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.errors import ModelError
from lpir.ir.op import Arg, Case
from lpir.ir.shape import PartialShape
from lpir.ir.types import f16, f32
from lpir.ops.quantization import FakeQuantize, code_grid
from lpir.scalar.evaluate import evaluate
from lpir.scalar.expand import expand
from lpir.scalar.simplify import simplify
from tests.ops.test_conformance import run_openvino
from tests.tolerances import EXACT, F32_ULP, Array, assert_close


def formula(x: Array, il: Array, ih: Array, ol: Array, oh: Array, levels: int = 256) -> Array:
    """The specification, branch by branch, in float32."""
    n = np.float32(levels - 1)
    with np.errstate(all="ignore"):
        ramp = np.rint((x - il) / (ih - il) * n) / n * (oh - ol) + ol
    return np.where(x <= np.minimum(il, ih), ol, np.where(x > np.maximum(il, ih), oh, ramp))


@pytest.mark.parametrize("levels", [2, 16, 255, 256, 1024, 65536])
def test_bit_identical_with_openvino(levels: int) -> None:
    rng = np.random.default_rng(levels)
    limits = [np.sort(rng.normal(0, 2, (2, 8, 1)), axis=0).astype(np.float32) for _ in range(2)]
    x = rng.normal(0, 2, (8, 20_000)).astype(np.float32)
    case = Case(FakeQuantize(levels), (x, *limits[0], *limits[1]))
    assert_close(case.op.eval(*case.inputs)[0], run_openvino(case, set())[0], EXACT)


numbers = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=200, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=20), numbers, numbers, numbers, numbers, st.integers(2, 65536))
def test_is_the_formula(x: list[float], il: float, ih: float, ol: float, oh: float, levels: int) -> None:
    arrays = [np.asarray(v, np.float32) for v in (x, il, ih, ol, oh)]
    (actual,) = FakeQuantize(levels).eval(*arrays)
    assert actual.dtype == np.float32
    assert_close(
        actual, formula(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], levels).astype(np.float32), EXACT
    )


def test_simplified_and_expanded_is_the_same() -> None:
    op = FakeQuantize(256)
    expr = op.expression([f32] * 5)
    for case in op.cases():
        if all(x.ndim <= case.inputs[0].ndim for x in case.inputs):
            assert_close(evaluate(simplify(expand(expr)), case.inputs), evaluate(expr, case.inputs), EXACT)


@pytest.mark.parametrize(("mode", "limit"), [("none", (2, 3, 4)), ("pdpd", (2, 3)), ("pdpd", (2,)), ("numpy", (4,))])
def test_broadcast_modes(mode: str, limit: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (2, 3, 4)).astype(np.float32)
    width = rng.uniform(0.5, 1.5, limit).astype(np.float32)
    (actual,) = FakeQuantize(16, mode).eval(x, -width, width, -width, width)
    # pdpd aligns to the left, the others to the right
    full = width.reshape(limit + (1,) * (3 - len(limit))) if mode == "pdpd" else width
    assert_close(actual, formula(x, -full, full, -full, full, levels=16), EXACT)


@pytest.mark.parametrize(
    ("op", "shape", "limit", "message"),
    [
        (FakeQuantize(256), "2,3", "4", "do not broadcast"),
        (FakeQuantize(256), "1,3", "2,3", "do not broadcast"),
        (FakeQuantize(256), "3", "2,3", "do not broadcast"),
        (FakeQuantize(256, "none"), "2,3", "3", "equal shapes"),
        (FakeQuantize(1), "2,3", "", "at least 2"),
        (FakeQuantize(256, "other"), "2,3", "", "auto_broadcast"),
    ],
)
def test_refuses(op: FakeQuantize, shape: str, limit: str, message: str) -> None:
    args = [Arg(f32, PartialShape.parse(shape)), *[Arg(f32, PartialShape.parse(limit))] * 4]
    with pytest.raises(ModelError, match=message):
        op.infer(args)


def test_refuses_limits_of_another_type() -> None:
    with pytest.raises(ModelError, match="limits must be f32, not f16"):
        FakeQuantize(256).infer([Arg(f32, PartialShape(())), *[Arg(f16, PartialShape(()))] * 4])


def test_code_grid_of_usual_limits() -> None:
    unsigned = code_grid(256, 0, 2.55)
    assert unsigned.zero_point == 0
    assert unsigned.misfit == 0
    symmetric = code_grid(255, np.array([-1.27, -2.54]), np.array([1.27, 2.54]))
    assert symmetric.zero_point.tolist() == [127, 127]
    assert_close(symmetric.scale, np.array([0.01, 0.02]), F32_ULP(1))
    assert symmetric.misfit.max() < 1e-9
    shifted = code_grid(256, -1.004, 1.0119)
    assert shifted.zero_point == 127
    assert 0 < shifted.misfit < 0.5
    assert shifted.is_usable


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1.0, -1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_code_grid_of_useless_limits(low: float, high: float) -> None:
    assert not code_grid(256, low, high).is_usable


@given(st.floats(-100, 0, width=32), st.floats(0.125, 100, width=32), st.integers(2, 256))
def test_code_grid_ends_at_the_limits(low: float, high: float, levels: int) -> None:
    grid = code_grid(levels, low, high)
    exact_zero = -low / float(grid.scale)
    assert abs(float(grid.scale) * (0 - exact_zero) - low) < 1e-6 * (high - low)
    assert abs(float(grid.scale) * (levels - 1 - exact_zero) - high) < 1e-6 * (high - low)
    assert grid.misfit <= 0.5
