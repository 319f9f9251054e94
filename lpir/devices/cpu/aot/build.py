"""A compiled model as one shared library: machine code, tables, description and constants.

The library ends in a seal (`seal.py`). Its symbols: the C interface (`interface.py`), the executor's functions as
`lpir_pool_submit`, `_worker` and `_stop`, the C interface once more under names without the prefix (for Python),
and `lpir_model`, through which everything else is found.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lpir.devices.cpu.aot.checks import arm_checks, checks
from lpir.devices.cpu.aot.header import header_text
from lpir.devices.cpu.aot.interface import FUNCTIONS, MODEL, interface_text
from lpir.devices.cpu.aot.seal import FORMAT, seal
from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.codegen.executor import SYMBOLS, executor_text
from lpir.devices.cpu.codegen.jit import Jit, links_objects, object_file
from lpir.devices.cpu.isa import Isa, by_name
from lpir.devices.cpu.linker.elf import Object, Relocation, Section, Symbol, read_object
from lpir.devices.cpu.linker.library import shared_library
from lpir.devices.cpu.linker.link import CONSTANTS
from lpir.devices.cpu.linker.target import Target, target_of
from lpir.devices.cpu.plan import CONSTANTS as CONSTANTS_BUFFER
from lpir.devices.cpu.plan import MAPPED, Callback, NativeSegment, Plan, Slot
from lpir.devices.cpu.profile import Layer
from lpir.errors import UnsupportedError
from lpir.ir.graph import Value
from lpir.ir.model import Model, names_of
from lpir.runtime.explain import Explanation

# sections of the object that `_data` makes; behind them one for each constant that the plan left in its file
DATA, READ, WEIGHTS, TABLES = range(4)


class _Writer:
    """Bytes of a section with addresses in them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.data = bytearray()
        self.relocations: list[Relocation] = []

    def align(self, alignment: int = 8) -> int:
        self.data += bytes(-len(self.data) % alignment)
        return len(self.data)

    def word(self, value: int) -> None:
        self.data += struct.pack("<Q", value & (2**64 - 1))

    def address(self, symbol: Symbol, addend: int = 0) -> None:
        self.relocations.append(Relocation(len(self.data), self.target.absolute, symbol, addend))
        self.word(0)


def build(
    model: Model,
    plan: Plan,
    isa: Isa,
    threads: int,
    code: Jit | None,
    explanation: Explanation,
    prefix: str,
    soname: str,
) -> bytes:
    """The library; `code`: where its kernels are compiled already. Raises UnsupportedError that names the operations
    which have no native code."""
    _check(plan, isa)
    texts = {s.code.symbol: s.code.text for g in plan.segments if isinstance(g, NativeSegment) for s in g.steps}
    if code is not None and links_objects():
        kernels = code.objects(texts)
    else:
        kernels = [object_file(text, isa) for text in texts.values()]
    info = json.dumps(describe(model, plan, isa, threads, explanation)).encode()
    objects = [read_object(o) for o in (*kernels, *_runtime(_arch(isa)))]
    objects.append(_data(model, plan, isa, threads, info))
    exports = {f"{prefix}_{name}": symbol for name, symbol in FUNCTIONS.items()}
    exports |= {
        "lpir_model": "lpir_model",
        **{f"lpir_pool_{s}": s for s in SYMBOLS},
        **{s: s for s in FUNCTIONS.values()},
    }
    return seal(shared_library(objects, exports, soname))


def header(model: Model, isa: Isa, prefix: str) -> str:
    """The C header of the library that `build` makes of the model."""
    inputs = [f"{_name(v)}, {v.type}" for v in model.inputs]
    outputs = [f"{_name(v)}, {v.type}" for v in model.outputs]
    return header_text(prefix, model.name, isa.name, inputs, outputs)


def describe(model: Model, plan: Plan, isa: Isa, threads: int, explanation: Explanation) -> dict[str, Any]:
    """What Python needs to know of a library: ports, what `explain` prints, and what a profile does."""
    nodes = [n for g in plan.segments if isinstance(g, NativeSegment) for n in g.nodes]
    profile = {"offset": plan.stamps.offset, "layers": [Layer.of(*n).facts() for n in nodes]} if plan.stamps else None
    return {
        "name": model.name,
        "isa": isa.name,
        "threads": threads,
        "constants": plan.constants.nbytes,
        "inputs": [
            _port(v, s) | {"pointers": _pointers(plan, b)}
            for v, s, b in zip(model.inputs, plan.inputs, plan.movable, strict=True)
        ],
        "outputs": [_port(v, s) for v, s in zip(model.outputs, plan.outputs, strict=True)],
        "profile": profile,
        "explain": explanation.to_dict(),
    }


def _pointers(plan: Plan, buffer: int | None) -> list[tuple[int, int]]:
    """Parameter words that point into an input which may be elsewhere, and how far behind its start."""
    steps = [s for g in plan.segments if isinstance(g, NativeSegment) for s in g.steps]
    words = [w for step in steps for w in step.params]
    return [(i, w.offset) for i, w in enumerate(words) if isinstance(w, Ref) and w.buffer == buffer]


def _port(value: Value, slot: Slot) -> dict[str, Any]:
    return {
        "node": value.node.name,
        "names": sorted(names_of(value) - {value.node.name}),
        "type": value.element_type.name,
        "shape": list(slot.shape),
        "constant": slot.is_constant,
        "offset": slot.offset,
    }


