"""Calibration data: any iterable, read once, item by item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np

from lpir.errors import InputError
from lpir.ir.graph import Value
from lpir.ir.model import Model, names_of

Array = np.ndarray[Any, np.dtype[Any]]


class Dataset:
    """`data`: an iterable; `transform` makes a model input of each of its items.

    A model input is an array (for a model with one input), a list or tuple of arrays in the order of the inputs, or a
    dict of input name (or position) -> array.
    """

    def __init__(self, data: Iterable[Any], transform: Callable[[Any], Any] | None = None) -> None:
        if not hasattr(data, "__iter__"):
            raise InputError(f"the dataset is a {type(data).__name__}; give an iterable of model inputs")
        self._data = data
        self._transform = transform

    def __len__(self) -> int:
        """The number of items, or 0 when the iterable does not tell."""
        return len(self._data) if isinstance(self._data, Sized) else 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._data:
            yield item if self._transform is None else self._transform(item)

    def samples(self, model: Model, limit: int) -> Iterator[list[Array]]:
        """At most `limit` items as arrays in the order of the model's inputs, checked.

        Raises InputError with the item's number: wrong names, number, shape or type; NaN or infinity; no item at all.
        """
        index = -1
        for index, item in enumerate(self):
            if index >= limit:
                return
            yield _arrays(item, model, index)
        if index < 0:
            raise InputError("the calibration dataset is empty; a few dozen typical inputs are enough")


def as_dataset(data: Any) -> Dataset:
    """A Dataset from itself or an iterable. Raises InputError for what cannot be iterated, or is a single array."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, np.ndarray | str | bytes | Mapping) or not hasattr(data, "__iter__"):
        raise InputError(f"the dataset is a {type(data).__name__}; give a Dataset or an iterable of model inputs")
    return Dataset(data)


def _arrays(item: Any, model: Model, index: int) -> list[Array]:
    inputs = model.inputs
    if isinstance(item, Mapping):
        given = _by_name(item, inputs, index)
    elif isinstance(item, list | tuple):
        given = list(item)
        if len(given) != len(inputs):
            raise InputError(f"calibration item {index} has {len(given)} arrays; the model has {len(inputs)} inputs")
    elif len(inputs) == 1:
        given = [item]
    else:
        raise InputError(f"calibration item {index} is one array; the model has {len(inputs)} inputs")
    return [_checked(array, value, index) for array, value in zip(given, inputs, strict=True)]


def _by_name(item: Mapping[Any, Any], inputs: list[Value], index: int) -> list[Any]:
    given: list[Any] = []
    used: set[Any] = set()
    for position, value in enumerate(inputs):
        keys = [k for k in (position, value.node.name, *sorted(value.names)) if k in item]
        if not keys:
            known = ", ".join(map(repr, item))
            raise InputError(f"calibration item {index} lacks input '{value.name}' (it has {known})")
        used.add(keys[0])
        given.append(item[keys[0]])
    extra = [repr(k) for k in item if k not in used]
    if extra:
        there = "; ".join(", ".join(sorted(names_of(v))) for v in inputs)
        raise InputError(f"calibration item {index}: no input is called {', '.join(extra)}; the inputs are {there}")
    return given


def _checked(array: Any, value: Value, index: int) -> Array:
    where = f"calibration item {index}, input '{value.name}'"
    try:
        data = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: not an array: {error}") from None
    if data.dtype.kind not in "fiub" and data.dtype.name not in ("bfloat16",):
        raise InputError(f"{where}: {data.dtype} is not a number type")
    if not value.shape.allows(data.shape):
        raise InputError(f"{where}: shape {list(data.shape)} does not fit {value.shape}")
    wanted = value.element_type.dtype
    if data.dtype.kind == "f" and not value.element_type.is_float:
        raise InputError(f"{where}: {data.dtype} values for an input of type {value.element_type}")
    with np.errstate(over="ignore"):
        narrow = data.astype(np.float32)
    bad = ~np.isfinite(narrow) if value.element_type.is_float else np.zeros(1, bool)
    if bad.any():
        first = ", ".join(str(int(i)) for i in np.argwhere(bad)[0])
        raise InputError(f"{where}: {int(bad.sum())} values are NaN or infinite, the first at [{first}]")
    return np.ascontiguousarray(data.astype(wanted, copy=False))
