"""A linked image as an ELF shared library (System V gABI, chapter 5): what `dlopen` and `cc` accept.

File offsets equal addresses. Parts: read-only (headers, symbols, relocations, literals), code, data (read-only once
relocated), constants, which the system maps on demand and shares between processes. Section headers are there for
linkers and tools; the loader does not read them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lpir.devices.cpu.linker.elf import (
    ET_DYN,
    HEADER,
    MAGIC,
    RELA,
    SECTION,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_PROGBITS,
    STB_GLOBAL,
    STT_FUNC,
    STT_OBJECT,
    SYMBOL,
    Object,
)
from lpir.devices.cpu.linker.link import Fixup, Image, fixup_count, link, target_of_all, undefined
from lpir.devices.cpu.linker.target import Target

PROGRAM = struct.Struct("<IIQQQQQQ")
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK, PT_GNU_RELRO = 1, 2, 0x6474E551, 0x6474E552
PF_X, PF_W, PF_R = 1, 2, 4
SHT_STRTAB, SHT_RELA, SHT_HASH, SHT_DYNAMIC, SHT_DYNSYM = 3, 4, 5, 6, 11
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_RELAENT = 0, 4, 5, 6, 7, 8, 9
DT_STRSZ, DT_SYMENT, DT_SONAME, DT_FLAGS = 10, 11, 14, 30
DF_BIND_NOW = 8
PROGRAMS = 7
DYNAMIC = struct.Struct("<QQ")


@dataclass
class _Table:
    """A part of the read-only headers."""

    name: str
    kind: int
    data: bytes
    entry: int = 0
    link: int = 0
    at: int = field(default=0)


def shared_library(objects: Sequence[Object], exports: Mapping[str, str], soname: str = "") -> bytearray:
    """The bytes of a shared library of `objects`. `exports`: name outside -> symbol; it needs nothing but libc.

    Raises UnsupportedError when the objects hold what the linker does not know, KeyError for an unknown export.
    """
    imports, target = undefined(objects), target_of_all(objects)
    strings, offsets = _strings((*imports, *exports, soname))
    sizes = {
        ".hash": 4 * (2 + 1 + 1 + len(imports) + len(exports)),
        ".dynsym": SYMBOL.size * (1 + len(imports) + len(exports)),
        ".dynstr": len(strings),
        ".rela.dyn": RELA.size * fixup_count(objects),
    }
    at = HEADER.size + PROGRAM.size * PROGRAMS
    places: dict[str, int] = {}
    for name, size in sizes.items():
        places[name] = at = -(-at // 8) * 8
        at += size
    image = link(objects, -(-at // 64) * 64, spare=DYNAMIC.size * 12)
    dynamic = image.parts["data"][1] - DYNAMIC.size * 12
    functions = image.parts["code"]
    tables = [
        _Table(".dynsym", SHT_DYNSYM, _dynsym(image, imports, exports, offsets, functions), SYMBOL.size, 2),
        _Table(".dynstr", SHT_STRTAB, strings),
        _Table(".hash", SHT_HASH, _hash((*imports, *exports)), 4, 1),
        _Table(".rela.dyn", SHT_RELA, _rela(image.fixups, imports, target), RELA.size, 1),
    ]
    for table in tables:
        assert len(table.data) == sizes[table.name]
        table.at = places[table.name]
    return _assemble(image, tables, dynamic, _dynamic(places, sizes, offsets[soname]), target)


def _strings(names: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    data = b"\0"
    offsets = {"": 0}
    for name in names:
        if name not in offsets:
            offsets[name] = len(data)
            data += name.encode() + b"\0"
    return data, offsets


def _dynsym(
    image: Image, imports: Sequence[str], exports: Mapping[str, str], offsets: dict[str, int], code: tuple[int, int]
) -> bytes:
    data = SYMBOL.pack(0, 0, 0, 0, 0, 0)
    for name in imports:
        data += SYMBOL.pack(offsets[name], STB_GLOBAL << 4 | STT_FUNC, 0, 0, 0, 0)
    for name, symbol in exports.items():
        at = image.symbols[symbol]
        is_code = code[0] <= at < code[1]
        section = _SECTION_OF["code" if is_code else _part_of(image, at)]
        kind = STT_FUNC if is_code else STT_OBJECT
        data += SYMBOL.pack(offsets[name], STB_GLOBAL << 4 | kind, 0, section, at, 8)
    return data


# indices of the section headers of the image's parts
_SECTION_OF = {"read": 5, "code": 6, "data": 7, "constants": 9}


def _part_of(image: Image, at: int) -> str:
    return next(part for part, (begin, end) in image.parts.items() if begin <= at < end)


def _hash(names: Sequence[str]) -> bytes:
    """One bucket with all symbols in a chain: there are few."""
    count = len(names) + 1
    chain = [0, *((i + 1) % count for i in range(1, count))]
    return struct.pack(f"<{3 + count}I", 1, count, min(count - 1, 1), *chain)


def _rela(fixups: Sequence[Fixup], imports: Sequence[str], target: Target) -> bytes:
    index = {name: i + 1 for i, name in enumerate(imports)}
    data = b""
    for fixup in fixups:
        info = index[fixup.symbol] << 32 | target.absolute if fixup.symbol else target.dynamic_relative
        data += RELA.pack(fixup.offset, info, fixup.addend)
    return data


def _dynamic(places: dict[str, int], sizes: dict[str, int], soname: int) -> bytes:
    entries = [
        (DT_HASH, places[".hash"]),
        (DT_STRTAB, places[".dynstr"]),
        (DT_SYMTAB, places[".dynsym"]),
        (DT_STRSZ, sizes[".dynstr"]),
        (DT_SYMENT, SYMBOL.size),
        (DT_RELA, places[".rela.dyn"]),
        (DT_RELASZ, sizes[".rela.dyn"]),
        (DT_RELAENT, RELA.size),
        (DT_FLAGS, DF_BIND_NOW),
        *([(DT_SONAME, soname)] if soname else []),
    ]
    entries += [(DT_NULL, 0)] * (12 - len(entries))
    return b"".join(DYNAMIC.pack(*e) for e in entries)


def _assemble(image: Image, tables: Sequence[_Table], dynamic: int, dynamic_data: bytes, target: Target) -> bytearray:
    pieces, names = _section_headers(image, tables, dynamic, len(dynamic_data))
    headers_at = -(-(image.end + len(names)) // 8) * 8
    out = bytearray(headers_at)
    count = len(pieces) // SECTION.size
    ident = MAGIC + bytes([2, 1, 1, 0]) + bytes(8)
    HEADER.pack_into(
        out, 0, ident, ET_DYN, target.machine, 1, 0, HEADER.size, headers_at, 0,
        HEADER.size, PROGRAM.size, PROGRAMS, SECTION.size, count, count - 1,
    )  # fmt: skip
    out[HEADER.size : HEADER.size + PROGRAM.size * PROGRAMS] = _programs(image, dynamic, len(dynamic_data), target.page)
    for table in tables:
        out[table.at : table.at + len(table.data)] = table.data
    out[image.start : image.end] = image.memory
    out[dynamic : dynamic + len(dynamic_data)] = dynamic_data
    out[image.end : image.end + len(names)] = names
    out += pieces
    return out


def _programs(image: Image, dynamic: int, dynamic_size: int, page: int) -> bytes:
    flags = {"read": PF_R, "code": PF_R | PF_X, "data": PF_R | PF_W, "constants": PF_R}
    data = b""
    for part, (begin, end) in image.parts.items():
        first = 0 if part == "read" else begin
        data += PROGRAM.pack(PT_LOAD, flags[part], first, first, first, end - first, end - first, page)
    begin, end = image.parts["data"]
    whole = -(-(end - begin) // page) * page
    data += PROGRAM.pack(PT_DYNAMIC, PF_R | PF_W, dynamic, dynamic, dynamic, dynamic_size, dynamic_size, 8)
    data += PROGRAM.pack(PT_GNU_RELRO, PF_R, begin, begin, begin, end - begin, whole, 1)
    return data + PROGRAM.pack(PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0, 0, 16)


def _section_headers(image: Image, tables: Sequence[_Table], dynamic: int, size: int) -> tuple[bytes, bytes]:
    """The section headers, and the names in them, which lie behind the image."""
    read, code, data, constants = (image.parts[p] for p in ("read", "code", "data", "constants"))
    rows = [("", 0, 0, 0, 0, 0, 0, 0)]
    for table in tables:
        info = 1 if table.kind == SHT_DYNSYM else 0
        rows.append((table.name, table.kind, SHF_ALLOC, table.at, len(table.data), table.link, info, table.entry))
    rows += [
        (".rodata", SHT_PROGBITS, SHF_ALLOC, read[0], read[1] - read[0], 0, 0, 0),
        (".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, code[0], code[1] - code[0], 0, 0, 0),
        (".data.rel.ro", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, data[0], dynamic - data[0], 0, 0, 0),
        (".dynamic", SHT_DYNAMIC, SHF_ALLOC | SHF_WRITE, dynamic, size, 2, 0, DYNAMIC.size),
        (".constants", SHT_PROGBITS, SHF_ALLOC, constants[0], constants[1] - constants[0], 0, 0, 0),
    ]
    names, offsets = _strings([row[0] for row in rows] + [".shstrtab"])
    rows.append((".shstrtab", SHT_STRTAB, 0, image.end, len(names), 0, 0, 0))
    packed = b""
    for name, kind, flags, at, length, link_, info, entry in rows:
        address = at if flags & SHF_ALLOC else 0
        packed += SECTION.pack(offsets[name], kind, flags, address, at, length, link_, info, 8 if kind else 0, entry)
    return packed, names
