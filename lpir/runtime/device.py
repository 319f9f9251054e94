"""What a device is: it says what it can do, and compiles a model into something that runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lpir.errors import InputError, UnsupportedError
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.record import record
from lpir.runtime.explain import Explanation
from lpir.runtime.profile import ProfilingInfo
from lpir.runtime.properties import COMMON, Property


@record
class Capabilities:
    """What a device can do, as data; the quantizer decides by it.

    low_precision: whether FakeQuantize becomes integer arithmetic; integer_operations: public operations that then run
    on 8-bit codes; the limits say which quantization they take. max_reduction: longest sum of products that is exact.
    """

    device: str
    full_name: str
    optimization_capabilities: tuple[str, ...] = ("FP32",)
    low_precision: bool = False
    integer_operations: frozenset[str] = frozenset()
    activation_levels: int = 256
    weight_levels: int = 256
    per_channel_weights: bool = True
    per_channel_activations: bool = False
    asymmetric_activations: bool = True
    asymmetric_weights: bool = False
    max_reduction: int = 65_792


class Runner(ABC):
    """The state of one inference: buffers and variables. One thread at a time may use it."""

    @abstractmethod
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs in the model's order, in arrays that the caller owns; `inputs` were checked and are contiguous."""

    def profiling_info(self) -> list[ProfilingInfo]:
        """Times of the last run; empty unless the model was compiled with PERF_COUNT."""
        return []

    def reset_state(self) -> None:  # noqa: B027  (a runner without variables has nothing to do)
        """Variables of a stateful model start anew."""

    def forget(self) -> None:  # noqa: B027  (a runner that copies its inputs keeps none)
        """Lets go of the arrays of the last run."""


class Executable(ABC):
    """A compiled model. Runners made from it share everything but buffers."""

    @abstractmethod
    def create_runner(self) -> Runner:
        """A new runner with its own buffers."""

    @abstractmethod
    def explain(self) -> Explanation:
        """Which precision and kernel each operation of the model runs in, and why."""

    def runtime_model(self) -> Model | None:
        """The graph that really runs, its constants as they are used, where the device has one."""
        return None

    def properties(self) -> dict[str, Any]:
        """Read-only facts of this executable, by property name."""
        return {}

    def export_model(self, prefix: str = "lpir_model", soname: str = "") -> bytes:
        """What `Device.import_model` takes; a shared library whose functions start with `prefix`, where that applies.

        Raises UnsupportedError that says why there is none.
        """
        raise UnsupportedError("this compiled model cannot be exported: it runs in Python")

    def header(self, prefix: str) -> str:
        """The C header of the exported library. Raises UnsupportedError."""
        raise UnsupportedError("this compiled model has no C header")


@record
class Exported:
    """A compiled model as a library, its C header, and what it was made for."""

    library: bytes
    header: str
    made_for: str


class Device(ABC):
    """A device: two methods, and the properties it understands."""

    name: ClassVar[str]
    own_properties: ClassVar[tuple[Property, ...]] = ()

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the device can do."""

    @abstractmethod
    def compile(self, model: Model, config: Mapping[str, Any]) -> Executable:
        """Prepares `model`, which is the user's: the device neither changes nor keeps it, only the data of constants.

        `config` has a value for each property.
        """

    def export(self, model: Model, config: Mapping[str, Any], prefix: str, soname: str) -> Exported:
        """The library of a model, whose functions start with `prefix`. What it is made for may be another machine.

        Raises UnsupportedError that says why there is none.
        """
        made = self.compile(model, config)
        library, header = made.export_model(prefix, soname), made.header(prefix)
        return Exported(library, header, str(made.properties().get("ISA", self.name)))

    def import_model(
        self, source: bytes | Path, config: Mapping[str, Any], key: bytes | None = None
    ) -> tuple[Executable, Model]:
        """An exported model, and its inputs and outputs as a model.

        With a `key` (of the cache) it must have been sealed for it, by these versions. Raises FileError when it is
        damaged or was made by others, UnsupportedError when it cannot run here.
        """
        raise UnsupportedError(f"device {self.name} imports no compiled models")

    def cache_key(self, config: Mapping[str, Any]) -> str | None:
        """What compiled code depends on besides the model and the versions; None for a device that caches nothing."""
        return None

    def reseal(self, exported: bytes, key: bytes) -> bytes:
        """An exported model, sealed for the key of the cache."""
        return exported

    def properties(self) -> dict[str, Property]:
        """Everything that `config` may hold."""
        return {p.name: p for p in (*COMMON, *self.own_properties)}

    def configure(self, config: Mapping[str, Any] | None) -> dict[str, Any]:
        """`config` checked and completed with defaults. Raises InputError that lists the known properties."""
        known = self.properties()
        values = {name: p.default for name, p in known.items()}
        for name, value in (config or {}).items():
            if name not in known:
                raise InputError(f"{self.name} has no property {name!r}; it has {', '.join(sorted(known))}")
            values[name] = known[name].parse(value)
        return values
