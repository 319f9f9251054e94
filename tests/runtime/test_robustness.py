"""What goes wrong around an inference: errors say what to do, and the model still works afterwards."""

from __future__ import annotations

import io
import math
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.threads import ThreadPool
from lpir.errors import FileError, InputError, UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from tests.passes.networks import GEOMETRY, Builder, mobile_block
from tests.tolerances import EXACT, assert_close

X = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def compiled() -> lpir.CompiledModel:
    return lpir.compile_model(mobile_block(), "CPU")


@pytest.fixture(scope="module")
def expected(compiled: lpir.CompiledModel) -> Any:
    return compiled(X)[0]


# -- options ----------------------------------------------------------------------------------------------------------

OPTIONS: list[tuple[str, Any, str]] = [
    ("INFERENCE_NUM_THREADS", 2.5, "an integer of at least 0 and at most 4096"),
    ("INFERENCE_NUM_THREADS", math.inf, "an integer"),
    ("INFERENCE_NUM_THREADS", math.nan, "an integer"),
    ("INFERENCE_NUM_THREADS", None, "an integer"),
    ("INFERENCE_NUM_THREADS", True, "an integer"),
    ("INFERENCE_NUM_THREADS", 100_000, "at most 4096"),
    ("NUM_STREAMS", 10**30, "or AUTO"),
    ("PERF_COUNT", 2, "YES or NO"),
    ("PERF_COUNT", np.array([1, 0]), "YES or NO"),
    ("LP_TRANSFORMS_MODE", [], "YES or NO"),
    ("CACHE_DIR", 3, "text"),
    ("ISA", "", "auto, generic"),
    ("ISA", None, "auto, generic"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), OPTIONS)
def test_bad_options(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError, match=rf"property {name} cannot be .*{allowed}"):
        lpir.compile_model(mobile_block(), "CPU", {name: value})


@pytest.mark.parametrize("streams", ["AUTO", "auto", 0, "0", np.int64(0), 0.0])
def test_the_number_of_streams_is_chosen_where_nobody_says_it(streams: Any) -> None:
    assert lpir.compile_model(mobile_block(), "CPU", {"NUM_STREAMS": streams}).get_property("NUM_STREAMS") >= 1


