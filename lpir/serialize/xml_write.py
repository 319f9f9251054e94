"""A Model to an OpenVINO IR, version 11, in OpenVINO's own layout."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from lpir.errors import FileError, ModelError, UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY
from lpir.ops.boundary import Constant
from lpir.ops.loops import Iteration
from lpir.serialize.attrs import encode
from lpir.serialize.bodies import map_lines
from lpir.serialize.compress_fp16 import compress_to_fp16 as compressed
from lpir.serialize.names import join_names, xml_type, xml_version
from lpir.serialize.rt_info import attribute_lines, quoted, tree_lines
from lpir.serialize.weights import WeightWriter, pack

PathLike = str | os.PathLike[str]


def write_model(
    model: Model, xml_path: PathLike, bin_path: PathLike | None = None, *, compress_to_fp16: bool = False
) -> None:
    """Writes `model` as an .xml and a .bin (default: beside it), replacing both only once both are complete.

    A .bin that is still mapped by a model stays readable to it. compress_to_fp16: store f32 and f64 constants of a
    model that is not quantized as f16. Raises FileError (cannot write) or UnsupportedError (an operation without a
    file form).
    """
    temporary: list[Path] = []
    try:
        targets = _targets(xml_path, bin_path)
        token = secrets.token_hex(4)
        temporary = [t.with_name(f".{t.name}.{token}.tmp") for t in targets]
        with open(temporary[1], "xb") as stream:
            text = _write(compressed(model) if compress_to_fp16 else model, stream)
        temporary[0].write_bytes(text)
        _replace_both(temporary, targets)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot write {os.fspath(xml_path)}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        for path in temporary:
            with contextlib.suppress(OSError):
                path.unlink()


def _targets(xml_path: PathLike, bin_path: PathLike | None) -> tuple[Path, Path]:
    xml_target = Path(os.path.realpath(xml_path))
    bin_target = Path(os.path.realpath(bin_path)) if bin_path is not None else xml_target.with_suffix(".bin")
    if xml_target == bin_target:
        raise FileError(f"{xml_target}: the network and its weights need two files; name the first one .xml")
    for target in (xml_target, bin_target):
        if target.is_dir():
            raise FileError(f"cannot write {target}: it is a folder")
    return xml_target, bin_target


def _replace_both(temporary: list[Path], targets: tuple[Path, Path]) -> None:
    """Moves the .bin, then the .xml; puts the old .bin back if the .xml cannot be moved."""
    backup = temporary[1].with_suffix(".old")
    with contextlib.suppress(OSError):
        os.link(targets[1], backup)
    try:
        os.replace(temporary[1], targets[1])
        try:
            os.replace(temporary[0], targets[0])
        except OSError:
            if backup.exists():
                os.replace(backup, targets[1])
            raise
    finally:
        with contextlib.suppress(OSError):
            backup.unlink()


def to_bytes(model: Model, *, compress_to_fp16: bool = False) -> tuple[bytes, bytes]:
    """The contents of the .xml and the .bin. Raises UnsupportedError for operations without a file form."""
    stream = BytesIO()
    text = _write(compressed(model) if compress_to_fp16 else model, stream)
    return text, stream.getvalue()


def _write(model: Model, stream: BinaryIO) -> bytes:
    lines = ['<?xml version="1.0"?>', f'<net name={quoted(model.name)} version="11">']
    lines.extend(_network_lines(model, WeightWriter(stream)))
    lines.append("</net>\n")
    return "\n".join(lines).encode()


def _network_lines(model: Model, weights: WeightWriter) -> Iterator[str]:
    """What stands in `<net>`, or in the `<body>` of a loop."""
    order = _file_order(model)
    _check_writable(order)
    ids = _numbered(order)
    yield "\t<layers>"
    for index, node in enumerate(order):
        yield from _layer_lines(node, index, weights)
    yield from ("\t</layers>", "\t<edges>")
    yield from _edge_lines(order, ids)
    yield from ("\t</edges>", "\t<rt_info>" if model.rt_info else "\t<rt_info />")
    if model.rt_info:
        yield from tree_lines(model.rt_info, "\t\t")
        yield "\t</rt_info>"


def _numbered(order: list[Node]) -> dict[int, int]:
    """The ids that nodes have in a file."""
    return {id(node): index for index, node in enumerate(order)}


def _file_order(model: Model) -> list[Node]:
    """Parameters, the rest in topological order, sinks, results; each group in the model's order."""
    ends = {id(n) for n in (*model.parameters, *model.sinks, *model.results)}
    middle = [n for n in model.nodes() if id(n) not in ends]
    return [*model.parameters, *middle, *model.sinks, *model.results]


