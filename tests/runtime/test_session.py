"""Calling a compiled model: inputs, results, requests, errors."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import lpir
from lpir import AsyncInferQueue, InputError, Tensor
from lpir.ir.types import f32, i32
from tests.runtime.graphs import linear, two_inputs

DEVICES = ("REFERENCE", "CPU")
X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = X @ np.ones((3, 4), np.float32)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "given",
    [X, [X], (X,), {"x": X}, {"input": X}, {0: X}, [X.astype(np.float64)], [X.tolist()], Tensor(X), {"x": Tensor(X)}],
    ids=["array", "list", "tuple", "tensor name", "node name", "index", "f64", "nested", "Tensor", "dict of Tensor"],
)
def test_inputs(device: str, given: Any) -> None:
    result = lpir.compile_model(linear(), device)(given)
    np.testing.assert_array_equal(result[0], Y)


def test_results_by_index_name_and_value(device: str) -> None:
    model = linear()
    compiled = lpir.compile_model(model, device)
    result = compiled({model.input(0): X})
    for key in (0, -1, "y", "output", "matmul", model.output(0), compiled.output(0), compiled.output("y")):
        np.testing.assert_array_equal(result[key], Y)
    assert len(result) == 1
    assert next(iter(result)) is compiled.output(0)
    assert result.to_tuple()[0] is result[0]
    assert result.to_dict()[compiled.output(0)] is result[0]
    assert "y" in result.names()[0]
    assert "matmul" in repr(result) or "y" in repr(result)


def test_integers_are_cast_to_float(device: str) -> None:
    compiled = lpir.compile_model(linear(), device)
    np.testing.assert_array_equal(compiled([X.astype(np.int32)])[0], Y)


def test_non_contiguous_input(device: str) -> None:
    compiled = lpir.compile_model(linear(), device)
    np.testing.assert_array_equal(compiled([np.asfortranarray(X)])[0], Y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": X}, r"unknown input 'z'; the model has 0: 'x' f32\[2,3\]"),
        ({}, "input 0: 'x' .* is missing"),
        ([], "0 inputs were given, the model has 1"),
        ([X, X], "2 inputs were given, the model has 1"),
        ([np.zeros((3, 3))], r"cannot take shape \[3, 3\]"),
        ([np.zeros(3)], r"cannot take shape \[3\].*1 dimensions, 2 are expected"),
        ([np.zeros((2, 3), np.complex64)], "cannot take values of type complex64"),
        ([np.array([["a"] * 3] * 2)], "cannot take values of type"),
        ({"x": X, 0: X}, "given twice"),
    ],
)
def test_wrong_inputs(device: str, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lpir.compile_model(linear(), device)(given)


def test_a_float_never_becomes_an_integer_silently(device: str) -> None:
    compiled = lpir.compile_model(two_inputs(i32), device)
    with pytest.raises(InputError, match="convert them to int32 first"):
        compiled([np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32)])
    with pytest.raises(InputError, match="cannot hold values"):
        compiled([np.full((2, 2), 2**40), np.zeros((2, 2), np.int64)])


def test_batch_hint() -> None:
    with pytest.raises(InputError, match="the batch dimension is missing"):
        lpir.compile_model(linear([-1, 3]), "REFERENCE")([np.zeros(3)])


def test_two_inputs(device: str) -> None:
    compiled = lpir.compile_model(two_inputs(), device)
    a, b = np.arange(4, dtype=np.float32).reshape(2, 2), np.ones((2, 2), np.float32)
    for given in ([a, b], {"b": b, "a": a}):
        result = compiled(given)
        np.testing.assert_array_equal(result["sum"], a + b)
        np.testing.assert_array_equal(result["r1"], a.reshape(4))
    with pytest.raises(InputError, match="the model has 2 inputs"):
        compiled(a)


def test_results_are_fresh_arrays(device: str) -> None:
    compiled = lpir.compile_model(two_inputs(), device)
    a = np.ones((2, 2), np.float32)
    first = compiled([a, a])
    kept = first["sum"].copy()
    compiled([a * 5, a])
    np.testing.assert_array_equal(first["sum"], kept)
    first["r1"][:] = 7
    np.testing.assert_array_equal(a, np.ones((2, 2), np.float32))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_dynamic_shape(device: str, batch: int) -> None:
    compiled = lpir.compile_model(linear([-1, 3]), device)
    x = np.ones((batch, 3), np.float32)
    np.testing.assert_array_equal(compiled([x])[0], np.full((batch, 4), 3, np.float32))


def test_request(device: str) -> None:
    compiled = lpir.compile_model(linear(), device)
    request = compiled.create_infer_request()
    with pytest.raises(InputError, match="has not run"):
        _ = request.results
    request.set_tensor("x", X.copy())
    np.testing.assert_array_equal(request.infer()[0], Y)
    np.testing.assert_array_equal(request.get_tensor("y").data, Y)
    np.testing.assert_array_equal(request.get_tensor("x").data, X)
    np.testing.assert_array_equal(request.get_output_tensor().data, Y)
    assert request.latency > 0
    request.get_input_tensor().data[:] = 1
    np.testing.assert_array_equal(request.infer()[0], np.full((2, 4), 3))
    with pytest.raises(InputError, match="unknown tensor 'q'"):
        request.get_tensor("q")
    with pytest.raises(InputError, match="PERF_COUNT"):
        request.get_profiling_info()


def test_async_request(device: str) -> None:
    compiled = lpir.compile_model(linear(), device)
    request = compiled.create_infer_request()
    seen: list[Any] = []
    request.set_callback(seen.append, "mine")
    request.start_async({"x": X}, "mine")
    request.wait()
    assert request.wait_for(1000)
    assert seen == ["mine"]
    np.testing.assert_array_equal(request.results["y"], Y)


def test_async_queue(device: str) -> None:
    compiled = lpir.compile_model(linear(), device)
    queue = AsyncInferQueue(compiled, 3)
    found: dict[int, Any] = {}
    queue.set_callback(lambda request, number: found.setdefault(number, request.results[0].copy()))
    for n in range(20):
        queue.start_async({"x": X * n}, n)
    queue.wait_all()
    assert queue.is_ready()
    for n in range(20):
        np.testing.assert_array_equal(found[n], Y * n)


def test_inputs_of_asynchronous_inferences_may_be_used_again_at_once(device: str) -> None:
    compiled = lpir.compile_model(linear(), device)
    queue, found = AsyncInferQueue(compiled, 1), []
    gate = threading.Event()

    def keep(request: Any, number: int) -> None:
        assert gate.wait(10)
        found.append(request.results[0].copy())

    queue.set_callback(keep)
    frame = np.empty_like(X)
    for n in range(2):
        # the second waits behind the first, which is held up
        frame[:] = X * n
        queue.start_async([frame], n)
    frame[:] = np.nan
    gate.set()
    queue.wait_all()
    request = compiled.create_infer_request()
    request.start_async([X * 2], share_inputs=True)
    request.wait()
    for n, y in enumerate([*found, request.results[0]]):
        np.testing.assert_array_equal(y, Y * n)


def test_async_queue_reports_a_failing_callback() -> None:
    queue = AsyncInferQueue(lpir.compile_model(linear(), "REFERENCE"), 2)

    def fail(request: Any, userdata: Any) -> None:
        raise ValueError("from the callback")

    queue.set_callback(fail)
    queue.start_async([X])
    with pytest.raises(ValueError, match="from the callback"):
        queue.wait_all()


def test_async_queue_takes_one_inference_ahead() -> None:
    queue = AsyncInferQueue(lpir.compile_model(linear(), "REFERENCE"), 1)
    gate, order = threading.Event(), []

    def hold(request: Any, number: int) -> None:
        order.append(number)
        assert gate.wait(10)

    queue.set_callback(hold)
    for number in range(2):
        # the second returns although the first is held up
        queue.start_async([X * number], number)
    assert not queue.is_ready()
    gate.set()
    queue.wait_all()
    assert queue.is_ready()
    assert order == [0, 1]


def test_async_queue_reports_a_missing_input_at_once() -> None:
    queue = AsyncInferQueue(lpir.compile_model(two_inputs(), "CPU"), 1)
    with pytest.raises(InputError, match="is missing"):
        queue.start_async({0: np.zeros(queue[0].compiled.input(0).shape.to_static(), np.float32)})
    assert queue.is_ready()
    queue.wait_all()


def test_the_threads_of_an_async_queue_end_with_it() -> None:
    queue = AsyncInferQueue(lpir.compile_model(linear(), "CPU"), 2)
    queue.start_async([X])
    queue.wait_all()
    threads = [t for t in threading.enumerate() if t.name.startswith("lpir-queue")]
    assert len(threads) >= 2
    del queue
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_many_threads(device: str) -> None:
    compiled = lpir.compile_model(linear(), device)
    barrier = threading.Barrier(6)

    def work(seed: int) -> bool:
        barrier.wait()
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = rng.integers(-9, 9, (2, 3)).astype(np.float32)
            if not np.array_equal(compiled([x])[0], x @ np.ones((3, 4), np.float32)):
                return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_profile(device: str) -> None:
    compiled = lpir.compile_model(linear(), device, {"PERF_COUNT": "YES"})
    request = compiled.create_infer_request()
    request.infer([X])
    info = request.get_profiling_info()
    assert [i.node_name for i in info] == ["matmul"]
    assert info[0].status == "EXECUTED"
    assert info[0].real_time.total_seconds() >= 0


def test_explain(device: str) -> None:
    table = lpir.compile_model(linear(), device).explain()
    assert [(r.name, r.type, r.precision) for r in table.rows] == [("matmul", "MatMul", "FP32")]
    assert "matmul" in str(table)
    assert not table.refused()
    assert table.to_dict()["rows"][0]["name"] == "matmul"


def test_compiling_does_not_touch_the_model(device: str) -> None:
    model = linear([-1, 3])
    before = model.dump()
    lpir.compile_model(model, device)([X])
    assert model.dump() == before
    model.reshape([5, 3])
    assert lpir.compile_model(model, device).input(0).type.element_type == f32


def test_runtime_model(device: str) -> None:
    assert lpir.compile_model(linear(), device).get_runtime_model().nodes()
