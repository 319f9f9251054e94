"""Relocatable ELF files for x86-64 and AArch64, as LLVM writes them: the parts that a linker needs.

Layouts are those of the System V ABI (gABI chapters 4 and 5, and the x86-64 psABI, section 4.4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from lpir.devices.cpu.linker.target import TARGETS, X86, Target
from lpir.errors import FileError, UnsupportedError
from lpir.record import record

MAGIC = b"\x7fELF"
ET_REL, ET_DYN = 1, 3
SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS = 1, 2, 4, 8
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHN_UNDEF, SHN_ABS, SHN_COMMON = 0, 0xFFF1, 0xFFF2
MAX_ALIGNMENT = 4096
STB_LOCAL, STB_GLOBAL = 0, 1
STT_OBJECT, STT_FUNC = 1, 2

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELA = struct.Struct("<QQq")


@record
class Symbol:
    """A name for a place. `section`: index in `Object.sections`; None: another file or the C library defines it."""

    name: str
    section: int | None
    offset: int
    is_global: bool = True
    is_function: bool = False


@record
class Relocation:
    """Bytes at `offset` of a section that depend on where `symbol` comes to lie; `kind` is the target's number."""

    offset: int
    kind: int
    symbol: Symbol
    addend: int


@record
class Section:
    """Bytes that are loaded."""

    name: str
    data: bytes | memoryview
    alignment: int
    is_code: bool
    is_writable: bool
    relocations: tuple[Relocation, ...]


@record
class Object:
    """One relocatable file: what is loaded, and the symbols it defines."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    target: Target = TARGETS[X86.machine]


@record
class _Raw:
    """A section header and its bytes."""

    name: str
    kind: int
    flags: int
    data: bytes
    link: int
    info: int
    alignment: int

    @property
    def is_loaded(self) -> bool:
        # unwind tables have a type of their own: nothing here is ever unwound
        return self.kind == SHT_PROGBITS and bool(self.flags & SHF_ALLOC) and self.name != ".eh_frame"


def read_object(data: bytes) -> Object:
    """A relocatable file. Raises FileError when it is none, UnsupportedError for what kernels never contain."""
    try:
        return _read(data)
    except (struct.error, IndexError, KeyError, ValueError, OverflowError, MemoryError) as error:
        raise FileError(f"the object file is damaged: {error}") from error


def _read(data: bytes) -> Object:
    if data[:4] != MAGIC:
        raise FileError("not an ELF file")
    raw, target = _sections(data)
    places = {index: place for place, index in enumerate(i for i, s in enumerate(raw) if s.is_loaded)}
    tables = [s for s in raw if s.kind == SHT_SYMTAB]
    symbols = list(_symbols(tables[0].data, raw[tables[0].link].data, places)) if tables else []
    relocations: dict[int, list[Relocation]] = {}
    for table in raw:
        if table.kind == SHT_RELA and table.info in places:
            relocations.setdefault(table.info, []).extend(_relocations(table.data, symbols))
    sections = []
    for index in places:
        section = raw[index]
        own = tuple(relocations.get(index, ()))
        if section.alignment > MAX_ALIGNMENT:
            raise FileError(f"the object file is damaged: {section.name} is aligned to {section.alignment} bytes")
        code, writable = bool(section.flags & SHF_EXECINSTR), bool(section.flags & SHF_WRITE)
        sections.append(Section(section.name, section.data, max(section.alignment, 1), code, writable, own))
    if any(s.kind == SHT_NOBITS and s.flags & SHF_ALLOC and s.data for s in raw):
        raise UnsupportedError("the object has memory of its own that starts as zeros")
    return Object(tuple(sections), tuple(s for s in symbols if s.section is not None and s.name), target)


def _sections(data: bytes) -> tuple[list[_Raw], Target]:
    header = HEADER.unpack_from(data)
    kind, machine, at, size, count, names = header[1], header[2], header[6], header[11], header[12], header[13]
    if kind != ET_REL or machine not in TARGETS:
        raise UnsupportedError(f"not a relocatable object for x86-64 or AArch64 (type {kind}, machine {machine})")
    heads = [SECTION.unpack_from(data, at + size * i) for i in range(count)]
    strings = data[heads[names][4] : heads[names][4] + heads[names][5]]
    found = []
    for name, what, flags, _, offset, length, link, info, alignment, _ in heads:
        body = bytes(min(length, 1)) if what == SHT_NOBITS else data[offset : offset + length]
        found.append(_Raw(_text(strings, name), what, flags, body, link, info, alignment))
    return found, TARGETS[machine]


def _symbols(table: bytes, strings: bytes, places: dict[int, int]) -> Iterator[Symbol]:
    for name, info, _, section, value, _ in SYMBOL.iter_unpack(table):
        if section in (SHN_ABS, SHN_COMMON) and info & 15 != 4:
            raise UnsupportedError(f"symbol {_text(strings, name)} is absolute or common")
        is_global = info >> 4 != STB_LOCAL
        yield Symbol(_text(strings, name), places.get(section), value, is_global, info & 15 == STT_FUNC)


def _relocations(table: bytes, symbols: list[Symbol]) -> Iterator[Relocation]:
    for offset, info, addend in RELA.iter_unpack(table):
        yield Relocation(offset, info & 0xFFFFFFFF, symbols[info >> 32], addend)


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode("ascii")