def _check_writable(order: list[Node]) -> None:
    foreign: dict[str, str] = {}
    for node in order:
        if REGISTRY.get(node.op.type_name) is not type(node.op):
            foreign.setdefault(node.op.type_name, node.name)
    if foreign:
        listed = ", ".join(f"{kind} (first '{name}')" for kind, name in foreign.items())
        raise UnsupportedError(f"only public operations have a file form; the model holds {listed}")


def _layer_lines(node: Node, index: int, weights: WeightWriter) -> Iterator[str]:
    is_result = node.op.type_name == "Result"
    try:
        attributes = _constant_attributes(node.op, weights) if isinstance(node.op, Constant) else encode(node.op)
    except ModelError as error:
        raise ModelError(f"{node}: {error}") from None
    result_names = join_names(_result_names(node)) if is_result else ""
    output_names = f" output_names={quoted(result_names)}" if result_names else ""
    head = (
        f'id="{index}" name={quoted(node.name)} type="{xml_type(node.op.type_name)}" version="{xml_version(node.op)}"'
    )
    yield f"\t\t<layer {head}{output_names}>"
    if attributes:
        yield f"\t\t\t<data {' '.join(f'{k}={quoted(v)}' for k, v in attributes.items())} />"
    yield from attribute_lines(node.rt_info, "\t\t\t")
    if isinstance(node.op, Iteration):
        yield from map_lines(node, _numbered(_file_order(node.op.body)), "\t\t\t")
    if node.inputs:
        yield "\t\t\t<input>"
        for port, value in enumerate(node.inputs):
            # a Result has no output port: what is known about the model output stands on its input
            yield from _port_lines(value, port, "", node.outputs[0].rt_info if is_result else {})
        yield "\t\t\t</input>"
    if not is_result and node.outputs:
        yield "\t\t\t<output>"
        for port, value in enumerate(node.outputs, len(node.inputs)):
            names = join_names(_tensor_names(value))
            yield from _port_lines(value, port, f" names={quoted(names)}" if names else "", value.rt_info)
        yield "\t\t\t</output>"
    if isinstance(node.op, Iteration):
        yield "\t\t\t<body>"
        yield from (f"\t\t\t{line}" for line in _network_lines(node.op.body, weights))
        yield "\t\t\t</body>"
    yield "\t\t</layer>"


def _constant_attributes(op: Constant, weights: WeightWriter) -> dict[str, str]:
    data = pack(op.data, op.element_type)
    return {
        "element_type": op.element_type.name,
        "shape": ", ".join(map(str, op.data.shape)),
        "offset": str(weights.add(data)),
        "size": str(len(data)),
    }


def _result_names(result: Node) -> set[str]:
    return result.outputs[0].names or result.inputs[0].names


def _tensor_names(value: Value) -> set[str]:
    """A model output has no port in the file: its names stand on the value that it returns."""
    names = set(value.names)
    for use in value.uses:
        if use.node.op.type_name == "Result":
            names |= use.node.outputs[0].names
    return names


def _port_lines(value: Value, port: int, names: str, rt_info: Mapping[str, Any]) -> Iterator[str]:
    dims = value.shape.dims or ()
    info = list(attribute_lines(rt_info, "\t\t\t\t\t"))
    head = f'\t\t\t\t<port id="{port}" precision="{value.element_type.precision}"{names}'
    if not dims and not info:
        yield head + " />"
        return
    yield head + ">"
    for dim in dims:
        yield f"\t\t\t\t\t<dim>{dim.lo if dim.is_static else -1}</dim>"
    yield from info
    yield "\t\t\t\t</port>"


def _edge_lines(order: list[Node], ids: dict[int, int]) -> Iterator[str]:
    edges = [
        (ids[id(value.node)], len(value.node.inputs) + value.index, index, port)
        for index, node in enumerate(order)
        for port, value in enumerate(node.inputs)
    ]
    for source, source_port, target, port in sorted(edges):
        yield (f'\t\t<edge from-layer="{source}" from-port="{source_port}" to-layer="{target}" to-port="{port}" />')
