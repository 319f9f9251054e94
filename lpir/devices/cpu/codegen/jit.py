"""LLVM text in, machine code out.

    jit = Jit(isa)
    jit.add(kernel.symbol, kernel.text)
    address = jit.compile()[kernel.symbol]

Code lives as long as the `Jit` object. On Linux x86-64 every function is an object file of its own: it is compiled in a
thread from the moment it is added, and the same objects go into shared libraries (`Jit.objects`). Elsewhere LLVM's
execution engine compiles all that was added at once. `assembly(texts, isa)` and `object_file(text, isa)` compile for
any ISA on any host, for tests.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from threading import RLock, local
from typing import TYPE_CHECKING, Any

from lpir.devices.cpu.codegen import llvm
from lpir.devices.cpu.codegen.crew import Crew
from lpir.devices.cpu.codegen.effort import AS_PRINTED, QUICK
from lpir.devices.cpu.codegen.pages import drop_pages
from lpir.devices.cpu.codegen.processor import linux_arm_features
from lpir.devices.cpu.linker.elf import read_object
from lpir.devices.cpu.linker.memory import Code
from lpir.devices.cpu.threads import default_threads
from lpir.errors import UnsupportedError

if TYPE_CHECKING:
    from lpir.devices.cpu.isa import Isa

# of code generation: level 2 takes a fifth longer than 1, and its kernels are no faster
LEVEL, QUICK_LEVEL = 1, 0


@functools.cache
def host_features() -> frozenset[str]:
    """LLVM's names of the CPU features of this machine ("avx2", "avx512vnni", "dotprod", ...); empty where unknown."""
    return frozenset(llvm.host_features() | (linux_arm_features() if host_arch() == "aarch64" else set()))


@functools.cache
def host_triple() -> str:
    """LLVM's name of this machine."""
    return llvm.text_of("GetDefaultTargetTriple")


def host_arch() -> str:
    """ "x86_64", "aarch64" or what else LLVM calls this machine's processor."""
    arch = host_triple().split("-")[0]
    return {"arm64": "aarch64"}.get(arch, arch)


def _is_foreign(triple: str) -> bool:
    return not triple.startswith(host_arch()) and triple != host_triple()


def _target(isa: Isa) -> tuple[str, str, str, bool]:
    return isa.triple, isa.cpu, isa.features, isa.lean


def _machine(triple: str, cpu: str, features: str, lean: bool, level: int, jit: bool = False) -> llvm.Machine:
    llvm.initialize()
    if _is_foreign(triple):
        llvm.initialize(foreign=True)
    kinds = ("default", "jitdefault") if jit else ("pic", "small")
    return llvm.Machine(triple, cpu, features, level, *kinds, lean)


def _modules(texts: Iterable[str], machine: llvm.Machine) -> list[llvm.Module]:
    """One module of the texts to be optimized, and one of those to be compiled as printed."""
    printed: list[str] = []
    others: list[str] = []
    for text in texts:
        (printed if text.startswith((AS_PRINTED, QUICK)) else others).append(text)
    modules = [llvm.Module(llvm.Context(), machine.head + _joined(group)) for group in (others, printed) if group]
    if others:
        modules[0].optimize(machine)
    return modules


def _joined(texts: Iterable[str]) -> str:
    """All texts as one; declarations and tables that several have are kept once."""
    shared: dict[str, None] = {}
    bodies: list[str] = []
    for text in texts:
        for line in text.splitlines():
            if line.startswith(("declare ", "@")):
                shared[line] = None
            else:
                bodies.append(line)
    return "\n".join([*shared, *bodies, ""])


def assembly(texts: Iterable[str], isa: Isa) -> str:
    """The assembly of kernels for `isa`, which this host need not run."""
    machine = _machine(*_target(isa), LEVEL)
    return "\n".join(machine.emit(module, is_object=False).decode() for module in _modules(texts, machine))


@functools.cache
def links_objects() -> bool:
    """Whether this system runs what `lpir.devices.cpu.linker` links."""
    return sys.platform.startswith("linux") and os.uname().machine == "x86_64" and sys.maxsize > 2**32


def object_file(text: str, isa: Isa) -> bytes:
    """A relocatable, position-independent object of what `text` defines. Threads may call this side by side.

    Raises InputError when LLVM refuses the text.
    """
    level = QUICK_LEVEL if text.startswith(QUICK) else LEVEL
    machine, context = _compiler(*_target(isa), level)
    module = llvm.Module(context, machine.head + text)
    if not text.startswith((AS_PRINTED, QUICK)):
        module.optimize(machine)
    return machine.emit(module)


_LOCAL = local()


def _compiler(*target: Any) -> tuple[llvm.Machine, llvm.Context]:
    """This thread's machine and context for a target: nothing of it may be used by two threads at once."""
    compilers: dict[Any, tuple[llvm.Machine, llvm.Context]] = _LOCAL.__dict__.setdefault("compilers", {})
    if target not in compilers:
        compilers[target] = _machine(*target), llvm.Context()
    return compilers[target]


class Jit:
    """Collects kernels and compiles them for one ISA. Several threads may use it."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._lock = RLock()
        self._addresses: dict[str, int] = {}
        self._texts: dict[str, str] = {}
        self._objects: dict[str, bytes] = {}
        self._crew: Crew | None = None
        # what keeps the code alive
        self._code: list[Any] = []

    def add(self, symbol: str, text: str) -> bool:
        """Adds a function; whether it is new: a known symbol is the same function and is not compiled twice."""
        with self._lock:
            if symbol in self._addresses or symbol in self._texts:
                return False
            self._texts[symbol] = text
            if text and links_objects():
                if self._crew is None:
                    # the caller computes too: with one thread more than processors each would wait for the others
                    self._crew = Crew(lambda text: object_file(text, self.isa), max(1, default_threads() - 1))
                self._crew.add(symbol, text)
            return True

    def compile(self) -> dict[str, int]:
        """Compiles what was added since the last call. Returns the address of every symbol so far."""
        with self._lock:
            if self._texts:
                try:
                    found = self._load() if links_objects() else self._jit()
                    self._addresses.update({symbol: found[symbol] for symbol in self._texts})
                finally:
                    self._texts, self._crew = {}, None
                    drop_pages(llvm.path())
            return dict(self._addresses)

    def objects(self, symbols: Iterable[str]) -> list[bytes]:
        """The object files that define `symbols`, all compiled. Raises UnsupportedError where there are none."""
        with self._lock:
            if not links_objects():
                raise UnsupportedError("shared libraries are only made on Linux x86-64")
            return [self._objects[symbol] for symbol in symbols]

    def _load(self) -> dict[str, int]:
        # a forked child would not have the threads, so they end here
        made = self._crew.finish() if self._crew else {}
        code = Code([read_object(data) for data in made.values()])
        self._objects |= made
        self._code.append(code)
        return code.addresses

    def _jit(self) -> dict[str, int]:
        # an engine owns its machine and its module
        def machine() -> llvm.Machine:
            _, cpu, features, lean = _target(self.isa)
            return _machine(host_triple(), cpu, features, lean, LEVEL, jit=True)

        engines = [llvm.Engine(module, machine()) for module in _modules(self._texts.values(), machine())]
        self._code += engines
        return {s: next(a for e in engines if (a := e.address(s))) for s in self._texts}
