"""A small linker: places sections of relocatable objects, and makes them fit each other.

The image is position-independent: what depends on where it is loaded, or on functions of the C library, is left in a
list of `Fixup`s, all of them in its data part, for the dynamic loader (a file) or for `memory.py` (this process).
What depends on the processor is in `target.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lpir.devices.cpu.linker.elf import Object, Relocation, Section
from lpir.devices.cpu.linker.target import TARGETS, X86, Target
from lpir.errors import FileError, UnsupportedError
from lpir.record import record

# of x86-64
PAGE, R_64 = X86.page, X86.absolute
# the constants of a model lie last, so that offsets between the other parts stay short
CONSTANTS = ".constants"
PARTS = ("read", "code", "data", "constants")


@record
class Fixup:
    """The 64-bit word at `offset` becomes `addend` plus the load address, or plus the address of `symbol`."""

    offset: int
    addend: int
    symbol: str = ""


@record
class Image:
    """Memory from offset `start` on; `parts`: begin and end of each of PARTS, whole pages apart."""

    start: int
    memory: bytearray
    parts: dict[str, tuple[int, int]]
    symbols: dict[str, int]
    fixups: tuple[Fixup, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.memory)


def link(objects: Sequence[Object], start: int = 0, spare: int = 0) -> Image:
    """One image of all objects; a symbol that several define is the first one's.

    `spare` bytes are left at the end of the data part. Raises UnsupportedError for a relocation of another kind.
    """
    return _Linker(objects, start, spare).link()


def undefined(objects: Sequence[Object]) -> tuple[str, ...]:
    """Symbols that no object defines, sorted."""
    defined = {s.name for o in objects for s in o.symbols if s.is_global}
    used = {r.symbol.name for o in objects for s in o.sections for r in s.relocations if r.symbol.section is None}
    return tuple(sorted(used - defined))


def indirect(objects: Sequence[Object]) -> list[str]:
    """Symbols that objects define and whose address their code reads from the table."""
    outside = set(undefined(objects))
    through = (r for o in objects for s in o.sections for r in s.relocations if r.kind in o.target.through_table)
    return list(dict.fromkeys(r.symbol.name for r in through if r.symbol.name not in outside))


def fixup_count(objects: Sequence[Object]) -> int:
    """Number of fixups that `link` will leave."""
    absolute = sum(r.kind == o.target.absolute for o in objects for s in o.sections for r in s.relocations)
    return absolute + len(undefined(objects)) + len(indirect(objects))


def target_of_all(objects: Sequence[Object]) -> Target:
    """The processor that all objects are for. Raises UnsupportedError where they differ."""
    found = {o.target for o in objects}
    if len(found) > 1:
        raise UnsupportedError(f"objects for {' and '.join(sorted(t.name for t in found))} do not go together")
    return found.pop() if found else TARGETS[X86.machine]


class _Linker:
    def __init__(self, objects: Sequence[Object], start: int, spare: int) -> None:
        self.objects, self.start, self.spare = objects, start, spare
        self.target = target_of_all(objects)
        self.places: dict[tuple[int, int], int] = {}
        self.symbols: dict[str, int] = {}
        self.imports = undefined(objects)
        # entries of the table of addresses: imported symbols first
        self.entries: dict[str, int] = {}
        self.stubs: dict[str, int] = {}
        self.fixups: list[Fixup] = []
        self.memory = bytearray()

    def link(self) -> Image:
        parts = self._place()
        self.memory = bytearray(parts["constants"][1] - self.start)
        for index, item in enumerate(self.objects):
            for number, section in enumerate(item.sections):
                at = self.places[index, number] - self.start
                self.memory[at : at + len(section.data)] = section.data
        self._write_table()
        for index, item in enumerate(self.objects):
            for number, section in enumerate(item.sections):
                for relocation in section.relocations:
                    self._apply(index, self.places[index, number], section, relocation)
        return Image(self.start, self.memory, parts, self.symbols, tuple(self.fixups))

    # -- where everything lies

    def _place(self) -> dict[str, tuple[int, int]]:
        parts: dict[str, tuple[int, int]] = {}
        position = self.start
        for part in PARTS:
            # the first part shares its page with the headers
            begin = position = position if part == "read" else _up(position, self.target.page)
            for index, number, section in self._sections(part):
                position = _up(position, section.alignment)
                self.places[index, number] = position
                position += len(section.data)
            if part == "code":
                for name in self.imports:
                    position = _up(position, self.target.stub_size)
                    self.stubs[name] = position
                    position += self.target.stub_size
            if part == "data":
                position = _up(position, 8)
                for name in (*self.imports, *indirect(self.objects)):
                    self.entries[name] = position
                    position += 8
                position += self.spare
            parts[part] = begin, position
        for index, item in enumerate(self.objects):
            for symbol in item.symbols:
                if symbol.is_global and symbol.section is not None:
                    self.symbols.setdefault(symbol.name, self.places[index, symbol.section] + symbol.offset)
        return parts

    def _sections(self, part: str) -> Iterator[tuple[int, int, Section]]:
        for index, item in enumerate(self.objects):
            for number, section in enumerate(item.sections):
                if _part(section) == part:
                    yield index, number, section

    # -- what depends on it

    def _write_table(self) -> None:
        for name, at in self.stubs.items():
            begin = at - self.start
            self.memory[begin : begin + self.target.stub_size] = self.target.stub(at, self.entries[name])
        for name, at in self.entries.items():
            imported = name in self.stubs
            self.fixups.append(Fixup(at, 0 if imported else self.symbols[name], name if imported else ""))

    def _address(self, index: int, relocation: Relocation) -> int:
        """Where the symbol of a relocation lies; for an imported function the stub that jumps to it."""
        symbol = relocation.symbol
        if symbol.section is not None:
            return self.places[index, symbol.section] + symbol.offset
        if symbol.name in self.symbols:
            return self.symbols[symbol.name]
        return self.stubs[symbol.name]

    def _apply(self, index: int, base: int, section: Section, relocation: Relocation) -> None:
        kind, name = relocation.kind, relocation.symbol.name
        place = base + relocation.offset
        if not 0 <= relocation.offset <= len(section.data) - (8 if kind in self.target.wide else 4):
            raise FileError(f"the object file is damaged: a relocation lies outside {section.name}")
        if kind not in self.target.kinds:
            raise UnsupportedError(f"relocation {kind} of {name or section.name} is not one that kernels contain")
        if kind == self.target.absolute:
            self._absolute(index, place, section, relocation)
            return
        through_table = kind in self.target.through_table
        target = self.entries[name] if through_table else self._address(index, relocation)
        if not self.target.patch(self.memory, place - self.start, kind, place, target + relocation.addend):
            raise UnsupportedError(f"{name or section.name} is too far away")

    def _absolute(self, index: int, place: int, section: Section, relocation: Relocation) -> None:
        if not section.is_writable:
            raise UnsupportedError(f"{section.name} holds an address: it would not be the same in every process")
        symbol = relocation.symbol
        if symbol.section is None and symbol.name not in self.symbols:
            self.fixups.append(Fixup(place, relocation.addend, symbol.name))
        else:
            self.fixups.append(Fixup(place, self._address(index, relocation) + relocation.addend))


def _part(section: Section) -> str:
    if section.name == CONSTANTS:
        return "constants"
    return "code" if section.is_code else "data" if section.is_writable else "read"


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
