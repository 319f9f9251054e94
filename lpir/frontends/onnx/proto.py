"""The one door to the `onnx` package: files and ModelProto objects become the records of `records`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lpir.errors import FileError, LpirError, ModelError, UnsupportedError
from lpir.frontends.onnx.records import (
    ELEMENT_TYPES,
    Graph,
    OnnxModel,
    Operator,
    Tensor,
    TensorInfo,
    element_type,
)
from lpir.ir.op import Array
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ir.types import ElementType, dynamic

# deeper nesting of control-flow bodies than this is refused
MAX_NESTING = 32
MAX_OPSET = 28
MAX_EXPANSIONS = 4
Source = str | os.PathLike[str] | bytes | Any


def load(source: Source, supported: Any = None) -> OnnxModel:
    """The records of an ONNX file (path, bytes or ModelProto).

    `supported(domain, type, version)` tells which operators have a converter: the others are replaced by ONNX's own
    definition in terms of simpler operators where there is one. Raises FileError, ModelError or UnsupportedError.
    """
    proto, origin, folder = _parse(source)
    try:
        return _Reader(origin, folder).model(_inlined(proto, supported))
    except LpirError as error:
        raise type(error)(f"{origin}: {error}") from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RecursionError) as error:
        raise FileError(f"{origin}: damaged ONNX file: {error}") from error


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise UnsupportedError("reading ONNX needs the 'onnx' package: pip install onnx") from error
    return onnx


def _parse(source: Source) -> tuple[Any, str, Path | None]:
    onnx = _onnx()
    if isinstance(source, onnx.ModelProto):
        return source, "ModelProto", None
    folder = None
    if isinstance(source, bytes | bytearray | memoryview):
        data, origin = bytes(source), "<bytes>"
    else:
        path = Path(source)
        origin, folder = str(path), path.parent
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror or error}") from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's error class depends on its implementation
        raise FileError(f"{origin}: not an ONNX file, or truncated: {error}") from None
    if not proto.HasField("graph") or not proto.opset_import:
        raise FileError(f"{origin}: not an ONNX model: {'no graph' if proto.opset_import else 'no operator set'}")
    return proto, origin, folder


def _inlined(proto: Any, supported: Any) -> Any:
    """The model with its own functions, and operators that only ONNX's definition explains, written out."""
    try:
        from onnx import inliner
    except ImportError:
        return proto
    if proto.functions:
        try:
            proto = inliner.inline_local_functions(proto)
        except Exception as error:  # C++ exceptions of several kinds on damaged models
            raise FileError(f"the functions of the model cannot be expanded: {error}") from None
    # a definition may use operators that need expanding in turn
    for _ in range(MAX_EXPANSIONS if supported else 0):
        unknown = _explained(proto, supported)
        if not unknown:
            break
        proto = _with_defaults(proto, set(unknown))
        try:
            proto = inliner.inline_selected_functions(proto, unknown, inline_schema_functions=True)
        except Exception:  # then the operator is reported as unsupported, with all others
            break
    return proto


def _explained(proto: Any, supported: Any) -> list[tuple[str, str]]:
    onnx = _onnx()
    versions = {_domain(o.domain): o.version for o in proto.opset_import}
    found: dict[tuple[str, str], None] = {}
    for node in proto.graph.node:
        domain = _domain(node.domain)
        if supported(domain, node.op_type, versions.get(domain, 0)):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 0), domain)
        except Exception:  # not an operator that onnx knows: reported later with all others
            continue
        if schema.has_function or schema.has_context_dependent_function:
            found[(node.domain, node.op_type)] = None
    return list(found)


def _with_defaults(proto: Any, kinds: set[tuple[str, str]]) -> Any:
    """A copy in which the operators `kinds` state the attributes that they leave to their defaults: the inliner
    does not know the defaults."""
    onnx = _onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    versions = {_domain(o.domain): o.version for o in proto.opset_import}
    for node in copy.graph.node:
        if (node.domain, node.op_type) in kinds:
            domain = _domain(node.domain)
            schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 0), domain)
            stated = {a.name for a in node.attribute}
            for name, attribute in schema.attributes.items():
                if name not in stated and attribute.default_value.type:
                    node.attribute.append(attribute.default_value)
    return copy


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


