"""Operations that move elements do so for every type; those that compare or sum give what float32 gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lpir.ops  # noqa: F401
from lpir.ir.op import REGISTRY, Case
from lpir.ir.types import BY_NAME, ElementType
from lpir.ops.scattering import ScatterNDUpdate
from tests.tolerances import EXACT, assert_close

MOVING = (
    *("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Broadcast", "Tile", "Slice", "StridedSlice", "Split"),
    *("VariadicSplit", "Gather", "GatherElements", "GatherND", "ScatterUpdate", "Pad", "DepthToSpace", "SpaceToDepth"),
    *("ShuffleChannels", "Roll", "BatchToSpace", "SpaceToBatch", "ReverseSequence", "TopK", "MaxPool"),
)
TYPES = ("u8", "i8", "i32", "i64", "f16", "bf16", "f64", "boolean", "i4", "u4")
# booleans have no largest element worth asking for, and NumPy does not sort 4-bit integers
NOT_ORDERED = {"boolean", "i4", "u4"}
CASES = [
    pytest.param(c, id=f"{n}-{c.name}") for n in MOVING for c in REGISTRY[n].cases() if c.inputs[0].dtype == np.float32
]


def converted(x: np.ndarray[Any, np.dtype[Any]], of: ElementType) -> np.ndarray[Any, np.dtype[Any]]:
    """Values that every type holds exactly."""
    whole = np.abs(x).astype(np.int64) % (2 if of.name == "boolean" else 7)
    result: np.ndarray[Any, np.dtype[Any]] = whole.astype(of.dtype)
    return result


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_every_type_moves_as_int32_does(case: Case, type_name: str) -> None:
    unordered = type_name in NOT_ORDERED and case.op.type_name in ("TopK", "MaxPool")
    # a window without data shows the type's own smallest value
    if unordered or case.name == "ceil_without_data":
        return
    target = BY_NAME[type_name]
    data = [i for i, x in enumerate(case.inputs) if x.dtype == case.inputs[0].dtype]
    small = [converted(x, target) if i in data else x for i, x in enumerate(case.inputs)]
    same = [x.astype(np.int32) if i in data else x for i, x in enumerate(small)]
    for actual, expected in zip(case.op.eval(*small), case.op.eval(*same), strict=True):
        moved = expected if expected.dtype != np.int32 or actual.dtype == np.int32 else expected.astype(target.dtype)
        assert actual.dtype == moved.dtype
        assert_close(actual.astype(np.int64), moved.astype(np.int64), EXACT)


@pytest.mark.parametrize("type_name", ["f16", "bf16", "f64"])
@pytest.mark.parametrize(
    "name", ["MatMul", "Convolution", "ConvolutionBackpropData", "AvgPool", "Interpolate", "CumSum"]
)
def test_other_floats_compute(name: str, type_name: str) -> None:
    target = BY_NAME[type_name].dtype
    for case in REGISTRY[name].cases():
        scales = name == "Interpolate"
        inputs = [x if x.dtype != np.float32 or (i and scales) else x.astype(target) for i, x in enumerate(case.inputs)]
        for actual, expected in zip(case.op.eval(*inputs), case.op.eval(*case.inputs), strict=True):
            assert actual.dtype == target or expected.dtype != np.float32
            # inputs rounded to 8 bits move a sum of about 100 terms by less than this
            assert np.abs(actual.astype(np.float64) - expected).max() < 0.2 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("reduction", ["sum", "sub", "prod", "min", "max"])
@pytest.mark.parametrize("type_name", ["f16", "bf16", "f64", "i8", "u8", "i64"])
def test_scatter_reductions(reduction: str, type_name: str) -> None:
    target = BY_NAME[type_name].dtype
    x, updates = np.array([4, 5, 6]).astype(target), np.array([2, 3, 7]).astype(target)
    (y,) = ScatterNDUpdate(reduction).eval(x, np.array([[0], [1], [2]]), updates)
    expected = {"sum": [6, 8, 13], "sub": [2, 2, -1], "prod": [8, 15, 42], "min": [2, 3, 6], "max": [4, 5, 7]}[
        reduction
    ]
    assert_close(y, np.array(expected).astype(target), EXACT)
