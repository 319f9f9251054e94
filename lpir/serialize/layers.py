"""`<layers>` and `<edges>` of a file as checked records, before any operation is made."""

from __future__ import annotations

from typing import Any, NamedTuple

from lpir.errors import FileError
from lpir.serialize.attrs import parse_int
from lpir.serialize.names import BODY_TYPES, split_names
from lpir.serialize.rt_info import read_attributes, read_tree
from lpir.serialize.xml_parse import Element

VERSIONS = (10, 11)


class Port(NamedTuple):
    """A port of a layer: its id in the file, tensor names (outputs), run-time information."""

    id: int
    names: set[str]
    rt_info: dict[str, Any]


class Layer(NamedTuple):
    """One layer. `sources[i]` says which layer and output feeds input `i` once edges are connected."""

    id: int
    name: str
    type: str
    version: str
    attributes: dict[str, str]
    rt_info: dict[str, Any]
    inputs: list[Port]
    outputs: list[Port]
    output_names: set[str]
    sources: list[tuple[int, int] | None]
    # of an operation with a body, which is read later
    element: Element | None

    def __str__(self) -> str:
        return f"layer {self.id} '{self.name}' ({self.type})"


class Network(NamedTuple):
    """A whole file: `layers` by id, in the order of the file."""

    name: str
    version: int
    layers: dict[int, Layer]
    rt_info: dict[str, Any]


def read_network(root: Element, file: str) -> Network:
    """The records of a parsed file. Raises FileError that names the layer or edge."""
    if root.tag != "net":
        raise FileError(f"{file}: the root element is <{root.tag}>, not <net>; this is not an OpenVINO IR")
    version = _integer(root, "version", f"{file}: <net>")
    if version not in VERSIONS:
        raise FileError(f"{file}: IR version {version} cannot be read; lpir reads 10 and 11")
    layers = read_layers(root, file, version)
    return Network(root.attributes.get("name", "model"), version, layers, _model_info(root, version))


def read_layers(root: Element, file: str, version: int) -> dict[int, Layer]:
    """The connected layers of a network or of a body. Raises FileError."""
    layers: dict[int, Layer] = {}
    for group in root.find_all("layers"):
        for element in group.find_all("layer"):
            layer = _read_layer(element, file, version)
            if layer.id in layers:
                raise FileError(f"{file}: layers '{layers[layer.id].name}' and '{layer.name}' both have id {layer.id}")
            layers[layer.id] = layer
    if not layers:
        raise FileError(f"{file}: there are no layers")
    _connect(root, layers, file)
    return layers


def _integer(element: Element, key: str, where: str, what: str = "") -> int:
    text = element.attributes.get(key)
    if text is None:
        raise FileError(f"{where}{what}: attribute {key!r} is missing")
    try:
        return parse_int(text)
    except ValueError as error:
        raise FileError(f"{where}{what}: {key}={text[:60]!r} {error}") from None


def _read_layer(element: Element, file: str, version: int) -> Layer:
    number = _integer(element, "id", f"{file}: <layer name={element.attributes.get('name', '')[:60]!r}>")
    for key in ("type", "version"):
        if key not in element.attributes:
            raise FileError(f"{file}: layer {number}: attribute {key!r} is missing")
    data = element.find("data")
    where = f"{file}: layer {number}"
    inputs = _ports(element.find("input"), where)
    return Layer(
        id=number,
        name=element.attributes.get("name", ""),
        type=element.attributes["type"],
        version=element.attributes["version"],
        attributes=dict(data.attributes) if data else {},
        rt_info=read_attributes(element) if version > 10 else {},
        inputs=inputs,
        outputs=_ports(element.find("output"), where),
        output_names=split_names(element.attributes.get("output_names", "")),
        sources=[None] * len(inputs),
        element=element if element.attributes["type"].lower() in BODY_TYPES else None,
    )


def _ports(parent: Element | None, where: str) -> list[Port]:
    ports: dict[int, Port] = {}
    for element in parent.find_all("port") if parent else ():
        number = _integer(element, "id", where, ": <port>")
        if number in ports:
            raise FileError(f"{where}: port id {number} occurs twice in <{parent.tag if parent else ''}>")
        ports[number] = Port(number, split_names(element.attributes.get("names", "")), read_attributes(element))
    return list(ports.values())


def _connect(root: Element, layers: dict[int, Layer], file: str) -> None:
    inputs = {(layer.id, port.id): i for layer in layers.values() for i, port in enumerate(layer.inputs)}
    outputs = {(layer.id, port.id): i for layer in layers.values() for i, port in enumerate(layer.outputs)}
    place = f"{file}: <edge>"
    for group in root.find_all("edges"):
        for element in group.find_all("edge"):
            edge = [_integer(element, key, place) for key in ("from-layer", "from-port", "to-layer", "to-port")]
            source, target = outputs.get((edge[0], edge[1])), inputs.get((edge[2], edge[3]))
            if source is None or target is None or layers[edge[2]].sources[target] is not None:
                where = f"{file}: edge {edge[0]}:{edge[1]} -> {edge[2]}:{edge[3]}"
                raise FileError(f"{where}: {_fault(edge, layers, source)}")
            layers[edge[2]].sources[target] = (edge[0], source)


def _fault(edge: list[int], layers: dict[int, Layer], source: int | None) -> str:
    """What is wrong with an edge."""
    for layer_id in (edge[0], edge[2]):
        if layer_id not in layers:
            return f"there is no layer {layer_id}"
    if source is None:
        return f"{layers[edge[0]]} has no output port {edge[1]}"
    if edge[3] not in [port.id for port in layers[edge[2]].inputs]:
        return f"{layers[edge[2]]} has no input port {edge[3]}"
    return f"input port {edge[3]} of {layers[edge[2]]} is fed twice"


def _model_info(root: Element, version: int) -> dict[str, Any]:
    info = root.find("rt_info")
    found = read_tree(info) if info else {}
    if version > 10:
        return found
    meta, quantization = root.find("meta_data"), root.find("quantization_parameters")
    for key, value in (read_tree(meta) if meta else {}).items():
        found["conversion_parameters" if key == "cli_parameters" else key] = value
    if quantization:
        found["optimization"] = read_tree(quantization)
    return found
