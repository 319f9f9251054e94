"""Engines behind one small interface, each set up as its makers recommend for latency."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.machine import has_vnni

Array = np.ndarray[Any, np.dtype[Any]]

# oneDNN's names for what lpir calls an instruction set
ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
ONEDNN = {"avx2": "AVX2", "avx_vnni": "AVX2_VNNI", "avx512": "AVX512_CORE", "avx512_vnni": "AVX512_CORE_VNNI"}


class Engine(ABC):
    """A compiled network with bound input and output: `run` is one inference and nothing else.

    `streams` inferences run side by side, one in each Python thread, and share `threads` evenly.
    """

    # the key in ENGINES
    key: ClassVar[str]

    def __init__(
        self, maker: str, precision: str, path: Path, threads: int, exact: bool = False, streams: int = 1
    ) -> None:
        self.maker = maker
        self.precision = precision
        self.path = path
        self.threads = threads
        # the file's meaning in float arithmetic, in place of integer kernels
        self.exact = exact
        self.streams = streams

    @property
    def name(self) -> str:
        return f"{self.maker} {self.precision}"

    @property
    def saturates(self) -> bool:
        """Whether sums of its 8-bit products may be wrong on this machine."""
        return False

    @abstractmethod
    def bind(self, *inputs: Array) -> None:
        """Sets the inputs of later runs, of all streams."""

    @abstractmethod
    def run(self, stream: int = 0) -> None:
        """One inference."""

    @abstractmethod
    def output(self) -> Array:
        """The only output of the last run of stream 0."""

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
        self,
        precision: str,
        path: Path,
        threads: int,
        exact: bool = False,
        streams: int = 1,
        isa: str = "",
        maker: str = "lpir",
    ) -> None:
        import lpir

        super().__init__(maker, precision, path, threads, exact, streams)
        config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams}
        if isa and not exact:
            config["ISA"] = isa
        self.compiled = lpir.compile_model(path, "REFERENCE" if exact else "CPU", {} if exact else config)
        self.requests = [self.compiled.create_infer_request() for _ in range(streams)]

    def bind(self, *inputs: Array) -> None:
        for request in self.requests:
            for i, x in enumerate(inputs):
                request.set_input_tensor(i, x)

    def run(self, stream: int = 0) -> None:
        self.requests[stream].infer()

    def output(self) -> Array:
        return self.requests[0].results[0]

    def kernels(self) -> dict[str, Any]:
        rows = [r for r in self.compiled.explain() if r.type in WEIGHTED]
        return _nested(Counter((r.type, f"{r.kernel} {r.precision}") for r in rows))


class OpenVino(Engine):
    """OpenVINO's CPU device; `exact` runs FakeQuantize as it is written."""

    key = "openvino"

    def __init__(self, precision: str, path: Path, threads: int, exact: bool = False, streams: int = 1) -> None:
        import openvino as ov

        super().__init__("OpenVINO", precision, path, threads, exact, streams)
        # without the hint FP32 networks would run in bfloat16 where the CPU has it
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if streams > 1:
            config["NUM_STREAMS"] = streams
        if exact:
            config["LP_TRANSFORMS_MODE"] = "NO"
        self.model = ov.Core().read_model(path)
        self.compiled = ov.Core().compile_model(self.model, "CPU", config)
        self.requests = [self.compiled.create_infer_request() for _ in range(streams)]
        self.results = [np.zeros(self.compiled.outputs[0].shape, np.float32) for _ in range(streams)]
        for request, result in zip(self.requests, self.results, strict=True):
            request.set_output_tensor(ov.Tensor(result, shared_memory=True))
        self._tensor = ov.Tensor

    @property
    def saturates(self) -> bool:
        """Without VNNI oneDNN adds pairs of products in 16 bits; it may be held from using it."""
        return self.precision == "INT8" and not (has_vnni() and "VNNI" in os.environ.get(ISA_LIMIT, "VNNI"))

    def bind(self, *inputs: Array) -> None:
        for request in self.requests:
            for i, x in enumerate(inputs):
                request.set_input_tensor(i, self._tensor(x, shared_memory=True))

    def run(self, stream: int = 0) -> None:
        self.requests[stream].infer(share_outputs=True)

    def output(self) -> Array:
        return self.results[0]

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
    """ONNX Runtime's CPU provider with I/O binding, a session a stream.

    `exact` switches graph optimization off: QDQ in float. `precise`: integer kernels that are exact on every x86.
    """

    key = "onnxruntime"

    def __init__(
        self,
        precision: str,
        path: Path,
        threads: int,
        exact: bool = False,
        streams: int = 1,
        maker: str = "ONNX Runtime",
        precise: bool = False,
    ) -> None:
        import onnxruntime as ort

        super().__init__(maker, precision, path, threads, exact, streams)
        self.precise = precise
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads // streams
        options.inter_op_num_threads = 1
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if exact else levels.ORT_ENABLE_ALL
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.value = ort.OrtValue
        providers = ["CPUExecutionProvider"]
        self.sessions = [ort.InferenceSession(str(path), options, providers=providers) for _ in range(streams)]
        self.bindings = [session.io_binding() for session in self.sessions]
        output = self.sessions[0].get_outputs()[0]
        self.results = [self.value.ortvalue_from_shape_and_type(output.shape, np.float32) for _ in range(streams)]
        for binding, result in zip(self.bindings, self.results, strict=True):
            binding.bind_ortvalue_output(output.name, result)

    @property
    def saturates(self) -> bool:
        """u8 by s8 without VNNI."""
        return self.precision == "INT8" and not self.precise and not has_vnni()

    def bind(self, *inputs: Array) -> None:
        self.inputs = [self.value.ortvalue_from_numpy(x) for x in inputs]
        for binding in self.bindings:
            for given, value in zip(self.sessions[0].get_inputs(), self.inputs, strict=True):
                binding.bind_ortvalue_input(given.name, value)

    def run(self, stream: int = 0) -> None:
        self.sessions[stream].run_with_iobinding(self.bindings[stream])

    def output(self) -> Array:
        return np.asarray(self.results[0].numpy())


def _nested(count: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    found: dict[str, dict[str, int]] = {}
    for (kind, kernel), number in sorted(count.items()):
        found.setdefault(kind, {})[kernel] = number
    return found
