"""The only door to LLVM: functions of the C library that llvmlite brings.

llvmlite's own Python classes are not imported: that takes 15 ms, and they hold one lock around every call. A call here
lets go of the interpreter's lock as well, so that several threads may compile, each with a context and a machine of its
own.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

from lpir.devices.cpu.codegen.pages import drop_pages
from lpir.errors import InputError, UnsupportedError

HANDLE, TEXT, INT, BOOL = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_bool
# a string that the function makes
OUT = ctypes.POINTER(ctypes.c_char_p)
LIBRARY = {"darwin": "libllvmlite.dylib", "win32": "llvmlite.dll"}.get(sys.platform, "libllvmlite.so")
# result and parameters of each function, without the prefix of all their names
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "InitializeNativeTarget": (None, ()),
    "InitializeNativeAsmPrinter": (None, ()),
    "InitializeNativeAsmParser": (None, ()),
    "InitializeAllTargetInfos": (None, ()),
    "InitializeAllTargets": (None, ()),
    "InitializeAllTargetMCs": (None, ()),
    "InitializeAllAsmPrinters": (None, ()),
    "GetDefaultTargetTriple": (None, (OUT,)),
    "GetHostCPUFeatures": (INT, (OUT,)),
    "GetTargetFromTriple": (HANDLE, (TEXT, OUT)),
    "CreateTargetMachine": (HANDLE, (HANDLE, TEXT, TEXT, TEXT, INT, TEXT, TEXT, INT, INT, TEXT)),
    "DisposeTargetMachine": (None, (HANDLE,)),
    "CreateTargetMachineData": (HANDLE, (HANDLE,)),
    "CopyStringRepOfTargetData": (None, (HANDLE, OUT)),
    "DisposeTargetData": (None, (HANDLE,)),
    "ContextCreate": (HANDLE, ()),
    "ContextDispose": (None, (HANDLE,)),
    "ParseAssembly": (HANDLE, (HANDLE, TEXT, OUT)),
    "VerifyModule": (BOOL, (HANDLE, OUT)),
    "DisposeModule": (None, (HANDLE,)),
    "CreatePipelineTuningOptions": (HANDLE, ()),
    "PTOSetLoopInterleaving": (None, (HANDLE, BOOL)),
    "PTOSetLoopVectorization": (None, (HANDLE, BOOL)),
    "PTOSetSLPVectorization": (None, (HANDLE, BOOL)),
    "PTOSetLoopUnrolling": (None, (HANDLE, BOOL)),
    "DisposePipelineTuningOptions": (None, (HANDLE,)),
    "CreatePassBuilder": (HANDLE, (HANDLE, HANDLE)),
    "DisposePassBuilder": (None, (HANDLE,)),
    "buildPerModuleDefaultPipeline": (HANDLE, (HANDLE, INT)),
    "RunNewModulePassManager": (None, (HANDLE, HANDLE, HANDLE)),
    "DisposeNewModulePassManger": (None, (HANDLE,)),
    "TargetMachineEmitToMemory": (HANDLE, (HANDLE, HANDLE, INT, OUT)),
    "GetBufferStart": (HANDLE, (HANDLE,)),
    "GetBufferSize": (ctypes.c_size_t, (HANDLE,)),
    "DisposeMemoryBuffer": (None, (HANDLE,)),
    "CreateMCJITCompiler": (HANDLE, (HANDLE, HANDLE, BOOL, OUT)),
    "FinalizeObject": (None, (HANDLE,)),
    "GetFunctionAddress": (ctypes.c_uint64, (HANDLE, TEXT)),
    "DisposeExecutionEngine": (None, (HANDLE,)),
    "DisposeString": (None, (HANDLE,)),
    "SetCommandLine": (None, (TEXT, TEXT)),
}
# what runs long enough for other threads to have the interpreter meanwhile; getting it back takes longer than the rest
LONG = {"ParseAssembly", "RunNewModulePassManager", "TargetMachineEmitToMemory", "FinalizeObject"}
LONG |= {"CreateMCJITCompiler"} | {name for name in SIGNATURES if name.startswith("Initialize")}
_LOCK = Lock()
# Loop strength reduction is a sixth of the time, and kernels are printed with their addresses worked out.
LEAN, USUAL = b"-disable-lsr", b"-disable-lsr=false"


@functools.cache
def path() -> str:
    """The file of the library. Raises UnsupportedError where llvmlite is not installed."""
    found = importlib.util.find_spec("llvmlite")
    if found is None or found.origin is None:
        raise UnsupportedError("compiling a model needs LLVM: pip install llvmlite")
    return str(Path(found.origin).resolve().parent / "binding" / LIBRARY)


@functools.cache
def _library(long: bool) -> ctypes.CDLL:
    if os.name == "posix":
        # ctypes holds the interpreter's lock while it loads a library, a call of the loader does not
        load = ctypes.CDLL(None).dlopen
        load.argtypes, load.restype = [ctypes.c_char_p, ctypes.c_int], HANDLE
        load(os.fsencode(path()), os.RTLD_NOW)
    return (ctypes.CDLL if long else ctypes.PyDLL)(path())


@functools.cache
def function(name: str) -> Callable[..., Any]:
    """A function of `SIGNATURES`."""
    found = _library(name in LONG)[f"LLVMPY_{name}"]
    found.restype, found.argtypes = SIGNATURES[name][0], list(SIGNATURES[name][1])
    return found


def call(name: str, *arguments: Any) -> Any:
    """Calls a function whose last parameter takes a message. Raises InputError with the message."""
    message = HANDLE()
    result = function(name)(*arguments, ctypes.cast(ctypes.byref(message), OUT))
    if said := _taken(message):
        raise InputError(f"LLVM refuses a kernel's text: {said}")
    return result


def text_of(name: str, *arguments: Any) -> str:
    """The string that a function makes in its last parameter."""
    made = HANDLE()
    function(name)(*arguments, ctypes.cast(ctypes.byref(made), OUT))
    return _taken(made)


def _taken(made: ctypes.c_void_p) -> str:
    """A string of the library, which is given back to it."""
    if not made.value:
        return ""
    text = ctypes.string_at(made.value).decode(errors="replace")
    function("DisposeString")(made)
    return text


def initialize(foreign: bool = False) -> None:
    """Loads LLVM and makes this machine's target known to it, or every target. Only the first call does anything."""
    with _LOCK:
        _initialize(foreign)


