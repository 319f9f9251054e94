"""Corners of gathering and scattering that OpenVINO's runtimes do not survive or answer wrongly."""

from __future__ import annotations

import numpy as np
import pytest

from lpir.errors import InputError
from lpir.ops.gathering import Gather, GatherND
from lpir.ops.scattering import ScatterNDUpdate, ScatterUpdate
from tests.tolerances import EXACT, assert_close

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_no_indices_give_an_empty_tensor() -> None:
    (y,) = Gather().eval(X, np.zeros(0, np.int64), np.array(1))
    assert y.shape == (3, 0)


def test_indices_outside_are_refused() -> None:
    with pytest.raises(InputError, match="outside an axis of length 3"):
        Gather().eval(X, np.array([3]), np.array(0))
    with pytest.raises(InputError, match="outside an axis of length 3"):
        Gather().eval(X, np.array([-4]), np.array(0))


def test_positions_without_numbers_take_everything() -> None:
    (y,) = GatherND().eval(X, np.zeros((2, 0), np.int64))
    assert_close(y, np.stack([X, X]), EXACT)
    (z,) = ScatterNDUpdate().eval(X, np.zeros((1, 0), np.int64), -X[None])
    assert_close(z, -X, EXACT)


def test_scatter_update_with_a_matrix_of_indices() -> None:
    updates = np.arange(1, 9, dtype=np.float32).reshape(2, 1, 4)
    (y,) = ScatterUpdate().eval(np.zeros((3, 4), np.float32), np.array([[1], [2]]), updates, np.array(0))
    assert_close(y, np.concatenate([np.zeros((1, 4), np.float32), updates[:, 0]]), EXACT)


def test_the_last_of_equal_indices_counts() -> None:
    (y,) = ScatterUpdate().eval(X, np.array([1, 1]), np.stack([X[0], -X[0]]), np.array(0))
    assert_close(y[1], -X[0], EXACT)