def test_threads_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were started end, and the error names the property."""
    start, started = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(InputError, match=r"5 threads .*can't start new thread; set INFERENCE_NUM_THREADS"):
        ThreadPool(5)
    assert not any(thread.is_alive() for thread in started)


# -- inputs -----------------------------------------------------------------------------------------------------------


def read_only(x: Any) -> Any:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def far_apart(x: Any) -> Any:
    """Elements with many others between them."""
    wide = np.full((*x.shape[:-1], x.shape[-1] * 1000), np.nan, np.float32)
    wide[..., ::1000] = x
    return wide[..., ::1000]


def unaligned(x: Any) -> Any:
    return np.frombuffer(b"\0" + x.tobytes(), np.float32, x.size, offset=1).reshape(x.shape)


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "bytes of another": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "far apart": far_apart,
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "transposed": lambda x: np.ascontiguousarray(x.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0),
    "unaligned": unaligned,
    "other byte order": lambda x: x.astype(">f4"),
    "float64": lambda x: x.astype(np.float64),
    "masked": np.ma.masked_array,
    "nested lists": lambda x: x.tolist(),
    "nested lists, a list of inputs": lambda x: [x.tolist()],
    "tensor": lpir.Tensor,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_any_layout(name: str, compiled: lpir.CompiledModel, expected: Any) -> None:
    assert_close(compiled(ARRAYS[name](X))[0], expected, EXACT)
    request = compiled.create_infer_request()
    request.start_async(ARRAYS[name](X))
    request.wait()
    assert_close(request.results[0], expected, EXACT)


def test_one_element_seen_everywhere(compiled: lpir.CompiledModel) -> None:
    same = compiled(np.broadcast_to(np.float32(0.5), X.shape))[0]
    assert_close(same, compiled(np.full(X.shape, 0.5, np.float32))[0], EXACT)


# -- requests ---------------------------------------------------------------------------------------------------------


def test_a_callback_that_fails(compiled: lpir.CompiledModel, expected: Any) -> None:
    """`wait` raises what it raised, and the next inference has forgotten it."""
    request = compiled.create_infer_request()

    def fail(_: Any) -> None:
        raise ValueError("mine")

    request.set_callback(fail)
    request.start_async(X)
    with pytest.raises(ValueError, match="mine"):
        request.wait()
    assert_close(request.infer(X)[0], expected, EXACT)
    assert_close(request.results[0], expected, EXACT)
    assert request.wait_for(0)


def test_a_callback_that_infers_again(compiled: lpir.CompiledModel, expected: Any) -> None:
    request, seen = compiled.create_infer_request(), []
    request.set_callback(lambda _: seen.append(request.infer(X)[0]))
    request.start_async(np.zeros_like(X))
    request.wait()
    assert_close(seen[0], expected, EXACT)


def test_an_inference_that_fails(compiled: lpir.CompiledModel, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = compiled.create_infer_request()

    def broken(_: Any) -> Any:
        raise MemoryError("none left")

    with monkeypatch.context() as patched:
        patched.setattr(request.runner, "run", broken)
        with pytest.raises(MemoryError, match="none left"):
            request.infer(X)
        request.start_async(X)
        with pytest.raises(MemoryError, match="none left"):
            request.wait()
    assert_close(request.infer(X)[0], expected, EXACT)
    assert_close(request.results[0], expected, EXACT)


def test_cancelling(compiled: lpir.CompiledModel, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a thread is taken back; what runs, or is over, is not."""
    gate = threading.Event()
    others = [compiled.create_infer_request() for _ in range(64)]
    for other in others:
        run = other.runner.run
        monkeypatch.setattr(other.runner, "run", lambda arrays, run=run: gate.wait(60) and run(arrays))
        other.start_async(X)
    request = compiled.create_infer_request()
    request.cancel()
    request.start_async(X)
    request.cancel()
    request.cancel()
    others[0].cancel()
    with pytest.raises(InputError, match="cancelled"):
        request.wait()
    with pytest.raises(InputError, match="cancelled"):
        request.wait_for(1)
    gate.set()
    assert_close(request.infer(X)[0], expected, EXACT)
    for other in others:
        assert_close(other.results[0], expected, EXACT)


def test_a_queue_that_is_dropped_while_it_runs(compiled: lpir.CompiledModel) -> None:
    """Inferences that were started are finished; their threads end."""
    done: list[int] = []
    queue = lpir.AsyncInferQueue(compiled, 2)
    queue.set_callback(lambda _, number: done.append(number))
    names = {t.name for t in threading.enumerate() if t.name.startswith("lpir-queue")}
    assert names
    for number in range(4):
        queue.start_async(X, number)
    lanes = [t for t in threading.enumerate() if t.name.startswith("lpir-queue")]
    del queue
    for thread in lanes:
        thread.join(60)
    assert sorted(done) == [0, 1, 2, 3]


def test_a_model_that_is_dropped_while_it_runs(expected: Any) -> None:
    request = lpir.compile_model(mobile_block(), "CPU", {"INFERENCE_NUM_THREADS": 2}).create_infer_request()
    request.start_async(X)
    request.wait()
    assert_close(request.results[0], expected, EXACT)


def test_a_queue_goes_on_behind_a_callback_that_fails(compiled: lpir.CompiledModel) -> None:
    """Every inference has its callback; `wait_all` raises the first error once."""
    queue, seen = lpir.AsyncInferQueue(compiled, 2), []

    def fail(_: Any, number: int) -> None:
        seen.append(number)
        if number == 3:
            raise ValueError("mine")

    queue.set_callback(fail)
    for number in range(8):
        queue.start_async(X, number)
    with pytest.raises(ValueError, match="mine"):
        queue.wait_all()
    assert sorted(seen) == list(range(8))
    queue.wait_all()