@functools.cache
def _initialize(foreign: bool) -> None:
    everything = ("AllTargetInfos", "AllTargets", "AllTargetMCs", "AllAsmPrinters")
    for what in everything if foreign else ("NativeTarget", "NativeAsmPrinter", "NativeAsmParser"):
        function(f"Initialize{what}")()
    drop_pages(path())


def host_features() -> set[str]:
    """LLVM's names of the CPU features of this machine; empty where it cannot tell."""
    return {name[1:] for name in text_of("GetHostCPUFeatures").split(",") if name.startswith("+")}


class _Lean:
    """Sets the option `LEAN` while any thread is inside: it is the process's, and others may compile in it as well."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                function("SetCommandLine")(b"lpir", LEAN)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                function("SetCommandLine")(b"lpir", USUAL)


LEANER = _Lean()


class Machine:
    """Code generation for one target at one level of optimization. One thread uses it at a time."""

    def __init__(
        self, triple: str, cpu: str, features: str, level: int, relocation: str, model: str, lean: bool = False
    ) -> None:
        """`lean`: addresses in loops are left as they are printed."""
        target = call("GetTargetFromTriple", triple.encode())
        words = [text.encode() for text in (triple, cpu, features)]
        jit = model == "jitdefault"
        self.handle = function("CreateTargetMachine")(
            target, *words, level, relocation.encode(), model.encode(), 0, int(jit), b""
        )
        self.close = weakref.finalize(self, function("DisposeTargetMachine"), self.handle)
        self.close.atexit = False
        data = function("CreateTargetMachineData")(self.handle)
        layout = text_of("CopyStringRepOfTargetData", data)
        function("DisposeTargetData")(data)
        self.options = LEANER if lean else nullcontext()
        # how every text for this target begins
        self.head = f'target triple = "{triple}"\ntarget datalayout = "{layout}"\n'

    def emit(self, module: Module, is_object: bool = True) -> bytes:
        """The object file of a module, or its assembly."""
        with self.options:
            buffer = call("TargetMachineEmitToMemory", self.handle, module.handle, int(is_object))
        try:
            return ctypes.string_at(function("GetBufferStart")(buffer), function("GetBufferSize")(buffer))
        finally:
            function("DisposeMemoryBuffer")(buffer)


class Context:
    """What modules of one thread live in."""

    def __init__(self) -> None:
        self.handle = function("ContextCreate")()
        self.close = weakref.finalize(self, function("ContextDispose"), self.handle)
        self.close.atexit = False


class Module:
    """Parsed and verified text. Raises InputError when LLVM refuses it."""

    def __init__(self, context: Context, text: str) -> None:
        # the context outlives its modules
        self.context = context
        self.handle = call("ParseAssembly", context.handle, text.encode())
        self.close = weakref.finalize(self, function("DisposeModule"), self.handle)
        self.close.atexit = False
        call("VerifyModule", self.handle)

    def optimize(self, machine: Machine) -> None:
        """Runs the passes that kernels profit from: they come vectorized and unrolled, so neither is repeated here."""
        options = function("CreatePipelineTuningOptions")()
        for what in ("LoopInterleaving", "LoopVectorization", "SLPVectorization", "LoopUnrolling"):
            function(f"PTOSet{what}")(options, False)
        builder = function("CreatePassBuilder")(machine.handle, options)
        passes = function("buildPerModuleDefaultPipeline")(builder, 2)
        function("RunNewModulePassManager")(passes, self.handle, builder)
        function("DisposeNewModulePassManger")(passes)
        function("DisposePassBuilder")(builder)
        function("DisposePipelineTuningOptions")(options)


class Engine:
    """A module's code in this process; it takes over the module and the machine, and stays for good."""

    def __init__(self, module: Module, machine: Machine) -> None:
        own_memory = platform.machine().lower() in ("arm64", "aarch64")
        self.handle = call("CreateMCJITCompiler", module.handle, machine.handle, own_memory)
        self.context = module.context
        module.close.detach()
        machine.close.detach()
        function("FinalizeObject")(self.handle)

    def address(self, symbol: str) -> int:
        """Of a function; 0 where the module has none of that name."""
        return int(function("GetFunctionAddress")(self.handle, symbol.encode()))
