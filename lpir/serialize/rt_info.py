"""Run-time information: `<rt_info>` of layers and ports (flat) and of the model (nested) <-> dicts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lpir.errors import FileError
from lpir.serialize.xml_parse import Element

# XML 1.0 cannot hold these, not even as references; a lone surrogate has no UTF-8 form
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
# a table of our own: xml.sax.saxutils would bring in urllib, a tenth of the start-up time
_QUOTED = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def quoted(text: str) -> str:
    """`text` as an XML attribute value, in double quotes. Raises FileError for characters that XML cannot hold."""
    found = _FORBIDDEN.search(text)
    if found is not None:
        raise FileError(f"{text[:60]!r} holds the character {found[0]!r}, which XML cannot store; rename it")
    return f'"{text.translate(_QUOTED)}"'


def read_attributes(parent: Element) -> dict[str, dict[str, str]]:
    """The `<rt_info>` child of a layer or port: name -> the other attributes, "version" among them."""
    info = parent.find("rt_info") if parent.children else None
    found: dict[str, dict[str, str]] = {}
    for element in info.find_all("attribute") if info else ():
        rest = dict(element.attributes)
        name = rest.pop("name", None)
        if name is not None:
            found[name] = rest
    return found


def attribute_lines(info: Mapping[str, Any], indent: str) -> Iterator[str]:
    """The lines of a layer's or port's `<rt_info>`; entries that are not a dict of attributes stay in memory only."""
    entries = {name: value for name, value in info.items() if isinstance(value, Mapping)}
    if not entries:
        return
    yield f"{indent}<rt_info>"
    for name, value in entries.items():
        pairs = {"name": name, "version": value.get("version", "0"), **value}
        text = " ".join(f"{key}={quoted(leaf_text(v))}" for key, v in pairs.items() if _TAG.fullmatch(key))
        yield f"{indent}\t<attribute {text} />"
    yield f"{indent}</rt_info>"


def read_tree(element: Element) -> dict[str, Any]:
    """The model's nested `<rt_info>` as dicts; leaves are texts."""
    found: dict[str, Any] = {}
    for child in element.children:
        key = child.attributes.get("name", child.tag) if child.tag == "info" else child.tag
        found[key] = child.attributes["value"] if "value" in child.attributes else read_tree(child)
    return found


def tree_lines(info: Mapping[str, Any], indent: str) -> Iterator[str]:
    """The lines inside the model's `<rt_info>`. A key that is no XML name becomes `<info name="...">`."""
    for key, value in info.items():
        plain = _TAG.fullmatch(key) is not None and key != "info"
        tag = key if plain else "info"
        name = "" if plain else f" name={quoted(str(key))}"
        if isinstance(value, Mapping):
            yield f"{indent}<{tag}{name}>"
            yield from tree_lines(value, indent + "\t")
            yield f"{indent}</{tag}>"
        else:
            yield f"{indent}<{tag}{name} value={quoted(leaf_text(value))} />"


def leaf_text(value: Any) -> str:
    """One value as OpenVINO writes it: YES / NO, lists joined by spaces."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if isinstance(value, tuple | list | set | frozenset):
        return " ".join(leaf_text(v) for v in value)
    return str(value)
