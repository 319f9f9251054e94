"""The only door to llvmlite: LLVM text in, machine code out.

    jit = Jit(isa)
    jit.add(kernel.symbol, kernel.text)
    address = jit.compile()[kernel.symbol]

Code lives as long as the `Jit` object. On Linux x86-64 every function is an object file of its own: it is compiled in a
thread from the moment it is added, and the same objects go into shared libraries (`Jit.objects`). Elsewhere LLVM's
execution engine compiles all that was added at once. `assembly(texts, isa)` and `object_file(text, isa)` compile for
any ISA on any host, for tests.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import RLock, local
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm

from lpir.devices.cpu.codegen.effort import AS_PRINTED, QUICK
from lpir.devices.cpu.codegen.pages import drop_pages
from lpir.devices.cpu.codegen.processor import linux_arm_features
from lpir.devices.cpu.linker.elf import read_object
from lpir.devices.cpu.linker.memory import Code
from lpir.devices.cpu.threads import default_threads
from lpir.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from lpir.devices.cpu.isa import Isa

# of code generation: level 2 takes a fifth longer than 1, and its kernels are no faster
LEVEL, QUICK_LEVEL = 1, 0


@functools.cache
def _initialize(foreign: bool = False) -> None:
    """Makes this machine's target known to LLVM, or every target."""
    if foreign:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        return
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    drop_pages(llvm.ffi.lib._name)


@functools.cache
def host_features() -> frozenset[str]:
    """LLVM's names of the CPU features of this machine ("avx2", "avx512vnni", "dotprod", ...); empty where unknown."""
    try:
        known = {name for name, on in llvm.get_host_cpu_features().items() if on}
    except RuntimeError:
        known = set()
    return frozenset(known | (linux_arm_features() if host_arch() == "aarch64" else set()))


def host_triple() -> str:
    """LLVM's name of this machine."""
    return str(llvm.get_default_triple())


def host_arch() -> str:
    """ "x86_64", "aarch64" or what else LLVM calls this machine's processor."""
    arch = host_triple().split("-")[0]
    return {"arm64": "aarch64"}.get(arch, arch)


def _is_foreign(triple: str) -> bool:
    return not triple.startswith(host_arch()) and triple != host_triple()


@functools.cache
def _machine(cpu: str, features: str, triple: str) -> llvm.TargetMachine:
    _initialize()
    if triple and _is_foreign(triple):
        _initialize(foreign=True)
    return llvm.Target.from_triple(triple or llvm.get_default_triple()).create_target_machine(
        cpu=cpu, features=features, opt=LEVEL, codemodel="small" if triple else "jitdefault"
    )


def _module(
    texts: Iterable[str], machine: llvm.TargetMachine, triple: str, optimize: bool, context: Any = None
) -> llvm.ModuleRef:
    """One module of all `texts`; declarations and tables that several have are kept once."""
    shared: dict[str, None] = {}
    bodies: list[str] = []
    for text in texts:
        for line in text.splitlines():
            if line.startswith(("declare ", "@")):
                shared[line] = None
            else:
                bodies.append(line)
    head = [f'target triple = "{triple}"', f'target datalayout = "{machine.target_data}"']
    source = "\n".join([*head, *shared, *bodies, ""])
    try:
        module = llvm.parse_assembly(source, context)
        module.verify()
    except RuntimeError as error:
        raise InputError(f"LLVM refuses a kernel's text: {error}") from error
    if optimize:
        _optimize(module, machine)
    return module


def _modules(texts: Iterable[str], machine: llvm.TargetMachine, triple: str) -> list[llvm.ModuleRef]:
    """Modules of `texts`: those to be optimized, and those to be compiled as printed."""
    printed: list[str] = []
    others: list[str] = []
    for text in texts:
        (printed if text.startswith((AS_PRINTED, QUICK)) else others).append(text)
    return [_module(group, machine, triple, group is others) for group in (others, printed) if group]


