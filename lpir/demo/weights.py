"""Reads PyTorch checkpoints (`.pth`) with NumPy alone, and runs no code that a file asks for.

Both containers: the old one (a row of pickles, then raw storages) and the zip of PyTorch 1.6 and later. Only the few
names that a plain dict of tensors needs are known to the unpickler; any other is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lpir.errors import FileError
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_PROTOCOL = 1001
# far beyond any pickle of names and shapes; the tensors themselves lie outside the pickles
LARGEST_PICKLE = 64 << 20

STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@record
class _StorageType:
    dtype: np.dtype[Any]


@record
class _Storage:
    key: str
    dtype: np.dtype[Any]
    count: int


@record
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def load_state_dict(path: str | Path) -> dict[str, Array]:
    """Tensor name -> array of a checkpoint that holds a dict of tensors (nested dicts are joined with dots).

    Raises FileError for a file that is damaged, is no checkpoint, or asks for anything but tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _load_zip(file) if zipfile.is_zipfile(file) else _load_old(file)
    except FileError as error:
        raise FileError(f"{path}: {error}") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # an unpickler fed with garbage raises nearly anything: IndexError, KeyError, UnicodeDecodeError, ...
        what = f"{type(error).__name__}: {error}"
        raise FileError(f"{path}: not a PyTorch checkpoint, or a damaged one ({what})") from error


def _load_old(file: BinaryIO) -> dict[str, Array]:
    file.seek(0)
    # from memory: there, a length in the file that is too large reads what is left and allocates nothing
    file = io.BytesIO(file.read())
    if file.read(1) != b"\x80":
        raise FileError("not a PyTorch checkpoint (neither a zip nor a pickle)")
    file.seek(0)
    if _unpickle(file) != OLD_MAGIC or _unpickle(file) != OLD_PROTOCOL:
        raise FileError("not a PyTorch checkpoint (the magic number is missing)")
    system = _unpickle(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FileError("the checkpoint was written by a big-endian machine")
    storages: dict[str, _Storage] = {}
    tree = _unpickle(file, storages)
    data: dict[str, Array] = {}
    for key in _unpickle(file):
        storage = storages.get(key)
        if storage is None:
            raise FileError(f"storage {key!r} belongs to no tensor")
        count = int.from_bytes(_exactly(file, 8), "little", signed=True)
        if count != storage.count:
            raise FileError(f"storage {key!r} has {count} elements, its tensors say {storage.count}")
        data[key] = np.frombuffer(_exactly(file, count * storage.dtype.itemsize), storage.dtype)
    return _resolve(tree, lambda storage: data[storage.key])


def _load_zip(file: BinaryIO) -> dict[str, Array]:
    with zipfile.ZipFile(file) as archive:
        pickles = [i for i in archive.infolist() if i.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise FileError("the zip has no data.pkl: not a PyTorch checkpoint")
        if pickles[0].file_size > LARGEST_PICKLE:
            raise FileError(f"data.pkl of {pickles[0].file_size} bytes is too large for names and shapes")
        root = pickles[0].filename.removesuffix("data.pkl")
        names = set(archive.namelist())
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise FileError(f"byte order {order[:16]!r} is not supported")
        tree = _unpickle(io.BytesIO(archive.read(pickles[0])), {})

        def data_of(storage: _Storage) -> Array:
            info = archive.getinfo(f"{root}data/{storage.key}")
            if info.file_size != storage.count * storage.dtype.itemsize:
                raise FileError(f"storage {storage.key!r} has {info.file_size} bytes, not {storage.count} elements")
            return np.frombuffer(archive.read(info), storage.dtype)

        return _resolve(tree, data_of)


class _Unpickler(pickle._Unpickler):
    """Knows tensors and dicts only. The Python one: its memo is a dict, so no number in a file allocates memory."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in STORAGES:
            return _StorageType(STORAGES[name])
        raise FileError(f"refused: the file asks for {module}.{name}; only tensors and dicts are read")

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
            raise FileError("refused: the file refers to something that is no tensor storage")
        if len(pid) > 5 and pid[5] is not None:
            raise FileError("views of storages are not supported; save the checkpoint again with a newer PyTorch")
        storage = _Storage(str(pid[2]), pid[1].dtype, int(pid[4]))
        if storage.count < 0 or self._storages.setdefault(storage.key, storage) != storage:
            raise FileError(f"storage {storage.key!r} is described in two ways")
        return storage


def _unpickle(file: BinaryIO, storages: dict[str, _Storage] | None = None) -> Any:
    return _Unpickler(file, {} if storages is None else storages).load()


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Tensor:
    """What torch._utils._rebuild_tensor_v2 stands for: a strided view of a storage, checked."""
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise FileError("a tensor's description is damaged")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 32 or any(type(n) is not int or n < 0 for n in numbers):
        raise FileError("a tensor's description is damaged")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.count:
        raise FileError(f"a tensor of shape {list(size)} reaches outside its storage of {storage.count} elements")
    if math.prod(size) > storage.count:
        raise FileError(f"a tensor of shape {list(size)} is larger than its storage of {storage.count} elements")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _resolve(tree: Any, data_of: Callable[[_Storage], Array]) -> dict[str, Array]:
    """Every tensor of nested dicts, by dotted name; numbers and texts among them are left out."""
    if not isinstance(tree, Mapping):
        raise FileError(f"the checkpoint holds a {type(tree).__name__}, not a dict of tensors")
    found: dict[str, Array] = {}
    stack: list[tuple[str, Mapping[Any, Any], int]] = [("", tree, 0)]
    cache: dict[str, Array] = {}
    while stack:
        prefix, level, depth = stack.pop()
        for key, value in level.items():
            name = f"{prefix}{key}"
            if isinstance(value, _Tensor):
                data = cache.setdefault(value.storage.key, data_of(value.storage))
                found[name] = _view(value, data)
            elif isinstance(value, Mapping) and depth < 8:
                stack.append((f"{name}.", value, depth + 1))
    if not found:
        raise FileError("the checkpoint holds no tensors")
    return found


def _view(tensor: _Tensor, data: Array) -> Array:
    strides = tuple(s * data.itemsize for s in tensor.stride)
    view = np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.size, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(tensor.size)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count) if count >= 0 else b""
    if len(data) != count:
        raise FileError(f"the file ends early: {count} bytes expected, {len(data)} there")
    return data
