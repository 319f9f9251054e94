"""PyTorch checkpoints without PyTorch: both containers, and files that want more than tensors."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.demo import mobilenet
from lpir.demo.weights import OLD_MAGIC, OLD_PROTOCOL, load_state_dict
from lpir.errors import FileError

Array = np.ndarray[Any, np.dtype[Any]]
DATA = np.arange(12, dtype=np.float32)


class Global:
    """Stands for `module.name`, which is written by name and never imported."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __reduce__(self) -> str:
        return self.name


class Call:
    """An object that unpickles as `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Stored:
    """A tensor storage, referred to by key."""

    def __init__(self, key: str, kind: str = "FloatStorage", count: int = DATA.size, tag: str = "storage") -> None:
        self.parts = (tag, Global("torch", kind), key, "cpu", count)


class Writer(pickle._Pickler):
    """Writes globals by name without importing them, and storages as persistent ids, as PyTorch does."""

    def persistent_id(self, item: Any) -> Any:
        return item.parts if isinstance(item, Stored) else None

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save_global(obj, name)

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.save_global(obj)
        elif isinstance(obj, Call):
            self.save_reduce(obj.function, obj.arguments, obj=obj)
        else:
            super().save(obj, save_persistent_id)

    def save_reduce(self, func: Any, args: Any, *rest: Any, **named: Any) -> None:
        if isinstance(func, Global):
            self.save_global(func)
            self.save(args)
            self.write(pickle.REDUCE)
        else:
            super().save_reduce(func, args, *rest, **named)


def dump(value: Any) -> bytes:
    file = io.BytesIO()
    Writer(file, 2).dump(value)
    return file.getvalue()


def tensor(storage: Any, size: Any, stride: Any, offset: Any = 0) -> Call:
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, OrderedDict())


def old_file(tree: Any, storages: dict[str, Array], magic: int = OLD_MAGIC) -> bytes:
    head = b"".join(dump(v) for v in (magic, OLD_PROTOCOL, {"little_endian": True}, tree, list(storages)))
    return head + b"".join(struct.pack("<q", a.size) + a.tobytes() for a in storages.values())


def zip_file(tree: Any, storages: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", dump(tree))
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data.tobytes())
    return file.getvalue()


def load(data: bytes, folder: Path) -> dict[str, Array]:
    path = folder / "file.pth"
    path.write_bytes(data)
    return load_state_dict(path)


@pytest.mark.parametrize("container", [old_file, zip_file])
def test_both_containers(container: Any, tmp_path: Path) -> None:
    half = np.arange(4, dtype=np.float16)
    tree = OrderedDict(
        weight=tensor(Stored("0"), (3, 4), (4, 1)),
        turned=tensor(Stored("0"), (4, 3), (1, 4)),
        part=Call(
            Global("torch._utils", "_rebuild_parameter"), tensor(Stored("0"), (2,), (1,), 5), True, OrderedDict()
        ),
        nested={"scalar": tensor(Stored("1", "HalfStorage", 4), (), (), 2), "epoch": 3},
        empty=tensor(Stored("0"), (0, 4), (4, 1)),
    )
    found = load(container(tree, {"0": DATA, "1": half}), tmp_path)
    assert np.array_equal(found["weight"], DATA.reshape(3, 4))
    assert np.array_equal(found["turned"], DATA.reshape(3, 4).T)
    assert found["part"].tolist() == [5, 6]
    assert found["nested.scalar"].dtype == np.float16
    assert float(found["nested.scalar"]) == 2
    assert found["empty"].shape == (0, 4)
    assert set(found) == {"weight", "turned", "part", "nested.scalar", "empty"}


HOSTILE = [
    (Call(Global("os", "system"), "touch hacked"), "asks for os.system"),
    (Call(Global("builtins", "eval"), "1"), "asks for builtins.eval"),
    (Call(Global("builtins", "getattr"), 1, "real"), "asks for builtins.getattr"),
    (Call(Global("torch", "load"), "x"), "asks for torch.load"),
    (Call(Global("lpir.demo.weights", "load_state_dict"), "x"), "asks for lpir.demo.weights"),
    ({"w": tensor(Stored("0"), (13,), (1,))}, "outside its storage"),
    ({"w": tensor(Stored("0"), (2,), (12,))}, "outside its storage"),
    ({"w": tensor(Stored("0"), (4,), (1,), 9)}, "outside its storage"),
    ({"w": tensor(Stored("0"), (1 << 40,), (0,))}, "larger than its storage"),
    ({"w": tensor(Stored("0"), (2,), (-1,), 5)}, "damaged"),
    ({"w": tensor(Stored("0"), (2,), (1,), -1)}, "damaged"),
    ({"w": tensor(Stored("0"), (2.0,), (1,))}, "damaged"),
    ({"w": tensor(Stored("0"), (2, 2), (1,))}, "damaged"),
    ({"w": tensor("0", (2,), (1,))}, "damaged"),
    ({"w": tensor(Stored("0", tag="code"), (2,), (1,))}, "no tensor storage"),
    ({"a": tensor(Stored("0"), (1,), (1,)), "b": tensor(Stored("0", "LongStorage"), (1,), (1,))}, "two ways"),
    ({"a": 1}, "holds no tensors|belongs to no tensor"),
    ([1, 2], "holds a list|belongs to no tensor"),
]


@pytest.mark.parametrize("container", [old_file, zip_file])
@pytest.mark.parametrize(("tree", "message"), HOSTILE, ids=[m for _, m in HOSTILE])
def test_files_that_want_more_are_refused(
    tree: Any, message: str, container: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=message):
        load(container(tree, {"0": DATA}), tmp_path)
    assert os.listdir(tmp_path) == ["file.pth"]


def test_damaged_files(tmp_path: Path) -> None:
    good = old_file({"w": tensor(Stored("0"), (12,), (1,))}, {"0": DATA})
    for data, message in (
        (b"", "not a PyTorch checkpoint"),
        (b"hello", "neither a zip nor a pickle"),
        (old_file({}, {}, magic=1), "magic number"),
        (good[:-5], "ends early"),
        (good[:60], "damaged"),
        (good.replace(struct.pack("<q", 12), struct.pack("<q", 1 << 60)), "its tensors say 12"),
    ):
        with pytest.raises(FileError, match=message):
            load(data, tmp_path)
    with pytest.raises(FileError, match="cannot be read"):
        load_state_dict(tmp_path / "missing.pth")
    short = zip_file({"w": tensor(Stored("0"), (12,), (1,))}, {"0": DATA[:3]})
    with pytest.raises(FileError, match="has 12 bytes"):
        load(short, tmp_path)
    with pytest.raises(FileError, match="damaged"):
        load(zip_file({"w": tensor(Stored("9"), (12,), (1,))}, {"0": DATA}), tmp_path)


@settings(max_examples=200)
@given(st.data())
def test_any_damage_is_a_file_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    good = old_file({"w": tensor(Stored("0"), (3, 4), (4, 1))}, {"0": DATA})
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp()
    with contextlib.suppress(FileError):
        load(bytes(damaged), folder)


def test_the_real_checkpoint() -> None:
    state = load_state_dict(mobilenet.weights_file())
    assert len(state) == 314
    assert state["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert state["classifier.1.weight"].shape == (1000, 1280)
