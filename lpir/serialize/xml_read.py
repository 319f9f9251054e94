"""An OpenVINO IR (version 10 or 11) to a Model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lpir.ops  # noqa: F401  (registers the operations)
from lpir.errors import FileError, LpirError, UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY, Op
from lpir.ir.types import ElementType, f16, f32, i32, i64
from lpir.ops.boundary import Constant, Parameter, Result
from lpir.ops.loops import Iteration
from lpir.serialize.attrs import OTHER_ELEMENT_TYPES, decode, parse_element_type, parse_int
from lpir.serialize.bodies import read_maps
from lpir.serialize.layers import Layer, Network, read_layers, read_network
from lpir.serialize.names import find_type, opset_number, version_in
from lpir.serialize.versions import MISPLACED, Draft, upgrade
from lpir.serialize.weights import Buffer, map_file, read_array
from lpir.serialize.xml_parse import parse_xml

Source = str | os.PathLike[str] | bytes
# a file cannot list more outputs than this for a Split
MAX_SPLITS = 1 << 16
# element types of model outputs that IR v10 changes
OLD_OUTPUTS = {f16: f32, i64: i32}


def read_model(xml: Source, weights: Source | None = None) -> Model:
    """The model in an IR file; its constants are read-only views of the mapped .bin.

    xml: a path, or the content as bytes. weights: the same; None: the .bin beside the .xml.
    Raises FileError (damaged or hostile file: names the file and the layer) or UnsupportedError (lists all operations
    and element types that lpir lacks).
    """
    file, text = _content(xml)
    if weights is None:
        beside = None if isinstance(xml, bytes) else Path(xml).with_suffix(".bin")
        weights = beside if beside is not None and beside.exists() else b""
        bin_file = str(beside) if beside is not None else "no weights given"
    else:
        bin_file = "<bytes>" if isinstance(weights, bytes) else os.fspath(weights)
    data = memoryview(weights) if isinstance(weights, bytes) else map_file(weights)
    network = read_network(parse_xml(text, file), file)
    return _Reader(network, file, data, bin_file).model()


def _content(xml: Source) -> tuple[str, bytes]:
    if isinstance(xml, bytes):
        return "<bytes>", xml
    try:
        return os.fspath(xml), Path(xml).read_bytes()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {os.fspath(xml)}: {getattr(error, 'strerror', None) or error}") from None


class _Reader:
    def __init__(self, network: Network, file: str, weights: Buffer, bin_file: str) -> None:
        self.network = network
        self.file = file
        self.weights = weights
        self.bin_file = bin_file
        self.nodes: dict[int, Node] = {}
        layers = network.layers.values()
        self.ends = {kind: [x for x in layers if x.type.lower() == kind] for kind in ("parameter", "result", "assign")}
        self.order = list(self.ordered([x for group in self.ends.values() for x in group]))
        self.bodies = {x.id: self.body_of(x) for x in self.order if x.element is not None}

    def body_of(self, layer: Layer) -> _Reader:
        """The reader of the body of a layer."""
        body = layer.element.find("body") if layer.element else None
        if body is None:
            raise FileError(f"{self.file}: {layer} has no body")
        version = self.network.version
        network = Network("body", version, read_layers(body, f"{self.file}: body of {layer}", version), {})
        return _Reader(network, self.file, self.weights, self.bin_file)

    def model(self) -> Model:
        self.check_supported()
        model = self.built()
        model.rt_info = self.network.rt_info
        if self.network.version < 11:
            apply_version_10(model)
        return model

    def built(self) -> Model:
        for layer in self.order:
            self.nodes[layer.id] = self.build(layer)
        parameters, results, sinks = ([self.nodes[x.id] for x in group] for group in self.ends.values())
        return Model(results, parameters, self.network.name, sinks)

    def ordered(self, roots: list[Layer]) -> Iterator[Layer]:
        """What the roots need, each layer after its inputs. Raises FileError on a cycle or a missing input."""
        state: dict[int, int] = {}
        for root in roots:
            stack = [(root, iter(self.sources(root)))] if root.id not in state else []
            state.setdefault(root.id, 1)
            while stack:
                layer, rest = stack[-1]
                source = next(rest, None)
                if source is None:
                    state[layer.id] = 2
                    yield layer
                    stack.pop()
                elif source.id not in state:
                    state[source.id] = 1
                    stack.append((source, iter(self.sources(source))))
                elif state[source.id] == 1:
                    raise FileError(f"{self.file}: the graph has a cycle through {source}")

    def sources(self, layer: Layer) -> list[Layer]:
        for port, source in zip(layer.inputs, layer.sources, strict=True):
            if source is None:
                raise FileError(f"{self.file}: nothing feeds input port {port.id} of {layer}")
        return [self.network.layers[s[0]] for s in layer.sources if s is not None]

    def missing(self) -> Iterator[tuple[str, str]]:
        """Operations and element types that lpir lacks, and names of layers that have them."""
        for layer in self.order:
            if find_type(layer.type) is None:
                yield f"{layer.type} {layer.version}", layer.name
            elif layer.attributes.get("element_type") in OTHER_ELEMENT_TYPES:
                yield f"{layer.type} of element type {layer.attributes['element_type']}", layer.name
            elif layer.id in self.bodies:
                if self.bodies[layer.id].ends["assign"]:
                    yield f"{layer.type} with variables", layer.name
                yield from self.bodies[layer.id].missing()

    def check_supported(self) -> None:
        """Raises UnsupportedError that lists everything that is missing."""
        missing: Counter[str] = Counter()
        first: dict[str, str] = {}
        for what, name in self.missing():
            missing[what] += 1
            first.setdefault(what, name)
        if missing:
            listed = ", ".join(f"{what} ({n}, first '{first[what]}')" for what, n in sorted(missing.items()))
            raise UnsupportedError(f"{self.file}: {len(missing)} operations are not supported: {listed}")

    def build(self, layer: Layer) -> Node:
        try:
            node = self.node(layer)
            found, made = len(layer.outputs), len(node.outputs)
            if found > made:
                raise FileError(f"has {found} output ports, but the operation {made}")
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.file}: {layer}: {error}") from None
        except LpirError as error:
            raise FileError(f"{self.file}: {layer}: {error}") from None
        except Exception as error:
            # hostile attributes may break an operation in ways that it does not foresee
            why = f"the attributes or inputs do not fit: {type(error).__name__}: {error}"
            raise FileError(f"{self.file}: {layer}: {why}") from error
        node.rt_info.update(layer.rt_info)
        for port, value in zip(layer.outputs, node.outputs, strict=False):
            value.names |= port.names
            value.rt_info.update(port.rt_info)
        if issubclass(type(node.op), Result):
            node.outputs[0].names |= layer.output_names
            node.outputs[0].rt_info.update(layer.inputs[0].rt_info)
        return node

    def node(self, layer: Layer) -> Node:
        op = find_type(layer.type)
        assert op is not None
        inputs = [self.value(layer, *s) for s in layer.sources if s is not None]
        if issubclass(op, Constant):
            opset_number(layer.version)
            return Node(self.constant(layer), inputs, layer.name)
        opset = opset_number(layer.version)
        if layer.id in self.bodies:
            version_in(op, opset)
            return Node(self.iteration(op, layer), inputs, layer.name)
        opset = MISPLACED.get((op.type_name, opset), opset)
        draft = Draft(op.type_name, version_in(op, opset), dict(layer.attributes), inputs, layer.name)
        upgrade(draft, opset_number(op.version))
        return Node(_make(op, draft.attributes), draft.inputs, layer.name)

    def iteration(self, op: type[Op], layer: Layer) -> Op:
        """A loop with its body."""
        inner = self.bodies[layer.id]
        parameters, results = ({x.id: i for i, x in enumerate(inner.ends[kind])} for kind in ("parameter", "result"))
        body = inner.built()
        assert issubclass(op, Iteration)
        return op(body=body, **read_maps(layer, parameters, results))

    def value(self, layer: Layer, source: int, index: int) -> Value:
        outputs = self.nodes[source].outputs
        if index >= len(outputs):
            raise FileError(f"reads output {index} of {self.network.layers[source]}, which has {len(outputs)}")
        return outputs[index]

    def constant(self, layer: Layer) -> Constant:
        texts = layer.attributes
        for key in ("element_type", "shape", "offset", "size"):
            if key not in texts:
                raise FileError(f"attribute {key!r} is missing")
        try:
            shape = [parse_int(t) for t in texts["shape"].split(",")] if texts["shape"].strip() else []
            offset, size = parse_int(texts["offset"]), parse_int(texts["size"])
            element_type = parse_element_type(texts["element_type"])
        except ValueError as error:
            shown = ", ".join(f"{k}={texts[k][:60]!r}" for k in ("element_type", "shape", "offset", "size"))
            raise FileError(f"{shown}: {error}") from None
        try:
            return Constant(read_array(self.weights, element_type, shape, offset, size), element_type)
        except FileError as error:
            raise FileError(f"{error} in {self.bin_file}") from None


def _make(op: type[Op], texts: dict[str, str]) -> Op:
    values: dict[str, Any] = decode(op, texts)
    if values.get("num_splits", 0) > MAX_SPLITS:
        raise FileError(f"num_splits={values['num_splits']} is more than lpir makes ({MAX_SPLITS})")
    return op(**values)


def apply_version_10(model: Model) -> None:
    """The rules of IR v10: tensor names from friendly names; f16 inputs and outputs are f32, i64 outputs i32."""
    for parameter in model.parameters:
        parameter.outputs[0].names.add(parameter.name)
    for result in model.results:
        source = result.inputs[0]
        source.names.add(_old_name(source))
    for parameter in model.parameters:
        value = parameter.outputs[0]
        if value.element_type == f16 and isinstance(parameter.op, Parameter):
            uses = value.uses
            parameter.op = Parameter(parameter.op.shape, f32)
            parameter.infer()
            inner = Node(_convert(f16), [value], f"{parameter.name}/f16")
            for use in uses:
                use.node.set_input(use.index, inner.output)
    for result in model.results:
        source = result.inputs[0]
        if source.element_type in OLD_OUTPUTS:
            converted = Node(_convert(OLD_OUTPUTS[source.element_type]), [source], _old_name(source))
            converted.output.names, source.names = source.names, set()
            result.set_input(0, converted.output)
            result.infer()


def _old_name(value: Value) -> str:
    return value.node.name if len(value.node.outputs) == 1 else f"{value.node.name}.{value.index}"


def _convert(element_type: ElementType) -> Op:
    return _make(REGISTRY["Convert"], {"destination_type": element_type.name})
