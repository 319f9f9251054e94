"""Instruction sets, the fastest last. One file a record; a new file is found by itself."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from lpir.devices.cpu.aot import checks
from lpir.devices.cpu.isa.record import Isa
from lpir.errors import InputError

__all__ = ["Isa", "all_isas", "by_name", "host_isa"]


@functools.cache
def all_isas() -> tuple[Isa, ...]:
    """Every record; of each architecture the slowest first (narrow before wide, inexact dot before exact, and of those
    the one that asks for less)."""
    found = [
        importlib.import_module(f"{__name__}.{info.name}").ISA
        for info in pkgutil.iter_modules(__path__)
        if info.name not in ("record", "dots")
    ]
    return tuple(sorted(found, key=_speed))


def _speed(isa: Isa) -> tuple[bool, str, int, bool, int]:
    return isa.arch != "any", isa.arch, isa.bits, isa.exact, len(isa.requires)


def by_name(name: str) -> Isa:
    """The record called `name`. Raises InputError with the names there are."""
    for isa in all_isas():
        if isa.name == name:
            return isa
    raise InputError(f"unknown instruction set {name!r}; use one of {', '.join(i.name for i in all_isas())}")


@functools.cache
def host_isa() -> Isa:
    """The fastest record that this machine runs."""
    # where the system tells, nobody waits for LLVM
    known = checks.host()
    return by_name(known) if known else [isa for isa in all_isas() if isa.available()][-1]
