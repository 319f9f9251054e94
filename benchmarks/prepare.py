"""The files that the engines run: one float network, and each quantizer's INT8 form of it, calibrated on the photos."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

CALIBRATION = 10


@dataclass(frozen=True)
class Network:
    """A float network: its title, the function that builds it, and whether its labels mean anything.

    exact_photos: how many photos the exact arithmetic is run on (NumPy is slow on large networks).
    """

    title: str
    module: str
    function: str
    trained: bool
    exact_photos: int


NETWORKS = {
    "mobilenet_v2": Network("MobileNetV2", "lpir.demo.mobilenet", "mobilenet_v2", True, 20),
    "efficientnet_lite0": Network("EfficientNet-Lite0", "lpir.demo.efficientnet", "efficientnet_lite0", True, 20),
    "resnet50": Network("ResNet-50 (random weights)", "benchmarks.resnet", "resnet50", False, 3),
}


@dataclass(frozen=True)
class Files:
    """Paths of one network's files.

    `nncf` is the INT8 IR that lpir and OpenVINO share, `own` the one that lpir's quantizer wrote.
    """

    folder: Path
    name: str

    @property
    def onnx(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    @property
    def onnx_int8(self) -> Path:
        return self.folder / f"{self.name}_int8.onnx"

    @property
    def ir(self) -> Path:
        return self.folder / f"{self.name}.xml"

    @property
    def nncf(self) -> Path:
        return self.folder / f"{self.name}_nncf.xml"

    @property
    def own(self) -> Path:
        return self.folder / f"{self.name}_lpir.xml"


def prepare(name: str, folder: Path, photos: list[Array]) -> Files:
    """Makes the files that `folder` does not have yet."""
    files = Files(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    calibration = photos[:CALIBRATION]
    if not (files.onnx.exists() and files.own.exists()):
        _write_float_and_own(name, files, calibration)
    if not files.nncf.exists():
        write_nncf(files, calibration)
    if not files.onnx_int8.exists():
        write_onnx_int8(files, calibration)
    return files


def _write_float_and_own(name: str, files: Files, calibration: list[Array]) -> None:
    import lpir
    from benchmarks.onnx_export import export_onnx

    network = NETWORKS[name]
    model = getattr(importlib.import_module(network.module), network.function)()
    export_onnx(model, files.onnx)
    lpir.save_model(lpir.quantize(model, calibration, progress=False), files.own, compress_to_fp16=False)


def write_nncf(files: Files, calibration: list[Array]) -> None:
    """The float IR and NNCF's INT8 one. Through `convert_model`: after `read_model` of the ONNX file, depthwise layers
    would stay float."""
    import nncf
    import openvino as ov

    model = ov.convert_model(files.onnx)
    ov.save_model(model, files.ir, compress_to_fp16=False)
    quantized = nncf.quantize(model, nncf.Dataset(calibration), subset_size=len(calibration))
    ov.save_model(quantized, files.nncf, compress_to_fp16=False)


def write_onnx_int8(files: Files, calibration: list[Array]) -> None:
    """ONNX Runtime's own quantization: QDQ, u8 activations, s8 weights with one scale a channel."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = files.onnx.with_suffix(".ready.onnx")
    quant_pre_process(str(files.onnx), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready),
        str(files.onnx_int8),
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    ready.unlink()


class _Reader:
    """ONNX Runtime's CalibrationDataReader: one feed after the other, then None."""

    def __init__(self, arrays: list[Array]) -> None:
        self.feeds: Iterator[dict[str, Array]] = iter([{"input": x} for x in arrays])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self.feeds
