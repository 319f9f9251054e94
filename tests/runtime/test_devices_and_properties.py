"""Devices by name and their properties."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lpir
from lpir.errors import FileError, InputError, UnsupportedError
from lpir.ir.model import Model
from lpir.runtime import registry
from lpir.runtime.device import Capabilities, Device, Executable
from lpir.runtime.interpreter import Interpreter
from lpir.runtime.properties import Property
from tests.runtime.graphs import linear


class Mine(Device):
    name = "MINE"

    def capabilities(self) -> Capabilities:
        return Capabilities("MINE", "a plug-in")

    def compile(self, model: Model, config: Mapping[str, Any]) -> Executable:
        return Interpreter(model.clone(), self.name)


def test_unknown_device() -> None:
    with pytest.raises(InputError, match=r"unknown device 'NPU'; there are AUTO, CPU"):
        lpir.compile_model(linear(), "NPU")


def test_plugin() -> None:
    core = lpir.Core()
    core.register_plugin(Mine, "MINE")
    try:
        assert "MINE" in core.available_devices
        assert core.query_model(linear(), "MINE")["matmul"] == "MINE"
        assert core.compile_model(linear(), "MINE")([np.ones((2, 3))])[0][0, 0] == 3
        with pytest.raises(InputError, match="registered already"):
            core.register_plugin(Mine, "MINE")
    finally:
        core.unload_plugin("MINE")
    with pytest.raises(InputError, match="unknown device"):
        core.unload_plugin("MINE")


def test_device_without_its_library() -> None:
    registry.register("LOST", "lpir.devices.lost.device:LostDevice")
    try:
        assert "LOST" not in registry.available()
        with pytest.raises(UnsupportedError, match=r"LOST is not available"):
            registry.load("LOST")
    finally:
        registry.unregister("LOST")


def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert lpir.compile_model(linear()).get_property("EXECUTION_DEVICES")[0] in ("CPU", "GPU")


@pytest.mark.parametrize("device", ["CPU", "REFERENCE"])
def test_unknown_property(device: str) -> None:
    with pytest.raises(InputError, match=r"has no property 'SPEED'; it has .*INFERENCE_NUM_THREADS"):
        lpir.compile_model(linear(), device, {"SPEED": 11})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PERFORMANCE_HINT", "FAST", "LATENCY, THROUGHPUT"),
        ("INFERENCE_NUM_THREADS", -1, "at least 0"),
        ("INFERENCE_NUM_THREADS", "two", "an integer"),
        ("PERF_COUNT", "perhaps", "YES or NO"),
        ("ISA", "mmx", "avx2"),
    ],
)
def test_wrong_value(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError, match=allowed):
        lpir.compile_model(linear(), "CPU", {name: value})


@pytest.mark.parametrize(("text", "value"), [("YES", True), ("no", False), (True, True), (0, False)])
def test_booleans(text: Any, value: bool) -> None:
    assert Property("P", "bool", False, "").parse(text) is value


def test_core_keeps_properties() -> None:
    core = lpir.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": "1"})
    assert core.get_property("CPU", "INFERENCE_NUM_THREADS") == 1
    assert "INT8" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert "ISA" in core.get_property("CPU", "SUPPORTED_PROPERTIES")
    compiled = core.compile_model(linear(), "CPU")
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NETWORK_NAME") == "linear"
    with pytest.raises(InputError, match="has no property 'X'"):
        compiled.get_property("X")
    with pytest.raises(InputError, match="has no property 'X'"):
        core.get_property("CPU", "X")


def test_throughput_means_streams() -> None:
    config = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": 4}
    compiled = lpir.compile_model(linear(), "CPU", config)
    assert compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") == 4
    assert compiled([np.ones((2, 3))])[0][0, 0] == 3


def test_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        lpir.convert_model(tmp_path / "a.onnx")
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(FileError, match=r"lpir reads .xml and .onnx"):
        lpir.read_model(tmp_path / "a.gguf")


def test_save_and_read(tmp_path: Path) -> None:
    lpir.save_model(linear(), tmp_path / "m.xml")
    compiled = lpir.compile_model(tmp_path / "m.xml", "CPU")
    assert compiled({"x": np.ones((2, 3))})["y"][0, 0] == 3


def test_cut_outputs() -> None:
    model = lpir.convert_model(linear(), input=[4, 3], output="matmul")
    assert model.outputs[0].shape.to_static() == (4, 4)
    with pytest.raises(InputError, match="no value called 'nothing'"):
        lpir.convert_model(linear(), output=["nothing"])
