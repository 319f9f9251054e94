"""The CPU device as the registry sees it. The compiler, and LLVM with it, is imported when a model is compiled."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lpir.devices.cpu.aot import checks
from lpir.devices.cpu.threads import executor, start_executor, threads_and_streams
from lpir.ir.model import Model
from lpir.runtime.device import Capabilities, Device, Executable, Exported
from lpir.runtime.properties import Property

INTEGER_OPERATIONS = frozenset(
    (
        "Convolution",
        "GroupConvolution",
        "ConvolutionBackpropData",
        "GroupConvolutionBackpropData",
        "MatMul",
        "Add",
        "Subtract",
        "Multiply",
        "Maximum",
        "Minimum",
        "AvgPool",
        "MaxPool",
        "Interpolate",
        "Concat",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Split",
        "VariadicSplit",
        "Transpose",
        "Tile",
        "StridedSlice",
        "Slice",
        "ShuffleChannels",
        "Broadcast",
        "Pad",
        "Gather",
        "DepthToSpace",
        "SpaceToDepth",
    )
)


class CpuDevice(Device):
    """x86-64 and AArch64 through LLVM."""

    name = "CPU"
    own_properties: ClassVar[tuple[Property, ...]] = (
        Property("ISA", "choice", "auto", "instruction set", ("auto", *checks.NAMES)),
        Property("TUNE", "bool", False, "measure matrix products when a model is compiled, kept in CACHE_DIR"),
    )

    def capabilities(self) -> Capabilities:
        return Capabilities(
            device="CPU",
            full_name=f"{_processor()} ({_isa({})})",
            optimization_capabilities=("FP32", "INT8", "EXPORT_IMPORT"),
            low_precision=True,
            integer_operations=INTEGER_OPERATIONS,
            per_channel_activations=True,
        )

    def compile(self, model: Model, config: Mapping[str, Any]) -> Executable:
        # LLVM is loaded in another thread while the rest of the compiler is
        start_executor()
        from lpir.devices.cpu.device import compile_model

        try:
            return compile_model(model, config)
        finally:
            # a forked child would not have that thread
            executor()

    def export(self, model: Model, config: Mapping[str, Any], prefix: str, soname: str) -> Exported:
        from lpir.devices.cpu.isa import by_name

        if config["ISA"] == "auto" or by_name(config["ISA"]).available():
            return super().export(model, config, prefix, soname)
        from lpir.devices.cpu.aot.cross import cross_compile

        return Exported(*cross_compile(model, config, prefix, soname), config["ISA"])

    def import_model(
        self, source: bytes | Path, config: Mapping[str, Any], key: bytes | None = None
    ) -> tuple[Executable, Model]:
        from lpir.devices.cpu.aot.load import Library, LibraryExecutable

        executable = LibraryExecutable(Library(source, key), config)
        return executable, executable.model()

    def cache_key(self, config: Mapping[str, Any]) -> str | None:
        flags = [bool(config.get(name)) for name in ("PERF_COUNT", "LP_TRANSFORMS_MODE", "TUNE")]
        return f"{_isa(config)} {threads_and_streams(config)} {flags}"

    def reseal(self, exported: bytes, key: bytes) -> bytes:
        from lpir.devices.cpu.aot import seal

        return seal.reseal(exported, key)


def _isa(config: Mapping[str, Any]) -> str:
    """The name of the instruction set that will be used."""
    name = str(config.get("ISA", "auto"))
    if name != "auto":
        return name
    found = checks.host()
    if found is None:
        from lpir.devices.cpu.isa import host_isa

        found = host_isa().name
    return found


def _processor() -> str:
    """The processor's name where the system tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or f"{platform.machine()} CPU"
