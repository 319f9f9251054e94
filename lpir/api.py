"""The front door, with OpenVINO's names: read, convert, save, compile and run models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import lpir
from lpir.errors import FileError, InputError
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY, Op
from lpir.ir.op import op as register_op
from lpir.runtime import registry
from lpir.runtime.device import Device
from lpir.runtime.session import CompiledModel, compile_source, import_on

PathLike = str | Path
Exported = bytes | bytearray | memoryview | IO[bytes]


def read_model(model: PathLike | bytes, weights: PathLike | bytes | None = None) -> Model:
    """A model from a file: `.xml` (with its `.bin`) or `.onnx`; or from the bytes of an `.xml` and its weights.

    Raises FileError for a file that is missing, damaged or of an unknown type, UnsupportedError for operations that
    lpir lacks.
    """
    if isinstance(model, bytes) or Path(model).suffix.lower() == ".xml":
        from lpir.serialize.xml_read import read_model as read_ir

        return read_ir(model, weights)
    return convert_model(model)


def convert_model(input_model: PathLike | Model, input: Any = None, output: Any = None) -> Model:
    """A model from another format, by its extension: `.onnx`.

    input: new shapes, as a dict of name or position -> shape, or one shape for a model with one input; output: names
    where the model ends. Quantized weights are stored compressed. Raises FileError, UnsupportedError, InputError.
    """
    model = input_model if isinstance(input_model, Model) else _import(Path(input_model))
    if output is not None:
        model = cut_outputs(model, [output] if isinstance(output, str) else list(output))
    if input is not None:
        model.reshape(input)
    if isinstance(input_model, Model):
        return model
    from lpir.passes.compress import compress_weights
    from lpir.passes.manager import transform

    transform(model)
    compress_weights(model)
    return model


def _exported(source: PathLike | Exported) -> bytes | Path:
    """The bytes of a compiled model, or where they are. Raises InputError for what is neither."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | Path):
        return Path(source)
    data = source.read() if hasattr(source, "read") else None
    if not isinstance(data, bytes):
        raise InputError(
            f"a compiled model cannot come from a {type(source).__name__}: give its bytes, path or open file"
        )
    return data


def _import(path: Path) -> Model:
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileError(f"{path}: there is no such file")
    if path.is_dir():
        raise FileError(f"{path}: that is a folder, not a model")
    if suffix == ".xml":
        return read_model(path)
    if suffix == ".onnx":
        from lpir.frontends.onnx import read_onnx

        return read_onnx(path)
    raise FileError(f"{path}: unknown type of file {suffix or '(no extension)'!r}; lpir reads .xml and .onnx")


def cut_outputs(model: Model, names: list[str]) -> Model:
    """The part of `model` that computes the values with these tensor or node names. Raises InputError."""
    from lpir.ir.graph import Node
    from lpir.ops.boundary import Result

    copy = model.clone()
    found = {}
    for node in copy.nodes():
        for value in node.outputs:
            found.update(dict.fromkeys((node.name, value.name, *value.names), value))
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"the model has no value called {', '.join(map(repr, missing))}")
    results = [Node(Result(), [found[name]], name) for name in names]
    return Model(results, copy.parameters, copy.name, copy.sinks)


def save_model(model: Model, path: PathLike, compress_to_fp16: bool = True) -> None:
    """Writes `path` (.xml) and the .bin next to it. Raises FileError."""
    from lpir.serialize.xml_write import write_model

    write_model(model, path, compress_to_fp16=compress_to_fp16)


def compile_model(
    model: Model | PathLike, device_name: str = "AUTO", config: Mapping[str, Any] | None = None
) -> CompiledModel:
    """A model, or the path of one, ready to run on "CPU", "REFERENCE", ... ("AUTO": the fastest there is)."""
    return Core().compile_model(model, device_name, config)


class Core:
    """Devices, their properties, and extensions."""

    def __init__(self) -> None:
        self._config: dict[str, dict[str, Any]] = {}

    def read_model(self, model: PathLike | bytes, weights: PathLike | bytes | None = None) -> Model:
        """See `lpir.read_model`."""
        return read_model(model, weights)

    def compile_model(
        self, model: Model | PathLike, device_name: str = "AUTO", config: Mapping[str, Any] | None = None
    ) -> CompiledModel:
        """See `lpir.compile_model`; properties set on this Core apply too."""
        device = registry.load(device_name)
        source = model if isinstance(model, Model) else Path(model)
        return compile_source(device, source, self._merged(device, config), self.read_model)

    def import_model(
        self, source: PathLike | Exported, device_name: str = "CPU", config: Mapping[str, Any] | None = None
    ) -> CompiledModel:
        """What `CompiledModel.export_model` gave, as bytes, in a file, or in an open one; on the CPU without LLVM.

        Raises FileError when it is damaged, UnsupportedError when it cannot run here. It is code: import only what you
        would run as a program.
        """
        device = registry.load(device_name)
        return import_on(device, _exported(source), self._merged(device, config))

    def _merged(self, device: Device, config: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**self._config.get(device.name, {}), **(config or {})}

    @property
    def available_devices(self) -> list[str]:
        """Names of the devices that work on this machine."""
        return registry.available()

    def query_model(self, model: Model, device_name: str) -> dict[str, str]:
        """The operations that the device can run: node name -> device name."""
        device = registry.load(device_name)
        return dict.fromkeys([node.name for node in model.nodes()], device.name)

    def set_property(self, device_name: str, properties: Mapping[str, Any]) -> None:
        """Sets properties for later `compile_model` calls. Raises InputError that lists the known ones."""
        device = registry.load(device_name)
        known = device.configure(properties)
        self._config.setdefault(device.name, {}).update({name: known[name] for name in properties})

    def get_property(self, device_name: str, name: str) -> Any:
        """A property of a device. Raises InputError that lists the known ones."""
        device = registry.load(device_name)
        facts = {**device.configure(self._config.get(device.name)), **_facts(device, self)}
        if name not in facts:
            raise InputError(f"{device.name} has no property {name!r}; it has {', '.join(sorted(facts))}")
        return facts[name]

    def get_versions(self, device_name: str) -> dict[str, str]:
        """Device name -> version of lpir."""
        return {registry.load(device_name).name: lpir.__version__}

    def register_plugin(self, entry: str | Callable[[], Device], device_name: str) -> None:
        """Adds a device: "module:attribute", or a callable that makes it. Raises InputError when the name is taken."""
        registry.register(device_name, entry)

    def unload_plugin(self, device_name: str) -> None:
        """Forgets a device. Raises InputError for an unknown name."""
        registry.unregister(device_name)

    def add_extension(self, extension: type[Op]) -> None:
        """Registers an operation class, so that files with it can be read and run. Raises InputError when it exists."""
        if getattr(extension, "type_name", "") in REGISTRY or extension.__name__ in REGISTRY:
            raise InputError(f"operation {extension.__name__} exists already")
        register_op(extension)


def _facts(device: Device, core: Core) -> dict[str, Any]:
    capabilities = device.capabilities()
    facts = {
        "FULL_DEVICE_NAME": capabilities.full_name,
        "OPTIMIZATION_CAPABILITIES": list(capabilities.optimization_capabilities),
        "AVAILABLE_DEVICES": core.available_devices,
    }
    return {**facts, "SUPPORTED_PROPERTIES": sorted([*device.properties(), *facts])}
