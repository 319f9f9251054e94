"""Engines behind one small interface, each set up as its makers recommend for latency."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# oneDNN's names for what lpir calls an instruction set
ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
ONEDNN = {"avx2": "AVX2", "avx_vnni": "AVX2_VNNI", "avx512": "AVX512_CORE", "avx512_vnni": "AVX512_CORE_VNNI"}


class Engine(ABC):
    """A compiled network with bound input and output: `run` is one inference and nothing else."""

    # the key in ENGINES
    key: ClassVar[str]

    def __init__(self, maker: str, precision: str, path: Path, threads: int, exact: bool = False) -> None:
        self.maker = maker
        self.precision = precision
        self.path = path
        self.threads = threads
        # the file's meaning in float arithmetic, in place of integer kernels
        self.exact = exact

    @property
    def name(self) -> str:
        return f"{self.maker} {self.precision}"

    @abstractmethod
    def bind(self, *inputs: Array) -> None:
        """Sets the inputs of later runs."""

    @abstractmethod
    def run(self) -> None:
        """One inference."""

    @abstractmethod
    def output(self) -> Array:
        """The only output of the last run."""

    def infer(self, *inputs: Array) -> Array:
        self.bind(*inputs)
        self.run()
        return np.array(self.output())

    def kernels(self) -> dict[str, Any]:
        """How many convolutions run in which kernel, as far as the engine tells."""
        return {}


class Lpir(Engine):
    """lpir on "CPU", or "REFERENCE" when `exact`."""

    key = "lpir"

    def __init__(
        self, precision: str, path: Path, threads: int, exact: bool = False, isa: str = "", maker: str = "lpir"
    ) -> None:
        import lpir

        super().__init__(maker, precision, path, threads, exact)
        config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        if isa and not exact:
            config["ISA"] = isa
        self.compiled = lpir.compile_model(path, "REFERENCE" if exact else "CPU", {} if exact else config)
        self.request = self.compiled.create_infer_request()

    def bind(self, *inputs: Array) -> None:
        for i, x in enumerate(inputs):
            self.request.set_input_tensor(i, x)

    def run(self) -> None:
        self.request.infer()

    def output(self) -> Array:
        return self.request.results[0]

    def kernels(self) -> dict[str, Any]:
        rows = [r for r in self.compiled.explain() if r.type in ("Convolution", "GroupConvolution", "MatMul")]
        return _nested(Counter((r.type, f"{r.kernel} {r.precision}") for r in rows))


class OpenVino(Engine):
    """OpenVINO's CPU device; `exact` runs FakeQuantize as it is written."""

    key = "openvino"

    def __init__(self, precision: str, path: Path, threads: int, exact: bool = False) -> None:
        import openvino as ov

        super().__init__("OpenVINO", precision, path, threads, exact)
        # without the hint FP32 networks would run in bfloat16 where the CPU has it
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if exact:
            config["LP_TRANSFORMS_MODE"] = "NO"
        self.model = ov.Core().read_model(path)
        self.compiled = ov.Core().compile_model(self.model, "CPU", config)
        self.request = self.compiled.create_infer_request()
        self.result = np.zeros(self.compiled.outputs[0].shape, np.float32)
        self.request.set_output_tensor(ov.Tensor(self.result, shared_memory=True))
        self._tensor = ov.Tensor

    def bind(self, *inputs: Array) -> None:
        for i, x in enumerate(inputs):
            self.request.set_input_tensor(i, self._tensor(x, shared_memory=True))

    def run(self) -> None:
        self.request.infer(share_outputs=True)

    def output(self) -> Array:
        return self.result

    def kernels(self) -> dict[str, Any]:
        kinds = {n.get_friendly_name(): n.get_type_name() for n in self.model.get_ops()}
        count: Counter[tuple[str, str]] = Counter()
        for node in self.compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            kind, primitive, precision, names = (
                str(info[key].astype(str))
                for key in ("layerType", "primitiveType", "runtimePrecision", "originalLayersNames")
            )
            if kind in ("Convolution", "FullyConnected"):
                found = [kinds[n] for n in names.split(",") if kinds.get(n) in WEIGHTED]
                count[found[0] if found else kind, f"{primitive} {precision}"] += 1
        return _nested(count)


WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


class OnnxRuntime(Engine):
    """ONNX Runtime's CPU provider with I/O binding; `exact` switches graph optimization off: QDQ in float."""

    key = "onnxruntime"

    def __init__(
        self, precision: str, path: Path, threads: int, exact: bool = False, maker: str = "ONNX Runtime"
    ) -> None:
        import onnxruntime as ort

        super().__init__(maker, precision, path, threads, exact)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if exact else levels.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.value = ort.OrtValue
        self.result = ort.OrtValue.ortvalue_from_shape_and_type(self.session.get_outputs()[0].shape, np.float32)
        self.binding.bind_ortvalue_output(self.session.get_outputs()[0].name, self.result)

    def bind(self, *inputs: Array) -> None:
        self.inputs = [self.value.ortvalue_from_numpy(x) for x in inputs]
        for given, value in zip(self.session.get_inputs(), self.inputs, strict=True):
            self.binding.bind_ortvalue_input(given.name, value)

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def output(self) -> Array:
        return np.asarray(self.result.numpy())


def _nested(count: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    found: dict[str, dict[str, int]] = {}
    for (kind, kernel), number in sorted(count.items()):
        found.setdefault(kind, {})[kernel] = number
    return found


# by the names of modules, for command lines
ENGINES: dict[str, Callable[[str, Path, int, bool], Engine]] = {
    "lpir": Lpir,
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
}