class _Reader:
    """Turns protobuf messages into records, distrusting every length and path in them."""

    def __init__(self, origin: str, folder: Path | None) -> None:
        self.origin = origin
        self.folder = folder

    def model(self, proto: Any) -> OnnxModel:
        opsets = {_domain(_text(o.domain)): int(o.version) for o in proto.opset_import}
        if opsets.get("", 1) > MAX_OPSET:
            raise UnsupportedError(f"operator set {opsets['']} is newer than {MAX_OPSET}, the newest that lpir knows")
        return OnnxModel(self.graph(proto.graph, 0), opsets, self.origin, _text(proto.producer_name))

    def graph(self, proto: Any, depth: int) -> Graph:
        if depth > MAX_NESTING:
            raise FileError(f"graphs nested deeper than {MAX_NESTING}")
        if proto.sparse_initializer:
            raise UnsupportedError(f"graph '{proto.name}': sparse initializers are not supported")
        initializers: dict[str, Tensor] = {}
        for tensor in proto.initializer:
            name = _text(tensor.name)
            if name in initializers:
                raise ModelError(f"two initializers are called '{name}'")
            initializers[name] = self.tensor(tensor)
        operators = [self.operator(node, index, depth) for index, node in enumerate(proto.node)]
        infos = [self.info(v, strict=False) for v in proto.value_info]
        return Graph(
            _text(proto.name),
            operators,
            initializers,
            # bodies may leave the types of their inputs open
            [self.info(v, strict=depth == 0 or v.HasField("type")) for v in proto.input],
            [self.info(v, strict=False) for v in proto.output],
            {v.name: v for v in infos},
        )

    def info(self, proto: Any, strict: bool = True) -> TensorInfo:
        kind = proto.type.WhichOneof("value")
        if kind != "tensor_type":
            if strict:
                raise UnsupportedError(f"input '{proto.name}' is a {kind or 'value without a type'}, not a tensor")
            return TensorInfo(_text(proto.name), dynamic, PartialShape(None))
        tensor = proto.type.tensor_type
        if not strict and tensor.elem_type not in ELEMENT_TYPES:
            return TensorInfo(_text(proto.name), dynamic, PartialShape(None))
        try:
            known = tensor.HasField("shape")
            shape = PartialShape([_dimension(d) for d in tensor.shape.dim] if known else None)
            return TensorInfo(_text(proto.name), element_type(tensor.elem_type), shape)
        except LpirError as error:
            raise type(error)(f"tensor '{proto.name}': {error}") from None

    def operator(self, proto: Any, index: int, depth: int) -> Operator:
        kind, inputs, outputs = _text(proto.op_type), _texts(proto.input), _texts(proto.output)
        name = _text(proto.name) or next((o for o in outputs if o), f"{kind}_{index}")
        attributes = {_text(a.name): self.attribute(a, name, depth) for a in proto.attribute}
        return Operator(kind, _domain(_text(proto.domain)), name, inputs, outputs, attributes)

    def attribute(self, proto: Any, owner: str, depth: int) -> Any:
        kinds = _onnx().AttributeProto
        match proto.type:
            case kinds.FLOAT:
                return float(proto.f)
            case kinds.INT:
                return int(proto.i)
            case kinds.STRING:
                return proto.s.decode("utf-8", "replace")
            case kinds.FLOATS:
                return tuple(float(v) for v in proto.floats)
            case kinds.INTS:
                return tuple(int(v) for v in proto.ints)
            case kinds.STRINGS:
                return tuple(s.decode("utf-8", "replace") for s in proto.strings)
            case kinds.TENSOR:
                return self.tensor(proto.t, f"attribute '{proto.name}' of '{owner}'")
            case kinds.GRAPH:
                return self.graph(proto.g, depth + 1)
        raise UnsupportedError(f"attribute '{proto.name}' of '{owner}' has a kind that lpir does not read")

    def tensor(self, proto: Any, label: str = "") -> Tensor:
        label = label or f"initializer '{proto.name}'"
        try:
            kind = element_type(proto.data_type)
            return Tensor(self._array(proto, kind), kind)
        except LpirError as error:
            raise type(error)(f"{label}: {error}") from None

    def _array(self, proto: Any, kind: ElementType) -> Array:
        shape = tuple(int(d) for d in proto.dims)
        if any(d < 0 for d in shape):
            raise ModelError(f"negative dimension in shape {shape}")
        count = math.prod(shape)
        raw: Any = None
        if proto.data_location == _onnx().TensorProto.EXTERNAL:
            raw = self._external(proto, kind.size_of(count))
        elif proto.HasField("raw_data"):
            raw = proto.raw_data
        if raw is None:
            return _typed(proto, shape, kind)
        if len(raw) != kind.size_of(count):
            raise FileError(f"{len(raw)} bytes of data, but shape {list(shape)} of {kind} needs {kind.size_of(count)}")
        return unpack(raw, kind, count).reshape(shape)

    def _external(self, proto: Any, size: int) -> Array | bytes:
        entries = {_text(e.key): _text(e.value) for e in proto.external_data}
        location = entries.get("location", "")
        if self.folder is None:
            raise FileError(f"its data is in another file ('{location}'); read the model from a path")
        folder = self.folder.resolve()
        path = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
            raise FileError(f"external data '{location}' is outside the folder of the model")
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(size)))
        except ValueError as error:
            raise FileError(f"external data '{location}': {error}") from None
        if not path.is_file():
            raise FileError(f"external data file '{location}' is missing")
        if offset < 0 or length != size or offset + length > path.stat().st_size:
            raise FileError(
                f"external data '{location}': {size} bytes needed, bytes {offset}..{offset + length} stated, "
                f"the file has {path.stat().st_size}"
            )
        if not size:
            return b""
        return np.memmap(path, np.uint8, "r", offset, (size,))


