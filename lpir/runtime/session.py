"""Compiled models and inference requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from lpir.errors import FileError, InputError
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.runtime import registry
from lpir.runtime.cache import compile_or_load
from lpir.runtime.device import Device, Executable
from lpir.runtime.explain import Explanation
from lpir.runtime.ports import Key, Results, model_ports
from lpir.runtime.profile import ProfilingInfo
from lpir.runtime.tensor import Tensor

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


class CompiledModel:
    """A model that is ready to run. Calls from several threads run side by side, each in its own request."""

    def __init__(
        self, executable: Executable, model: Model, users: Model, device: Device, config: Mapping[str, Any]
    ) -> None:
        self.executable = executable
        self.model = model
        self.device = device
        self.config = dict(config)
        self.input_ports, self.output_ports = model_ports(model, users)
        self._idle: list[InferRequest] = []
        self._lock = Lock()
        self._workers: ThreadPoolExecutor | None = None

    @property
    def inputs(self) -> list[Value]:
        return [p.value for p in self.input_ports]

    @property
    def outputs(self) -> list[Value]:
        return [p.value for p in self.output_ports]

    def input(self, key: Key = 0) -> Value:
        """The input at a position or with a name. Raises InputError."""
        return self.input_ports.find(key).value

    def output(self, key: Key = 0) -> Value:
        """The output at a position or with a name. Raises InputError."""
        return self.output_ports.find(key).value

    def __call__(self, inputs: Any = None) -> Results:
        """Runs the model: `inputs` is a list in order, a dict by name, position or Value, or the only input.

        Raises InputError that names the input when one is missing, unknown, or has a wrong shape or type.
        """
        with self._lock:
            request = self._idle.pop() if self._idle else None
        request = request or InferRequest(self)
        try:
            return request.infer(inputs)
        finally:
            request.forget()
            with self._lock:
                self._idle.append(request)

    def infer_new_request(self, inputs: Any = None) -> Results:
        """Runs the model in a fresh request."""
        return self.create_infer_request().infer(inputs)

    def create_infer_request(self) -> InferRequest:
        """A request with its own buffers and variables."""
        return InferRequest(self)

    def explain(self) -> Explanation:
        """Which precision and kernel each operation runs in, and why one that the IR wanted in INT8 does not."""
        return self.executable.explain()

    def get_runtime_model(self) -> Model:
        """The graph that really runs: lowered, fused, and with its constants in the order in which they are used."""
        return self.executable.runtime_model() or self.model

    def get_property(self, name: str) -> Any:
        """A property that the model was compiled with, or a read-only one. Raises InputError that lists them."""
        facts: dict[str, Any] = {
            **self.config,
            "NETWORK_NAME": self.model.name,
            "EXECUTION_DEVICES": [self.device.name],
            "OPTIMAL_NUMBER_OF_INFER_REQUESTS": max(1, int(self.config.get("NUM_STREAMS", 1))),
            "LOADED_FROM_CACHE": False,
            **self.executable.properties(),
        }
        facts["SUPPORTED_PROPERTIES"] = sorted(facts)
        if name not in facts:
            raise InputError(f"the compiled model has no property {name!r}; it has {', '.join(sorted(facts))}")
        return facts[name]

    def export_model(self) -> bytes:
        """The compiled model as bytes for `Core.import_model`; on the CPU a shared library that needs no LLVM.

        Raises UnsupportedError that names the operations which run in Python.
        """
        return self.executable.export_model()

    def __reduce__(self) -> tuple[Any, ...]:
        # a process that gets it needs neither the model nor LLVM
        return _from_pickle, (self.device.name, self.export_model(), self.config)

    def release_memory(self) -> None:
        """Frees the buffers of idle requests."""
        with self._lock:
            self._idle.clear()

    def workers(self) -> ThreadPoolExecutor:
        """The threads in which asynchronous requests wait for their inference."""
        # whoever infers synchronously does not wait for the import
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(64, "lpir-async")
            return self._workers

    def __repr__(self) -> str:
        ports = f"inputs: {self.input_ports}\noutputs: {self.output_ports}"
        return f"<CompiledModel '{self.model.name}' on {self.device.name}\n{ports}>"


class InferRequest:
    """One inference at a time, with its own buffers and variables."""

    def __init__(self, compiled: CompiledModel) -> None:
        self.compiled = compiled
        self.runner = compiled.executable.create_runner()
        self.userdata: Any = None
        self._inputs: list[Array | None] = [None] * len(compiled.input_ports)
        self._results: Results | None = None
        self._seconds = 0.0
        self._future: Future[None] | None = None
        self._callback: Callable[..., Any] | None = None
        self._error: BaseException | None = None
        # the thread that runs the callback
        self._in_callback = 0
        self._busy = Lock()

    def infer(self, inputs: Any = None) -> Results:
        """Runs and returns the outputs; inputs that are not given keep what `set_tensor` set. Raises InputError."""
        self._claim()
        if self._future is not None and self._future.done():
            # an asynchronous inference that failed is over: it is this one's results that count from now on
            self._future = None
        try:
            return self._run(self._keep(self.collect(inputs), inputs))
        finally:
            self._busy.release()

    def start_async(self, inputs: Any = None, userdata: Any = None, share_inputs: bool = False) -> None:
        """Starts an inference; `wait` ends it. Raises InputError at once when the inputs do not fit.

        `inputs` are copied, unless `share_inputs` promises that they stay as they are until the inference is done.
        """
        self._claim()
        try:
            arrays = self.collect(inputs)
            if inputs is not None and not share_inputs:
                arrays = [array.copy() for array in arrays]
            self._keep(arrays, inputs)
            self.userdata = userdata
            self._future = self.compiled.workers().submit(self._work, arrays)
        except BaseException:
            self._busy.release()
            raise

    def wait(self) -> None:
        """Returns when the inference and its callback are done. Raises what the inference raised."""
        if get_ident() == self._in_callback:
            # the callback itself asks: the inference is done, only the callback is not
            if self._error is not None:
                raise self._error
        elif self._future is not None:
            self._outcome(self._future)

    def _outcome(self, future: Future[None], timeout: float | None = None) -> None:
        if future.cancelled():
            raise InputError("the inference was cancelled before it began")
        future.result(timeout)

    def cancel(self) -> None:
        """Takes back an asynchronous inference that has not begun, so that `wait` raises InputError; one that runs is
        finished as if nobody had asked."""
        future = self._future
        if future is not None and not future.done() and future.cancel():
            self._busy.release()

    def wait_for(self, timeout: int) -> bool:
        """Waits up to `timeout` milliseconds; whether the inference is done."""
        try:
            if self._future is not None:
                self._outcome(self._future, timeout / 1000)
        except TimeoutError:
            return False
        return True

    def set_callback(self, callback: Callable[..., Any], userdata: Any = None) -> None:
        """`callback(userdata)` is called after each asynchronous inference."""
        self._callback, self.userdata = callback, userdata

    def set_tensor(self, key: Key, tensor: Any) -> None:
        """Sets an input for the next inferences. Raises InputError."""
        port = self.compiled.input_ports.find(key)
        self._inputs[port.index] = port.accept(tensor)

    def set_input_tensor(self, *args: Any) -> None:
        """`set_input_tensor(tensor)` for a model with one input, or `set_input_tensor(index, tensor)`."""
        if len(args) == 1 and len(self._inputs) != 1:
            raise InputError(f"give a position too; the model has {self.compiled.input_ports}")
        self.set_tensor(args[0] if len(args) == 2 else 0, args[-1])

    def set_tensors(self, tensors: Mapping[Key, Any]) -> None:
        """Sets several inputs."""
        for key, tensor in tensors.items():
            self.set_tensor(key, tensor)

    set_input_tensors = set_tensors

    def get_tensor(self, key: str | Value) -> Tensor:
        """The output of the last inference, or the input, with a name. Raises InputError."""
        inputs, outputs = self.compiled.input_ports, self.compiled.output_ports
        if outputs.has(key):
            return self.get_output_tensor(key)
        if inputs.has(key):
            return self.get_input_tensor(key)
        raise InputError(f"unknown tensor {key!r}; inputs {inputs}; outputs {outputs}")

    def get_input_tensor(self, key: Key = 0) -> Tensor:
        """An input; zeros are put in place when none was set, for the caller to fill. Raises InputError."""
        port = self.compiled.input_ports.find(key)
        array = self._inputs[port.index]
        if array is None:
            if port.lengths is None:
                raise InputError(f"input {port} has a dynamic shape; set a tensor first")
            array = self._inputs[port.index] = np.zeros(port.lengths, port.dtype)
        return Tensor(array, shared_memory=True)

    def get_output_tensor(self, key: Key = 0) -> Tensor:
        """An output of the last inference. Raises InputError when there was none."""
        port = self.compiled.output_ports.find(key)
        return Tensor(self.results[port.index], shared_memory=True)

    @property
    def input_tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.get_input_tensor(i) for i in range(len(self._inputs)))

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.get_output_tensor(i) for i in range(len(self.compiled.output_ports)))

    @property
    def results(self) -> Results:
        """Outputs of the last inference. Raises InputError when there was none."""
        self.wait()
        if self._results is None:
            raise InputError("the request has not run yet")
        return self._results

    @property
    def latency(self) -> float:
        """Milliseconds that the last inference took."""
        return self._seconds * 1000

    def get_profiling_info(self) -> list[ProfilingInfo]:
        """Times of the last inference, one entry an operation; needs PERF_COUNT."""
        if not self.compiled.config.get("PERF_COUNT"):
            raise InputError("compile the model with PERF_COUNT=YES to measure it")
        return self.runner.profiling_info()

    @property
    def profiling_info(self) -> list[ProfilingInfo]:
        return self.get_profiling_info()

    def reset_state(self) -> None:
        """Variables of a stateful model start anew."""
        self.runner.reset_state()

    def forget(self) -> None:
        """Drops inputs and results, so that an idle request keeps no caller's arrays alive."""
        self._inputs = [None] * len(self._inputs)
        self._results = None
        self.runner.forget()

    def get_compiled_model(self) -> CompiledModel:
        return self.compiled

    def _claim(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise InputError("the request is running; wait for it, or use one request a thread")

    def collect(self, inputs: Any = None) -> list[Array]:
        """The arrays of an inference: `inputs`, and what `set_tensor` set for those that are left out.

        Raises InputError that names a missing one.
        """
        ports = self.compiled.input_ports
        bound = ports.bind(inputs) if inputs is not None else [None] * len(ports)
        arrays = []
        for port, given, kept in zip(ports, bound, self._inputs, strict=True):
            array = given if given is not None else kept
            if array is None:
                raise InputError(f"input {port} is missing; the model has {ports}")
            arrays.append(array)
        return arrays

    def _keep(self, arrays: list[Array], inputs: Any) -> list[Array]:
        """`arrays`, from now on the inputs of this request if some were given."""
        if inputs is not None:
            self._inputs = list(arrays)
        return arrays

    def _run(self, arrays: list[Array]) -> Results:
        start = time.perf_counter()
        outputs = self.runner.run(arrays)
        self._seconds = time.perf_counter() - start
        self._results = Results(self.compiled.output_ports, outputs)
        return self._results

    def _work(self, arrays: list[Array]) -> None:
        self._error = None
        try:
            self._run(arrays)
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._busy.release()
            if self._callback is not None:
                self._in_callback = get_ident()
                try:
                    self._callback(self.userdata)
                finally:
                    self._in_callback = 0


def compile_on(device: Device, model: Model, config: Mapping[str, Any] | None) -> CompiledModel:
    """Compiles a copy of `model` for `device`. Raises InputError for an unknown property."""
    return compile_source(device, model, config, _unreadable)


def compile_source(
    device: Device, source: Model | Path, config: Mapping[str, Any] | None, read: Callable[[Path], Model]
) -> CompiledModel:
    """Compiles a model, or what `read` makes of a file; with CACHE_DIR only if it is not there. Raises InputError."""
    values = device.configure(config)
    executable, own, users = compile_or_load(device, source, read, values)
    return CompiledModel(executable, own, users, device, values)


def _from_pickle(device: str, exported: bytes, config: Mapping[str, Any]) -> CompiledModel:
    return import_on(registry.load(device), exported, config)


def import_on(device: Device, source: bytes | Path, config: Mapping[str, Any] | None) -> CompiledModel:
    """A model that `CompiledModel.export_model` gave. Raises FileError, UnsupportedError, InputError."""
    values = device.configure(config)
    executable, model = device.import_model(source, values)
    return CompiledModel(executable, model, model, device, values)


def _unreadable(path: Path) -> Model:
    raise FileError(f"{path}: a model was expected, not a file")