def _optimize(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """The passes that kernels profit from: they come vectorized and unrolled, so neither is repeated here."""
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


def assembly(texts: Iterable[str], isa: Isa) -> str:
    """The assembly of kernels for `isa`, which this host need not run."""
    triple = isa.triple
    machine = _machine(isa.cpu, isa.features, triple)
    return "\n".join(str(machine.emit_assembly(module)) for module in _modules(texts, machine, triple))


@functools.cache
def links_objects() -> bool:
    """Whether this system runs what `lpir.devices.cpu.linker` links."""
    return sys.platform.startswith("linux") and host_arch() == "x86_64" and sys.maxsize > 2**32


def object_file(text: str, isa: Isa) -> bytes:
    """A relocatable, position-independent object of what `text` defines. Threads may call this side by side."""
    level = QUICK_LEVEL if text.startswith(QUICK) else LEVEL
    return _compiler(isa.triple, isa.cpu, isa.features, level).object_file(text)


_LOCAL = local()


def _compiler(*target: Any) -> _Compiler:
    """This thread's compiler for a target: nothing of it may be used by two threads at once."""
    compilers: dict[Any, _Compiler] = _LOCAL.__dict__.setdefault("compilers", {})
    if target not in compilers:
        compilers[target] = _Compiler(*target)
    return compilers[target]


class _Compiler:
    """LLVM for one target and one thread."""

    def __init__(self, triple: str, cpu: str, features: str, level: int) -> None:
        _initialize(_is_foreign(triple))
        self.machine = llvm.Target.from_triple(triple).create_target_machine(
            cpu=cpu, features=features, opt=level, reloc="pic", codemodel="small"
        )
        self.context = llvm.create_context()
        self.head = f'target triple = "{triple}"\ntarget datalayout = "{self.machine.target_data}"\n'

    def object_file(self, text: str) -> bytes:
        """The object of one text. Raises InputError when LLVM refuses it."""
        module = _call("LLVMPY_ParseAssembly", self.context, (self.head + text).encode())
        try:
            _call("LLVMPY_VerifyModule", module, quick=True)
            if not text.startswith((AS_PRINTED, QUICK)):
                owner = llvm.ModuleRef(module, self.context)
                try:
                    _optimize(owner, self.machine)
                finally:
                    owner.detach()
            buffer = _call("LLVMPY_TargetMachineEmitToMemory", self.machine, module, 1)
        finally:
            _function("LLVMPY_DisposeModule", True)(module)
        start, size = (_function(f"LLVMPY_GetBuffer{what}", True)(buffer) for what in ("Start", "Size"))
        try:
            return ctypes.string_at(start, size)
        finally:
            _function("LLVMPY_DisposeMemoryBuffer", True)(buffer)


def _call(name: str, *arguments: Any, quick: bool = False) -> Any:
    """Calls a function whose last parameter takes a message. Raises InputError with the message."""
    message = ctypes.c_char_p()
    result = _function(name, quick)(*arguments, ctypes.byref(message))
    if message:
        said = (message.value or b"").decode(errors="replace")
        _function("LLVMPY_DisposeString", True)(message)
        if said:
            raise InputError(f"LLVM refuses a kernel's text: {said}")
    return result


@functools.cache
def _function(name: str, quick: bool) -> Any:
    """A function of llvmlite's library without the lock that llvmlite holds during each call.

    `quick`: the interpreter stays locked too, which is better for calls that take less time than getting it back.
    """
    locked = getattr(llvm.ffi.lib, name)
    try:
        function = (ctypes.PyDLL if quick else ctypes.CDLL)(llvm.ffi.lib._name)[name]
    except (AttributeError, OSError):
        return locked
    function.argtypes, function.restype = locked.argtypes, locked.restype
    return function


class Jit:
    """Collects kernels and compiles them for one ISA. Several threads may use it."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._lock = RLock()
        self._addresses: dict[str, int] = {}
        self._texts: dict[str, str] = {}
        self._started: dict[str, Future[bytes]] = {}
        self._objects: dict[str, bytes] = {}
        self._workers: ThreadPoolExecutor | None = None
        # what keeps the code alive
        self._code: list[Any] = []

    def add(self, symbol: str, text: str) -> bool:
        """Adds a function; whether it is new: a known symbol is the same function and is not compiled twice."""
        with self._lock:
            if symbol in self._addresses or symbol in self._texts:
                return False
            self._texts[symbol] = text
            if text and links_objects():
                if self._workers is None:
                    # the caller computes too: with one thread more than processors each would wait for the others
                    self._workers = ThreadPoolExecutor(max(1, default_threads() - 1), "lpir-compile")
                self._started[symbol] = self._workers.submit(object_file, text, self.isa)
            return True

    def compile(self) -> dict[str, int]:
        """Compiles what was added since the last call. Returns the address of every symbol so far."""
        with self._lock:
            if self._texts:
                try:
                    found = self._load() if links_objects() else self._jit()
                    self._addresses.update({symbol: found[symbol] for symbol in self._texts})
                finally:
                    self._texts, self._started = {}, {}
                    drop_pages(llvm.ffi.lib._name)
                    if self._workers is not None:
                        # a forked child would not have these threads
                        self._workers.shutdown()
                        self._workers = None
            return dict(self._addresses)

    def objects(self, symbols: Iterable[str]) -> list[bytes]:
        """The object files that define `symbols`, all compiled. Raises UnsupportedError where there are none."""
        with self._lock:
            if not links_objects():
                raise UnsupportedError("shared libraries are only made on Linux x86-64")
            return [self._objects[symbol] for symbol in symbols]

    def _load(self) -> dict[str, int]:
        made: dict[str, bytes] = {}
        # the calling thread has nothing else to do now: it takes the last ones that nobody has begun
        for symbol, future in reversed(self._started.items()):
            if future.cancel():
                made[symbol] = object_file(self._texts[symbol], self.isa)
        made |= {symbol: future.result() for symbol, future in self._started.items() if symbol not in made}
        code = Code([read_object(data) for data in made.values()])
        self._objects |= made
        self._code.append(code)
        return code.addresses

    def _jit(self) -> dict[str, int]:
        triple = str(llvm.get_default_triple())
        machine = _machine(self.isa.cpu, self.isa.features, "")
        engines = [self._engine(module, triple) for module in _modules(self._texts.values(), machine, triple)]
        self._code += engines
        return {s: next(a for e in engines if (a := e.get_function_address(s))) for s in self._texts}

    def _engine(self, module: llvm.ModuleRef, triple: str) -> llvm.ExecutionEngine:
        # an engine owns its machine; the shared one only optimizes
        machine = llvm.Target.from_triple(triple).create_target_machine(
            cpu=self.isa.cpu, features=self.isa.features, opt=LEVEL, codemodel="jitdefault", jit=True
        )
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine
