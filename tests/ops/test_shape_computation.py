"""Shapes that a model computes from its own inputs are known before it runs."""

from __future__ import annotations

import numpy as np
import pytest

from lpir.errors import ModelError
from lpir.ir.graph import known_value
from lpir.ir.types import f32, i64
from lpir.ops.boundary import constant, parameter
from lpir.ops.builder import make
from tests.tolerances import EXACT, assert_close


def test_flatten_by_computed_pattern() -> None:
    """ShapeOf -> Gather -> Concat -> Reshape, the way frontends write `x.view(x.shape[0], -1)`."""
    x = parameter([2, 3, 4], f32).output
    batch = make("Gather", make("ShapeOf", x), constant([0]), constant(0))
    pattern = make("Concat", batch, constant([-1]), axis=0)
    assert make("Reshape", x, pattern, special_zero=False).shape == [2, 12]
    value = known_value(pattern)
    assert value is not None
    assert_close(value, np.array([2, -1]), EXACT)


def test_an_unknown_pattern_still_gives_the_rank() -> None:
    x = parameter([-1, 3, 4], f32).output
    batch = make("Gather", make("ShapeOf", x), constant([0]), constant(0))
    pattern = make("Concat", batch, constant([-1]), axis=0)
    assert make("Reshape", x, pattern, special_zero=False).shape == [-1, -1]


def test_range_and_slice_of_a_shape() -> None:
    x = parameter([5, 7, 9], f32).output
    shape = make("ShapeOf", x)
    last = make("StridedSlice", shape, constant([-1]), constant([0]), begin_mask=(0,), end_mask=(1,))
    length = make("Squeeze", last)
    assert make("Range", constant(0), length, constant(2), output_type=i64).shape == [5]
    swapped = make("Slice", shape, constant([2]), constant([-(2**62)]), constant([-1]))
    assert make("Broadcast", constant(np.float32(1)), swapped).shape == [9, 7, 5]


def test_an_error_in_shape_computation_names_the_node() -> None:
    x = parameter([5, 7], f32).output
    with pytest.raises(ModelError, match="Reshape"):
        make("Reshape", x, make("Tile", make("ShapeOf", x), constant([2])), name="Reshape_7")