def test_two_threads_with_one_request(
    compiled: lpir.CompiledModel, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, entered, leave = compiled.create_infer_request(), threading.Event(), threading.Event()
    run = request.runner.run

    def slow(arrays: Any) -> Any:
        entered.set()
        leave.wait(60)
        return run(arrays)

    monkeypatch.setattr(request.runner, "run", slow)
    first = threading.Thread(target=request.infer, args=(X,))
    first.start()
    entered.wait(60)
    for again in (request.infer, request.start_async):
        with pytest.raises(InputError, match="running; wait for it, or use one request a thread"):
            again(X)
    leave.set()
    first.join()
    assert_close(request.infer(X)[0], expected, EXACT)


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while another thread infers"])
def test_a_forked_child_infers(busy: bool, expected: Any) -> None:
    """The threads of a pool are its parent's; a child makes its own."""
    compiled = lpir.compile_model(mobile_block(), "CPU", {"INFERENCE_NUM_THREADS": 2})
    compiled(X)
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            compiled(X)

    thread = threading.Thread(target=repeat)
    if busy:
        thread.start()
    try:
        child = os.fork()
        if child == 0:
            _leave(compiled, expected)
        _, status = os.waitpid(child, 0)
    finally:
        over.set()
        if busy:
            thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def _leave(compiled: lpir.CompiledModel, expected: Any) -> None:
    """Ends a child: with 0 where old and new requests and models give the right bits."""
    code = 1
    try:
        request = compiled.create_infer_request()
        request.start_async(X)
        request.wait()
        again = lpir.compile_model(mobile_block(), "CPU")
        code = 0 if all(np.array_equal(y, expected) for y in (compiled(X)[0], request.results[0], again(X)[0])) else 2
    finally:
        os._exit(code)


RUNNING = """
import numpy as np, lpir
from tests.passes.networks import mobile_block
compiled = lpir.compile_model(mobile_block(), "CPU", {"INFERENCE_NUM_THREADS": 2})
x = np.zeros((1, 3, 8, 8), np.float32)
queue, requests = lpir.AsyncInferQueue(compiled, 2), [compiled.create_infer_request() for _ in range(4)]
for _ in range(50):
    queue.start_async(x)
for request in requests:
    request.start_async(x)
"""


def test_a_process_ends_while_it_infers() -> None:
    done = subprocess.run([sys.executable, "-c", RUNNING], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_compiled_model_goes_to_another_process(compiled: lpir.CompiledModel, expected: Any) -> None:
    """As a library: what cannot be one says why."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert_close(pool.submit(_first_output, compiled, X).result(120), expected, EXACT)
    p = parameter((-1, 8), f32, "x")
    dynamic = lpir.compile_model(Model([Node(Result(), [make("Relu", p.outputs[0])], "y")], [p]), "CPU")
    with pytest.raises(UnsupportedError, match="dynamic shapes"):
        pickle.dumps(dynamic)


def _first_output(compiled: lpir.CompiledModel, x: Any) -> Any:
    return compiled(x)[0]


@pytest.mark.parametrize("place", ["folder", "link to nothing", "link to itself", "pipe"])
@pytest.mark.filterwarnings("ignore:CACHE_DIR:RuntimeWarning")
def test_what_lies_in_the_cache_is_no_file(place: str, expected: Any, tmp_path: Path) -> None:
    lpir.compile_model(mobile_block(), "CPU", {"CACHE_DIR": tmp_path})
    (entry,) = tmp_path.iterdir()
    entry.unlink()
    {
        "folder": entry.mkdir,
        "link to nothing": lambda: entry.symlink_to(tmp_path / "nothing"),
        "link to itself": lambda: entry.symlink_to(entry),
        "pipe": lambda: os.mkfifo(entry),
    }[place]()
    again = lpir.compile_model(mobile_block(), "CPU", {"CACHE_DIR": tmp_path})
    assert again.get_property("LOADED_FROM_CACHE") is False
    assert_close(again(X)[0], expected, EXACT)


def test_threads_fill_a_cache_together(expected: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda _: lpir.compile_model(mobile_block(), "CPU", {"CACHE_DIR": tmp_path})(X)[0], range(8))
        )
    for output in found:
        assert_close(output, expected, EXACT)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_is_deleted_while_its_model_runs(expected: Any, tmp_path: Path) -> None:
    for hit in (False, True):
        compiled = lpir.compile_model(mobile_block(), "CPU", {"CACHE_DIR": tmp_path / "cache"})
        assert compiled.get_property("LOADED_FROM_CACHE") is hit
    shutil.rmtree(tmp_path / "cache")
    assert_close(compiled(X)[0], expected, EXACT)
    assert_close(compiled.create_infer_request().infer(X)[0], expected, EXACT)


def test_compiled_models_come_from_anywhere(compiled: lpir.CompiledModel, expected: Any, tmp_path: Path) -> None:
    data = compiled.export_model()
    (tmp_path / "m.so").write_bytes(data)
    with (tmp_path / "m.so").open("rb") as file:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), tmp_path / "m.so", file):
            assert_close(lpir.Core().import_model(source, "CPU")(X)[0], expected, EXACT)
    for nothing in (None, 3, io.StringIO("text")):
        with pytest.raises(InputError, match="give its bytes, path or open file"):
            lpir.Core().import_model(nothing, "CPU")  # type: ignore[arg-type]
    for damaged in (b"", b"junk", data[:-100], data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]):
        with pytest.raises(FileError, match="compiled model"):
            lpir.Core().import_model(damaged, "CPU")


# -- nothing ----------------------------------------------------------------------------------------------------------


def mean(x: Value) -> Value:
    return make("ReduceMean", x, constant(np.array([1])), keep_dims=True)


def reshaped(x: Value) -> Value:
    return make("Reshape", x, constant(np.array([0, 4, -1])), special_zero=True)


def convolved(x: Value) -> Value:
    b = Builder()
    return make("Convolution", b.fake_quantize(x, -4, 4 * 127 / 128), b.weights((4, 8, 3, 3)), **GEOMETRY)


def multiplied(x: Value) -> Value:
    b = Builder()
    left = b.fake_quantize(x, -4, 4 * 127 / 128)
    return make("MatMul", left, b.weights((6, 5)), transpose_a=False, transpose_b=False)


@pytest.mark.parametrize("build", [mean, reshaped, convolved, multiplied])
@pytest.mark.parametrize("shape", [(0, 8, 5, 6), (2, 8, 5, 6)])
@pytest.mark.parametrize("device", ["CPU", "REFERENCE"])
def test_an_empty_batch(shape: tuple[int, ...], build: Callable[[Value], Value], device: str) -> None:
    """Static and dynamic models alike; other batches work behind it."""
    outputs = []
    for batch in (shape[0], -1):
        p = parameter((batch, *shape[1:]), f32, "x")
        model = Model([Node(Result(), [build(p.outputs[0])], "y")], [p], "net")
        run = lpir.compile_model(model, device)
        outputs.append(run(np.ones(shape, np.float32))[0])
        if batch < 0:
            assert run(np.ones((1, *shape[1:]), np.float32))[0].shape[0] == 1
    assert outputs[0].shape[0] == shape[0]
    assert_close(outputs[1], outputs[0], EXACT)


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_the_mean_of_nothing_is_nan() -> None:
    p = parameter((2, -1, 3), f32, "x")
    model = Model([Node(Result(), [mean(p.outputs[0])], "y")], [p], "net")
    for device in ("CPU", "REFERENCE"):
        run = lpir.compile_model(model, device)
        assert np.isnan(run(np.zeros((2, 0, 3), np.float32))[0]).all()
        assert_close(run(np.ones((2, 4, 3), np.float32))[0], np.ones((2, 1, 3), np.float32), EXACT)
