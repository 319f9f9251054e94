"""Compiled models that outlive a process: `CACHE_DIR`.

A file's name is a digest of what the model says (its file, or the graph with its constants) and of what the device says
(instruction set, threads, ...). Files are written under another name and then renamed, so that processes may share the
folder; one that is damaged, or was made by other versions, is compiled again and replaced. The files are code: the
folder must be one that only trusted users can write.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np

from lpir.errors import FileError, LpirError, UnsupportedError
from lpir.ir.model import Model
from lpir.runtime.device import Device, Executable
from lpir.runtime.ports import ends_of


def file_digest(path: Path) -> bytes | None:
    """A digest of a model in a file (of an .xml with its .bin); None when the file alone does not say everything."""
    suffix = path.suffix.lower()
    if suffix not in (".xml", ".onnx") or not path.is_file():
        return None
    digest = hashlib.sha256(suffix.encode())
    try:
        for part in (path, path.with_suffix(".bin")) if suffix == ".xml" else (path,):
            content = part.read_bytes() if part.exists() else b""
            # the key under which ONNX names a file with weights
            if suffix == ".onnx" and b"location" in content:
                return None
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    except OSError as error:
        raise FileError(f"{path}: {error}") from error
    return digest.digest()


def model_digest(model: Model) -> bytes:
    """A digest of a graph: operations, attributes, connections, names, constants."""
    digest = hashlib.sha256(b"graph")
    order = model.nodes()
    index = {id(node): i for i, node in enumerate(order)}
    for node in order:
        given = node.op.attributes()
        attributes = {k: v for k, v in given.items() if not isinstance(v, np.ndarray | Model)}
        arrays = [v for v in given.values() if isinstance(v, np.ndarray)]
        bodies = [model_digest(v) for v in given.values() if isinstance(v, Model)]
        inputs = [(index[id(v.node)], v.index) for v in node.inputs]
        names = [sorted(v.names) for v in node.outputs]
        types = [str(v.type) for v in node.outputs]
        row = (node.op.type_name, attributes, inputs, node.name, names, types, node.rt_info, bodies)
        digest.update(repr(row).encode())
        for array in arrays:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    ends = [[index[id(n)] for n in nodes] for nodes in (model.parameters, model.results, model.sinks)]
    digest.update(repr((ends, model.name)).encode())
    return digest.digest()


class Entry:
    """The place of one compiled model in the cache."""

    def __init__(self, folder: Path, device: Device, config: Mapping[str, Any], content: bytes) -> None:
        self.device, self.config = device, config
        self.key = hashlib.sha256(content + f"{device.name} {device.cache_key(config)}".encode()).digest()
        self.path = folder / f"{self.key.hex()[:40]}.so"

    def load(self) -> tuple[Executable, Model] | None:
        """What lies there, or None when it is not there, damaged, of other versions, or does not run here."""
        if not self.path.is_file():
            return None
        try:
            return self.device.import_model(self.path, self.config, self.key)
        except LpirError:
            return None

    def store(self, executable: Executable) -> None:
        """Puts an executable there, if it has a form that can be kept; a folder that refuses it causes a warning."""
        try:
            write_file(self.path, self.device.reseal(executable.export_model(), self.key))
        except UnsupportedError:
            return
        except FileError as error:
            warnings.warn(f"CACHE_DIR: {error}", RuntimeWarning, stacklevel=2)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file that is there as a whole or not at all; its folder is made. Raises FileError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error


def compile_or_load(
    device: Device, source: Model | Path, read: Callable[[Path], Model], config: Mapping[str, Any]
) -> tuple[Executable, Model, Model]:
    """An executable, the ends of its model, and the model that the user holds; `config` is checked and complete.

    A file whose compiled form lies in the cache is not read.
    """
    entry = None
    if config.get("CACHE_DIR") and device.cache_key(config) is not None:
        content = model_digest(source) if isinstance(source, Model) else file_digest(source)
        if content is None:
            source = read(Path(str(source)))
            content = model_digest(source)
        entry = Entry(Path(config["CACHE_DIR"]), device, config, content)
        found = entry.load()
        if found is not None:
            executable, stub = found
            return executable, *((ends_of(source), source) if isinstance(source, Model) else (stub, stub))
    model = source if isinstance(source, Model) else read(source)
    executable = device.compile(model, config)
    if entry is not None:
        entry.store(executable)
    return executable, ends_of(model), model
