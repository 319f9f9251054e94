"""The files that the engines run: one float network, and each quantizer's INT8 form of it, all calibrated alike."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.litert import write_litert
from benchmarks.samples import (
    Array,
    Inputs,
    Samples,
    photo_answer,
    photo_samples,
    prose_samples,
    sentence_embedding,
)


@dataclass(frozen=True)
class Network:
    """A float network: its title, the function that builds it, and whether its labels mean anything.

    exact: on how many samples the exact arithmetic is run (NumPy is slow on large networks); calibration: how many
    samples the quantizers see; answer: what of an output is compared.
    """

    title: str
    module: str
    function: str
    trained: bool
    exact: int
    samples: Callable[[Path], Samples] = photo_samples
    answer: Callable[[Array, Inputs], Array] = photo_answer
    calibration: int = 10
    transformer: bool = False


NETWORKS = {
    "mobilenet_v2": Network("MobileNetV2", "lpir.demo.mobilenet", "mobilenet_v2", True, 20),
    "efficientnet_lite0": Network("EfficientNet-Lite0", "lpir.demo.efficientnet", "efficientnet_lite0", True, 20),
    "resnet50": Network("ResNet-50 (random weights)", "benchmarks.resnet", "resnet50", False, 3),
    "minilm": Network(
        "all-MiniLM-L6-v2, 128 tokens",
        "benchmarks.minilm",
        "minilm",
        False,
        20,
        prose_samples,
        sentence_embedding,
        30,
        transformer=True,
    ),
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
    def onnx_fused(self) -> Path:
        return self.folder / f"{self.name}_fused.onnx"

    @property
    def onnx_dynamic(self) -> Path:
        return self.folder / f"{self.name}_dynamic.onnx"

    @property
    def litert(self) -> Path:
        return self.folder / f"{self.name}.tflite"

    @property
    def litert_int8(self) -> Path:
        return self.folder / f"{self.name}_int8.tflite"

    @property
    def ir(self) -> Path:
        return self.folder / f"{self.name}.xml"

    @property
    def nncf(self) -> Path:
        return self.folder / f"{self.name}_nncf.xml"

    @property
    def own(self) -> Path:
        return self.folder / f"{self.name}_lpir.xml"


def prepare(name: str, folder: Path, samples: list[Inputs], litert_python: Path | None = None) -> Files:
    """Makes the files that `folder` does not have yet; the first samples calibrate.

    litert_python: of an environment with LiteRT's converters, where there is one.
    """
    files, network = Files(folder, name), NETWORKS[name]
    folder.mkdir(parents=True, exist_ok=True)
    calibration = samples[: network.calibration]
    if not (files.onnx.exists() and files.own.exists()):
        _write_float_and_own(network, files, calibration)
    if not files.nncf.exists():
        write_nncf(files, calibration, network.transformer)
    if not files.onnx_int8.exists():
        write_onnx_int8(files, calibration, network.transformer)
    if network.transformer and not files.onnx_dynamic.exists():
        write_onnx_dynamic(files)
    if litert_python and not files.litert_int8.exists():
        write_litert(files, calibration, litert_python)
    return files


def _write_float_and_own(network: Network, files: Files, calibration: list[Inputs]) -> None:
    import lpir
    from benchmarks.onnx_export import export_onnx

    model = getattr(importlib.import_module(network.module), network.function)()
    export_onnx(model, files.onnx)
    model_type = "transformer" if network.transformer else None
    quantized = lpir.quantize(model, [list(x) for x in calibration], model_type=model_type, progress=False)
    lpir.save_model(quantized, files.own, compress_to_fp16=False)


def write_nncf(files: Files, calibration: list[Inputs], transformer: bool = False) -> None:
    """The float IR and NNCF's INT8 one. Through `convert_model`: after `read_model` of the ONNX file, depthwise layers
    would stay float."""
    import nncf
    import openvino as ov

    model = ov.convert_model(files.onnx)
    ov.save_model(model, files.ir, compress_to_fp16=False)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(calibration),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    ov.save_model(quantized, files.nncf, compress_to_fp16=False)


def write_onnx_int8(files: Files, calibration: list[Inputs], transformer: bool = False) -> None:
    """ONNX Runtime's own quantization: QDQ, u8 activations, s8 weights with one scale a channel.

    Of a transformer the products alone: with additions and softmax in 8 bits its answers mean nothing.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = files.onnx.with_suffix(".ready.onnx")
    quant_pre_process(str(files.onnx), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready),
        str(files.onnx_int8),
        _Reader(files.onnx, calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"] if transformer else None,
    )
    ready.unlink()


def write_onnx_dynamic(files: Files) -> None:
    """ONNX Runtime's fused transformer, and its dynamic quantization: activations are quantized as they come."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    from benchmarks.minilm import HEADS, WIDTH

    fused = optimize_model(str(files.onnx), "bert", num_heads=HEADS, hidden_size=WIDTH, opt_level=0)
    fused.save_model_to_file(str(files.onnx_fused))
    quantize_dynamic(
        str(files.onnx_fused),
        str(files.onnx_dynamic),
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


class _Reader:
    """ONNX Runtime's CalibrationDataReader: one feed after the other, then None."""

    def __init__(self, path: Path, samples: list[Inputs]) -> None:
        import onnx

        names = [v.name for v in onnx.load(path, load_external_data=False).graph.input]
        self.feeds: Iterator[dict[str, Array]] = iter([dict(zip(names, x, strict=True)) for x in samples])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self.feeds
