"""The maps between a loop and its body: `<port_map>` and `<back_edges>`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lpir.errors import FileError
from lpir.ir.graph import Node
from lpir.ops.loops import Iteration, Loop, Part, Port
from lpir.serialize.attrs import parse_int
from lpir.serialize.layers import Layer
from lpir.serialize.xml_parse import Element

# ids of body layers -> their numbers among its parameters or results
Numbers = Mapping[int, int]
PART = ("axis", "start", "end", "stride", "part_size")
ITERATION, CONDITION = "current_iteration", "execution_condition"


def read_maps(layer: Layer, parameters: Numbers, results: Numbers) -> dict[str, Any]:
    """The fields of a loop but its body. Raises FileError."""
    assert layer.element is not None
    inputs = {port.id: i for i, port in enumerate(layer.inputs)}
    outputs = {port.id: i for i, port in enumerate(layer.outputs)}
    fields: dict[str, Any] = {"reads": [], "writes": []}
    port_map, edges = layer.element.find("port_map"), layer.element.find("back_edges")
    for entry in port_map.children if port_map else ():
        is_input = entry.tag == "input"
        inner = _number(entry, "internal_layer_id", parameters if is_input else results)
        purpose = entry.attributes.get("purpose")
        if purpose is not None and layer.type.lower() == "loop":
            fields["iteration" if purpose == ITERATION else "condition"] = inner
        if entry.attributes.get("external_port_id") != "-1":
            outer = _number(entry, "external_port_id", inputs if is_input else outputs)
            fields["reads" if is_input else "writes"].append(Port(outer, inner, _part(entry)))
    fields["carried"] = tuple(
        (_number(e, "from-layer", results), _number(e, "to-layer", parameters))
        for e in (edges.children if edges else ())
    )
    known = {p.inner for p in fields["reads"]} | {fields.get("iteration")}
    missing = sorted(set(range(len(parameters))) - known)
    if missing:
        raise FileError(f"nothing feeds parameter {missing[0]} of the body")
    return fields | {"reads": tuple(fields["reads"]), "writes": tuple(fields["writes"])}


def _number(entry: Element, key: str, numbers: Numbers) -> int:
    try:
        found = numbers.get(parse_int(entry.attributes.get(key, "")))
    except ValueError as error:
        raise FileError(f"<{entry.tag}>: {key} {error}") from None
    if found is None:
        raise FileError(f"<{entry.tag}>: {key}={entry.attributes[key]!r} is neither a port nor an end of the body")
    return found


def _part(entry: Element) -> Part | None:
    texts = entry.attributes
    if "axis" not in texts:
        return None
    try:
        return Part(**{key: parse_int(texts[key]) for key in PART if key in texts})
    except ValueError as error:
        raise FileError(f"<{entry.tag}>: a part's numbers: {error}") from None


def map_lines(node: Node, ids: Mapping[int, int], indent: str) -> Iterator[str]:
    """The two elements of a loop; `ids`: of the nodes of its body in the file."""
    op = node.op
    assert isinstance(op, Iteration)
    parameters = [ids[id(p)] for p in op.body.parameters]
    results = [ids[id(r)] for r in op.body.results]
    yield f"{indent}<port_map>"
    if isinstance(op, Loop) and op.iteration is not None:
        yield _port_line("input", -1, parameters[op.iteration], f' purpose="{ITERATION}"', indent)
    for port in op.reads:
        yield _port_line("input", port.outer, parameters[port.inner], _part_text(port.part), indent)
    for port in op.writes:
        yield _port_line("output", port.outer + len(node.inputs), results[port.inner], _part_text(port.part), indent)
    if isinstance(op, Loop):
        yield _port_line("output", -1, results[op.condition], f' purpose="{CONDITION}"', indent)
    yield f"{indent}</port_map>"
    yield f"{indent}<back_edges>"
    for result, parameter in op.carried:
        yield f'{indent}\t<edge from-layer="{results[result]}" to-layer="{parameters[parameter]}" />'
    yield f"{indent}</back_edges>"


def _port_line(tag: str, outer: int, inner: int, more: str, indent: str) -> str:
    return f'{indent}\t<{tag} external_port_id="{outer}" internal_layer_id="{inner}"{more} />'


def _part_text(part: Part | None) -> str:
    return "".join(f' {key}="{getattr(part, key)}"' for key in PART) if part else ""
