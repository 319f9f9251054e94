"""The only door to llvmlite: LLVM text in, machine code out.

    jit = Jit(isa)
    jit.add(kernel.symbol, kernel.text)
    address = jit.compile()[kernel.symbol]

Code lives as long as the `Jit` object. `assembly(texts, isa)` compiles for any x86 ISA on any host, for tests.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import llvmlite.binding as llvm

from lpir.devices.cpu.codegen.emitter import AS_PRINTED
from lpir.errors import InputError

if TYPE_CHECKING:
    from lpir.devices.cpu.isa import Isa

X86 = "x86_64-unknown-linux-gnu"


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


@functools.cache
def host_features() -> frozenset[str]:
    """LLVM's names of the CPU features of this machine ("avx2", "avx512vnni", ...); empty where unknown."""
    try:
        return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
    except RuntimeError:
        return frozenset()


def host_is_x86() -> bool:
    """Whether this machine is 64-bit x86."""
    return str(llvm.get_default_triple()).startswith("x86_64")


@functools.cache
def _machine(cpu: str, features: str, triple: str) -> llvm.TargetMachine:
    _initialize()
    if triple == X86 and not host_is_x86():
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(triple or llvm.get_default_triple()).create_target_machine(
        cpu=cpu, features=features, opt=2, codemodel="small" if triple else "jitdefault"
    )


def _module(texts: Iterable[str], machine: llvm.TargetMachine, triple: str, optimize: bool) -> llvm.ModuleRef:
    """One module of all `texts`, each declaration kept once."""
    declares: dict[str, None] = {}
    bodies: list[str] = []
    for text in texts:
        for line in text.splitlines():
            if line.startswith("declare "):
                declares[line] = None
            else:
                bodies.append(line)
    head = [f'target triple = "{triple}"', f'target datalayout = "{machine.target_data}"']
    source = "\n".join([*head, *declares, *bodies, ""])
    try:
        module = llvm.parse_assembly(source)
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
        (printed if text.startswith(AS_PRINTED) else others).append(text)
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
    triple = X86 if isa.is_x86 else str(llvm.get_default_triple())
    machine = _machine(isa.cpu, isa.features, triple)
    return "\n".join(str(machine.emit_assembly(module)) for module in _modules(texts, machine, triple))


class Jit:
    """Collects kernels and compiles them together for one ISA."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._texts: dict[str, str] = {}
        self._addresses: dict[str, int] = {}
        self._engines: list[llvm.ExecutionEngine] = []

    def add(self, symbol: str, text: str) -> None:
        """Adds a function; a symbol that is known already is the same function and is not compiled twice."""
        if symbol not in self._addresses:
            self._texts.setdefault(symbol, text)

    def compile(self) -> dict[str, int]:
        """Compiles what was added since the last call. Returns the address of every symbol so far."""
        if self._texts:
            triple = str(llvm.get_default_triple())
            machine = _machine(self.isa.cpu, self.isa.features, "")
            engines = [self._engine(module, triple) for module in _modules(self._texts.values(), machine, triple)]
            for symbol in self._texts:
                self._addresses[symbol] = next(a for e in engines if (a := e.get_function_address(symbol)))
            self._engines += engines
            self._texts = {}
        return dict(self._addresses)

    def _engine(self, module: llvm.ModuleRef, triple: str) -> llvm.ExecutionEngine:
        # an engine owns its machine; the shared one only optimizes
        machine = llvm.Target.from_triple(triple).create_target_machine(
            cpu=self.isa.cpu, features=self.isa.features, opt=2, codemodel="jitdefault", jit=True
        )
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine
