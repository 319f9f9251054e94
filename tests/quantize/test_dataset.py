"""Calibration items: forms that are taken, and errors that name the item and the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lpir.errors import InputError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.types import f32, i64
from lpir.ops.boundary import Result, parameter
from lpir.ops.builder import make
from lpir.quantize.dataset import Dataset, as_dataset


def two_inputs() -> Model:
    a, b = parameter((1, 2), f32, "a"), parameter((1, "?"), i64, "b")
    b.output.names.add("tokens")
    converted = make("Convert", b.output, name="c", destination_type=f32)
    return Model([Node(Result(), [v], f"r{i}") for i, v in enumerate((a.output, converted))], [a, b])


A, B = np.ones((1, 2), np.float32), np.zeros((1, 3), np.int64)


def read(*items: Any, limit: int = 10) -> list[list[Any]]:
    return list(Dataset(items).samples(two_inputs(), limit))


@pytest.mark.parametrize(
    "item", [(A, B), [A, B], {"a": A, "b": B}, {0: A, "tokens": B}, (A.tolist(), B.tolist())], ids=str
)
def test_forms_of_an_item(item: Any) -> None:
    (first,) = read(item)
    assert np.array_equal(first[0], A)
    assert np.array_equal(first[1], B)
    assert first[0].dtype == np.float32
    assert first[1].dtype == np.int64


def test_transform_and_limit_read_no_more_than_needed() -> None:
    seen: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(100):
            seen.append(i)
            yield i

    data = Dataset(numbers(), lambda i: (A * i, B))
    assert [float(s[0][0, 0]) for s in data.samples(two_inputs(), 3)] == [0, 1, 2]
    assert len(seen) <= 4
    assert len(data) == 0
    assert len(Dataset([1, 2])) == 2


BAD = [
    ((A,), "item 1 has 1 arrays; the model has 2 inputs"),
    (A, "item 1 is one array; the model has 2 inputs"),
    ({"a": A}, "item 1 lacks input 'b'"),
    ({"a": A, "b": B, "z": A}, "no input is called 'z'"),
    ((np.ones((2, 2), np.float32), B), r"item 1, input 'a': shape \[2, 2\] does not fit \[1,2\]"),
    ((A, B.astype(np.float32)), "input 'b': float32 values for an input of type i64"),
    ((A * np.nan, B), "item 1, input 'a': 2 values are NaN or infinite, the first at"),
    ((np.array([[1, np.inf]], np.float32), B), r"1 values are NaN or infinite, the first at \[0, 1\]"),
    ((np.array([["x", "y"]]), B), "is not a number type"),
    (([[1], [2, 3]], B), "not an array"),
]


@pytest.mark.parametrize(("item", "message"), BAD, ids=[m for _, m in BAD])
def test_what_does_not_fit_is_named(item: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read((A, B), item)


def test_an_empty_dataset_is_an_error() -> None:
    with pytest.raises(InputError, match="empty"):
        read()


@pytest.mark.parametrize("data", [A, 5, "text", {"a": A}])
def test_what_is_no_dataset(data: Any) -> None:
    with pytest.raises(InputError, match="give a Dataset or an iterable"):
        as_dataset(data)