def _name(value: Value) -> str:
    """One name to print: a tensor name if there is one."""
    names = names_of(value) - {value.node.name}
    return min(names) if names else value.node.name


def _check(plan: Plan, isa: Isa) -> None:
    callbacks = [s.node for s in plan.segments if isinstance(s, Callback)]
    if callbacks:
        kinds = ", ".join(sorted({n.op.type_name for n in callbacks}))
        raise UnsupportedError(f"the model cannot be a library: no native code for {kinds} on {isa.name}")
    target_of(isa.triple)


def _arch(isa: Isa) -> str:
    """The processor's family, also that of an ISA for any."""
    return isa.triple.split("-")[0]


@functools.cache
def _runtime(arch: str) -> tuple[bytes, ...]:
    """Objects of the executor and of the C interface, for any processor of a family."""
    plain = replace(by_name("neon_dot"), features="") if arch == "aarch64" else by_name("generic")
    return object_file(executor_text("linux", arch), plain), object_file(interface_text(arch), plain)


def _checks(isa: Isa) -> list[bytes]:
    return arm_checks(isa.requires) if _arch(isa) == "aarch64" else checks(isa.name)


def _data(model: Model, plan: Plan, isa: Isa, threads: int, info: bytes) -> Object:
    """Tables and constants. Pointers are in the section that becomes read-only once they are set."""
    target = target_of(isa.triple)
    data, read = _Writer(target), _Writer(target)
    at: dict[str, int] = {}
    counts: dict[str, int] = {}
    fixups = _words(data, plan, at, counts)
    places = {"words": Symbol("", DATA, at["words"]), "steps": Symbol("", DATA, at["steps"])}
    for which, values, slots in (("inputs", model.inputs, plan.inputs), ("outputs", model.outputs, plan.outputs)):
        places[which] = Symbol("", DATA, data.align())
        counts[which] = len(values)
        _tensors(data, read, values, slots)
    tables = (("fixups", [struct.pack("<I", f) for f in fixups]), ("checks", _checks(isa)))
    for name, rows in tables:
        places[name] = Symbol("", READ, read.align())
        counts[name] = len(rows)
        read.data += b"".join(rows)
    places["info"] = Symbol("", READ, read.align())
    read.data += info
    values_of = {f"{name}_count": count for name, count in counts.items()}
    values_of |= {"format": FORMAT, "threads": threads, "arena_bytes": plan.arena_size, "info_bytes": len(info)}
    root = data.align()
    for name in MODEL:
        if name in places:
            data.address(places[name])
        else:
            data.word(values_of[name])
    # not copied: they are most of the library
    weights = plan.constants.data
    sections = (
        Section(".data.rel.ro", bytes(data.data), 64, False, True, tuple(data.relocations)),
        Section(".rodata", bytes(read.data), 64, False, False, ()),
        Section(CONSTANTS, weights, target.page, False, False, ()),
        *(Section(CONSTANTS, x.reshape(-1).view(np.uint8).data, target.page, False, False, ()) for x in plan.mapped),
    )
    return Object(sections, (Symbol("lpir_model", DATA, root),), target)


def _words(data: _Writer, plan: Plan, at: dict[str, int], counts: dict[str, int]) -> list[int]:
    """Writes parameter words and steps; returns the words that count from the start of the arena."""
    weights = Symbol("", WEIGHTS, 0)
    fixups: list[int] = []
    steps = []
    at["words"] = data.align(64)
    count = 0
    for step in (s for g in plan.segments if isinstance(g, NativeSegment) for s in g.steps):
        steps.append((step.code.symbol, count))
        for word in step.params:
            if not isinstance(word, Ref):
                data.word(word)
            elif word.buffer == CONSTANTS_BUFFER:
                data.address(weights, word.offset)
            elif int(word.buffer) <= MAPPED:
                data.address(Symbol("", TABLES + MAPPED - int(word.buffer), 0), word.offset)
            else:
                fixups.append(count)
                data.word(plan.address(word, 0))
            count += 1
    at["steps"] = data.align()
    for symbol, first in steps:
        data.address(Symbol(symbol, None, 0))
        data.word(first)
    counts["words"], counts["steps"] = count, len(steps)
    return fixups


def _tensors(data: _Writer, read: _Writer, values: Sequence[Value], slots: Iterable[Slot]) -> None:
    """One description a tensor, as the header and `interface.py` have it."""
    weights = Symbol("", WEIGHTS, 0)
    for value, slot in zip(values, slots, strict=True):
        data.address(Symbol("", READ, _text(read, _name(value))))
        data.address(Symbol("", READ, _text(read, value.element_type.name)))
        data.word(len(slot.shape))
        data.address(Symbol("", READ, read.align()))
        read.data += struct.pack(f"<{len(slot.shape)}q", *slot.shape)
        data.word(math.prod(slot.shape) * slot.dtype.itemsize)
        if slot.is_constant:
            data.address(weights, slot.offset)
            data.word(0)
        else:
            data.word(0)
            data.word(slot.offset)


def _text(read: _Writer, text: str) -> int:
    at = len(read.data)
    read.data += text.encode().replace(b"\0", b"?") + b"\0"
    return at
