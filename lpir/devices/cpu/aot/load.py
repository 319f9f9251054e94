"""Libraries of `build.py` in Python: loaded by the system, run by the thread pool, without LLVM."""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lpir.devices.cpu.aot import seal
from lpir.devices.cpu.aot.interface import FUNCTIONS, MODEL, REQUEST
from lpir.devices.cpu.codegen.executor import SYMBOLS
from lpir.devices.cpu.inputs import Input
from lpir.devices.cpu.threads import ThreadPool, pool_for, threads_and_streams, use_executor
from lpir.errors import FileError, UnsupportedError
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ir.types import BY_NAME
from lpir.runtime.device import Executable, Runner
from lpir.runtime.explain import Explanation, Row
from lpir.runtime.ports import PortFacts, model_of_ports
from lpir.runtime.profile import ProfilingInfo

# C type of each function's result and arguments
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "supported": (ctypes.c_int,),
    "create": (_POINTER, _INT),
    "destroy": (None, _POINTER),
    "input_data": (_POINTER, _POINTER, _INT),
    "output_data": (_POINTER, _POINTER, _INT),
}


class Library:
    """A loaded library. It is never unloaded: threads may be in its code until the process ends.

    Raises FileError when it is damaged or of another format, UnsupportedError when this processor cannot run it.
    """

    def __init__(self, source: bytes | Path, key: bytes | None = None) -> None:
        if not sys.platform.startswith("linux"):
            raise UnsupportedError("compiled models are only loaded on Linux")
        path = _checked_path(source, key)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise FileError(f"the compiled model cannot be loaded: {error}") from error
        words = (ctypes.c_uint64 * len(MODEL)).in_dll(library, "lpir_model")
        self.facts = dict(zip(MODEL, words, strict=True))
        self.info: dict[str, Any] = json.loads(ctypes.string_at(self.facts["info"], self.facts["info_bytes"]))
        self.functions = {name: library[FUNCTIONS[name]] for name in _SIGNATURES}
        for name, (result, *arguments) in _SIGNATURES.items():
            self.functions[name].restype, self.functions[name].argtypes = result, arguments
        if not self.functions["supported"]():
            raise UnsupportedError(f"this processor cannot run the compiled model: it was made for {self.info['isa']}")
        self._library = library
        use_executor({s: ctypes.cast(library[f"lpir_pool_{s}"], _POINTER).value or 0 for s in SYMBOLS})


def _checked_path(source: bytes | Path, key: bytes | None) -> Path:
    """The path of a file whose seal holds."""
    if isinstance(source, bytes):
        seal.check(source, key)
        return _in_memory(source)
    try:
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            try:
                seal.check(view, key)
            finally:
                view.release()
    except (OSError, ValueError) as error:
        raise FileError(f"{source}: {error}") from error
    except FileError as error:
        raise FileError(f"{source}: {error}") from None
    return source.absolute()


def _in_memory(data: bytes) -> Path:
    """A file without a name. Its number stays taken, because the loader knows libraries by their path."""
    number = os.memfd_create("lpir-model")
    with os.fdopen(os.dup(number), "wb") as file:
        file.write(data)
    return Path(f"/proc/{os.getpid()}/fd/{number}")


class LibraryExecutable(Executable):
    """A compiled model that came as a library."""

    def __init__(self, library: Library, config: Mapping[str, Any]) -> None:
        self.library = library
        info = library.info
        threads, self.streams = threads_and_streams(config)
        self.threads = min(int(info["threads"]), threads)
        self._runners = 0

    def create_runner(self) -> Runner:
        self._runners += 1
        return LibraryRunner(self.library, self.threads, self._runners % self.streams)

    def model(self) -> Model:
        """A model of nothing but inputs and outputs."""
        info = self.library.info
        return model_of_ports(info["name"], *([_port_facts(p) for p in info[w]] for w in ("inputs", "outputs")))

    def explain(self) -> Explanation:
        found = self.library.info["explain"]
        rows = tuple(Row(**{**row, "reasons": tuple(row["reasons"])}) for row in found["rows"])
        return Explanation(found["device"], rows)

    def runtime_model(self) -> Model | None:
        raise UnsupportedError("a compiled model that was loaded has no graph; compile the model without CACHE_DIR")

    def properties(self) -> dict[str, Any]:
        return {
            "ISA": self.library.info["isa"],
            "INFERENCE_NUM_THREADS": self.threads * self.streams,
            "NUM_STREAMS": self.streams,
            "OPTIMAL_NUMBER_OF_INFER_REQUESTS": self.streams,
            "PLANS": 1,
            "COMPILED_KERNELS": 0,
            "LOADED_FROM_CACHE": True,
        }


def _port_facts(port: Mapping[str, Any]) -> PortFacts:
    return PortFacts(port["node"], frozenset(port["names"]), BY_NAME[port["type"]], tuple(port["shape"]))


class LibraryRunner(Runner):
    """One request of the library."""

    def __init__(self, library: Library, threads: int, stream: int) -> None:
        self.library, self.threads, self.stream = library, threads, stream
        call = library.functions
        request = call["create"](1)
        if not request:
            raise MemoryError("for the tensors of a compiled model")
        # at the end of the process a thread may still look at it
        weakref.finalize(self, call["destroy"], request).atexit = False
        self.own_pool = ThreadPool(1) if threads == 1 else None
        words = dict(zip(REQUEST, (ctypes.c_uint64 * len(REQUEST)).from_address(request), strict=True))
        self.steps, self.count, self.arena = words["steps"], words["steps_count"], words["arena"]
        ports = library.info["inputs"]
        views, self.outputs = (
            [_view(call[f"{w}_data"](request, i), p) for i, p in enumerate(library.info[f"{w}s"])]
            for w in ("input", "output")
        )
        self.inputs = [self._place(view, port) for view, port in zip(views, ports, strict=True)]

    def _place(self, view: Array, port: Mapping[str, Any]) -> Input:
        """An input, with the parameter words that point to it; those of the first step are the first of all."""
        first = ctypes.c_uint64.from_address(self.steps + 8).value if self.count else 0
        words = _view(first, {"type": "u64", "shape": (int(self.library.facts["words_count"]),)})
        return Input(view, [(words, port["pointers"])] if port["pointers"] else [])

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        for place, array in zip(self.inputs, inputs, strict=True):
            place.put(array)
        pool = self.own_pool or pool_for(self.threads, self.stream)
        pool.run(self.steps, self.count)
        return [view.copy() for view in self.outputs]

    def forget(self) -> None:
        for place in self.inputs:
            place.reset()

    def profiling_info(self) -> list[ProfilingInfo]:
        info = self.library.info
        if info["profile"] is None:
            return []
        # models that nobody measures start without this
        from lpir.devices.cpu.profile import Layer, intervals, profile

        layers = [Layer.read(facts) for facts in info["profile"]["layers"]]
        stamps = _view(self.arena + info["profile"]["offset"], {"shape": (len(layers) + 1, 2), "type": "i64"})
        return profile(layers, intervals(stamps), info["constants"], info["isa"], self.threads)


def _view(address: int, port: Mapping[str, Any]) -> Array:
    """A tensor's memory as an array, which does not keep it alive."""
    dtype = BY_NAME[port["type"]].dtype
    size = math.prod(port["shape"]) * dtype.itemsize
    if not size:
        return np.zeros(port["shape"], dtype)
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(port["shape"])
