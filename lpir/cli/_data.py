"""Model inputs from files on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lpir.errors import FileError, InputError
from lpir.ir.graph import Value
from lpir.ir.model import Model

ARRAYS = {".npy", ".npz"}
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}

Array = np.ndarray[Any, np.dtype[Any]]


def read_array(path: Path) -> Array | dict[str, Array]:
    """A `.npy` array or the arrays of an `.npz`, never pickled objects. Raises FileError."""
    if not path.is_file():
        raise FileError(f"{path}: there is no such file" if not path.exists() else f"{path}: not a file")
    if path.suffix.lower() not in ARRAYS:
        known = ", ".join(sorted({*ARRAYS, *PICTURES}))
        raise FileError(f"{path}: unknown type of data {path.suffix or '(no extension)'!r}; lpir reads {known}")
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if hasattr(loaded, "files") else loaded
    except Exception as error:
        # a damaged file raises a dozen kinds: of zip, of zlib, of the header's parser, of memory
        raise FileError(f"{path}: cannot be read as NumPy data: {error}") from error


def inputs_of(model: Model, texts: list[str], seed: int | None) -> dict[str | int, Array]:
    """Inputs from `NAME=FILE` or `FILE` texts (the next input in order); with a `seed`, random ones for the rest.

    Raises InputError, FileError.
    """
    given: dict[str | int, Array] = {}
    unnamed = 0
    for text in texts:
        name, _, file = ("", "", text) if Path(text).exists() else text.rpartition("=")
        path = Path(file)
        picture = path.suffix.lower() in PICTURES
        loaded = None if picture else read_array(path)
        if isinstance(loaded, dict):
            _add(given, loaded, path)
            continue
        key: str | int = name or unnamed
        unnamed += not name
        if isinstance(key, int) and key >= len(model.inputs):
            raise InputError(f"{path}: the model has only {len(model.inputs)} inputs")
        found = picture_for(model.input(key), path) if loaded is None else loaded
        _add(given, {key: found}, path)
    if seed is not None:
        given = {**random_inputs(model, seed, set(_positions(model, given))), **given}
    return given


def _add(given: dict[str | int, Array], more: Mapping[Any, Array], path: Path) -> None:
    """Raises InputError for an input that was given before."""
    for key, array in more.items():
        if key in given:
            raise InputError(f"{path}: input {key!r} is given twice")
        given[key] = array


def _positions(model: Model, given: dict[str | int, Array]) -> Iterator[int]:
    for key in given:
        yield model.inputs.index(model.input(key))


def random_inputs(model: Model, seed: int, given: set[int]) -> dict[str | int, Array]:
    """Random values for all inputs but those at the positions `given`; an unknown dimension is 1."""
    rng = np.random.default_rng(seed)
    made: dict[str | int, Array] = {}
    for index, value in enumerate(model.inputs):
        if index in given:
            continue
        shape = tuple(d.lo if d.is_static else max(d.lo, 1) for d in value.shape.known())
        kind = value.element_type
        if kind.is_float:
            made[index] = rng.standard_normal(shape).astype(kind.dtype)
        else:
            made[index] = rng.integers(0, 2, shape).astype(kind.dtype)
    return made


def picture_for(value: Value, path: Path) -> Array:
    """A picture as [1, 3, S, S] float32 with ImageNet's mean and deviation. Raises FileError, InputError."""
    from lpir.demo.photos import read_image

    shape = value.shape
    square = shape.rank == 4 and shape[1].allows(3) and shape[2].is_static and shape[2] == shape[3]
    if not square or not value.element_type.is_float:
        raise InputError(
            f"{path}: a picture fits a float input [N, 3, S, S], not '{value.name}' {value.element_type}{shape}; "
            "give an array (.npy), or the input a shape"
        )
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    return read_image(path, shape[2].length)


def calibration(model: Model, sources: list[Path]) -> list[Any]:
    """Calibration items: `.npz` and `.npy` files, pictures, and folders of them, in the order of their names.

    An array with one more leading item than the model's input is a stack of items. Raises FileError, InputError.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += sorted(p for p in source.iterdir() if p.suffix.lower() in {*ARRAYS, *PICTURES})
        else:
            files.append(source)
    items: list[Any] = []
    for path in files:
        items += [picture_for(model.inputs[0], path)] if path.suffix.lower() in PICTURES else _items(model, path)
    if not items:
        raise InputError(f"--data: no .npy, .npz or picture in {', '.join(map(str, sources))}")
    return items


def _items(model: Model, path: Path) -> list[Any]:
    loaded = read_array(path)
    if isinstance(loaded, dict):
        return [loaded]
    rank = model.inputs[0].shape.rank
    if rank is not None and loaded.ndim == rank + 1:
        return list(loaded)
    batch = model.inputs[0].shape[0] if rank else None
    if rank and loaded.ndim == rank and batch is not None and batch.is_static and len(loaded) > batch.length:
        return [loaded[i : i + batch.length] for i in range(0, len(loaded) - batch.length + 1, batch.length)]
    return [loaded]
