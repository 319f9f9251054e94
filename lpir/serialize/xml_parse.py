"""XML bytes to a plain tree, for files that may be hostile: no DTD, no entities, bounded depth and size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from xml.parsers import expat

from lpir.errors import FileError

# a network with a million layers stays below this
MAX_BYTES = 1 << 30
# sub-graph operations nest a whole network in a layer; real files stay below 20
MAX_DEPTH = 100


class Element(NamedTuple):
    """A tag with its attributes and child elements. Text is dropped: the format keeps nothing in it but port shapes."""

    tag: str
    attributes: dict[str, str]
    children: list[Element]

    def find(self, tag: str) -> Element | None:
        """The first child with this tag."""
        for child in self.children:
            if child.tag == tag:
                return child
        return None

    def find_all(self, tag: str) -> Iterator[Element]:
        return (c for c in self.children if c.tag == tag)


def parse_xml(data: bytes, file: str) -> Element:
    """The root element of `data`. Raises FileError with `file` and the line for anything that is not plain XML."""
    if len(data) > MAX_BYTES:
        raise FileError(f"{file}: {len(data)} bytes of XML are more than the {MAX_BYTES} that lpir reads")
    builder = _Builder(file)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.StartDoctypeDeclHandler = builder.doctype
    parser.EntityDeclHandler = builder.doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FileError(f"{file}: not well-formed XML, or cut off: {error}") from None
    except (LookupError, ValueError) as error:
        raise FileError(f"{file}: the XML has an encoding that cannot be read: {error}") from None
    if builder.root is None:
        raise FileError(f"{file}: the XML holds no element")
    return builder.root


# port shapes are inferred again; not storing them keeps the tree of a large file small
_DROPPED = Element("dim", {}, [])


class _Builder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Element | None = None
        self.open: list[Element] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.open:
            self.root = element = Element(tag, attributes, [])
        elif tag == "dim" or self.open[-1] is _DROPPED:
            element = _DROPPED
        else:
            element = Element(tag, attributes, [])
            self.open[-1].children.append(element)
        self.open.append(element)
        if len(self.open) > MAX_DEPTH:
            raise FileError(f"{self.file}: XML elements are nested deeper than {MAX_DEPTH}")

    def end(self, tag: str) -> None:
        self.open.pop()

    def doctype(self, *_: object) -> None:
        raise FileError(f"{self.file}: the XML has a document type or entities; lpir refuses them, no model needs any")