def _text(value: str | bytes) -> str:
    """A name. Raises FileError when it is not UTF-8: protobuf then hands out bytes."""
    if isinstance(value, bytes):
        raise FileError(f"the name {value[:40]!r} is not UTF-8")
    return value


def _texts(values: Iterable[str | bytes]) -> tuple[str, ...]:
    return tuple(_text(v) for v in values)


def unpack(raw: Any, kind: ElementType, count: int) -> Array:
    """`count` elements of `kind` from little-endian bytes; 4-bit types hold the first element in the low nibble."""
    if kind.bits != 4:
        return np.frombuffer(raw, kind.dtype, count)
    codes = np.frombuffer(raw, np.uint8)
    codes = np.stack([codes & 15, codes >> 4], -1).reshape(-1)[:count]
    if kind.is_signed:
        return ((codes.astype(np.int8) ^ 8) - 8).astype(kind.dtype)
    return codes.astype(kind.dtype)


def _typed(proto: Any, shape: tuple[int, ...], kind: ElementType) -> Array:
    """Elements that are stored in a typed field instead of raw bytes."""
    count = math.prod(shape)
    field = {"f32": "float_data", "f64": "double_data", "i64": "int64_data", "u64": "uint64_data", "u32": "uint64_data"}
    values = getattr(proto, field.get(kind.name, "int32_data"))
    wanted = -(-count // 2) if kind.bits == 4 else count
    if len(values) != wanted:
        raise FileError(f"{len(values)} elements of data, but shape {list(shape)} needs {wanted}")
    if kind.bits == 4:
        return unpack(np.asarray(values, np.int64).astype(np.uint8).tobytes(), kind, count).reshape(shape)
    if kind.name in ("f16", "bf16"):
        return np.asarray(values, np.int64).astype(np.uint16).view(kind.dtype).reshape(shape)
    return np.asarray(values).astype(kind.dtype).reshape(shape)


def _dimension(proto: Any) -> Dimension:
    if proto.WhichOneof("value") != "dim_value" or proto.dim_value == -1:
        return ANY
    if proto.dim_value < 0:
        raise ModelError(f"dimension {proto.dim_value} is negative")
    return Dimension(int(proto.dim_value), int(proto.dim_value))
