"""The CPU device: plans, segments, dynamic shapes, threads, instruction sets."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu import run
from lpir.devices.cpu.device import CpuExecutable, DynamicExecutable
from lpir.devices.cpu.isa import all_isas, host_isa
from lpir.devices.cpu.plan import Callback, ConstantStore, NativeSegment, Planner
from lpir.devices.cpu.select import all_kernels, choose
from lpir.devices.cpu.split import SplitExecutable
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, i64
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.devices.cpu.foreign import foreign
from tests.passes.networks import encoder, inverted_residuals, mobile_block
from tests.tolerances import EXACT, assert_close

ISAS = [isa.name for isa in all_isas() if isa.available()]
X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def model_of(*outputs: Value, inputs: list[Node]) -> Model:
    return Model([Node(Result(), [v], f"r{i}") for i, v in enumerate(outputs)], inputs)


def executable(model: Model, **config: Any) -> Any:
    return lpir.compile_model(model, "CPU", config).executable


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", ISAS)
def test_an_int8_network_equals_the_lowered_reference_bit_by_bit(
    isa: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpir.devices.cpu.work.ONE_THREAD", 0)
    compiled = lpir.compile_model(mobile_block(), "CPU", {"ISA": isa, "INFERENCE_NUM_THREADS": threads})
    assert isinstance(compiled.executable, CpuExecutable)
    assert compiled.executable.threads == threads
    expected = Interpreter(lower_model(mobile_block())).create_runner().run([X])
    for _ in range(3):
        assert_close(compiled([X])[0], expected[0], EXACT)


def test_an_int8_network_is_one_native_call() -> None:
    plan = executable(mobile_block()).plan
    assert len(plan.segments) == 1
    assert isinstance(plan.segments[0], NativeSegment)


def test_explain_says_int8() -> None:
    rows = {r.name: r for r in lpir.compile_model(mobile_block(), "CPU").explain().rows}
    assert {rows[n].precision for n in ("conv1", "conv2", "depthwise", "fc")} == {"INT8"}
    assert not any(r.reasons for r in rows.values())


def test_low_precision_can_be_switched_off() -> None:
    compiled = lpir.compile_model(mobile_block(), "CPU", {"LP_TRANSFORMS_MODE": "NO"})
    assert "INT8" not in {r.precision for r in compiled.explain().rows}
    np.testing.assert_allclose(compiled([X])[0], lpir.compile_model(mobile_block(), "REFERENCE")([X])[0], atol=1e-2)


def test_an_operation_without_a_kernel_runs_between_native_segments() -> None:
    p = parameter([2, 8], f32, "x")
    a = make("Relu", p.outputs[0], name="before")
    b = foreign(a)
    c = make("Relu", make("Negative", b), name="after")
    model = model_of(c, b, inputs=[p])
    exe = executable(model)
    assert isinstance(exe, CpuExecutable)
    assert [type(s) for s in exe.plan.segments] == [NativeSegment, Callback, NativeSegment]
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    expected = lpir.compile_model(model, "REFERENCE")([x])
    for i, y in enumerate(lpir.compile_model(model, "CPU")([x]).to_tuple()):
        assert_close(y, expected[i], EXACT)


def test_reshapes_cost_nothing_and_results_may_be_inputs_or_constants() -> None:
    p = parameter([2, 6], f32, "x")
    flat = make("Reshape", p.outputs[0], constant(np.array([12], np.int64)), name="flat", special_zero=False)
    model = model_of(flat, p.outputs[0], constant(np.arange(3, dtype=np.float32)), flat, inputs=[p])
    compiled = lpir.compile_model(model, "CPU")
    assert isinstance(compiled.executable, CpuExecutable)
    assert not compiled.executable.plan.segments
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    y = compiled([x]).to_tuple()
    for actual, expected in zip(y, (x.reshape(12), x, np.arange(3, dtype=np.float32), x.reshape(12)), strict=True):
        assert_close(actual, expected, EXACT)
    assert not np.shares_memory(y[0], y[3])


def test_a_value_that_is_read_again_is_not_overwritten() -> None:
    p = parameter([4, 16], f32, "x")
    a = make("Relu", p.outputs[0], name="a")
    b = make("Exp", a, name="b")
    c = make("Add", a, b, name="c")
    d = make("Multiply", p.outputs[0], c, name="d")
    model = model_of(d, b, inputs=[p])
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    expected = lpir.compile_model(model, "REFERENCE")([x])
    compiled = lpir.compile_model(model, "CPU")
    for _ in range(2):
        for i, y in enumerate(compiled([x]).to_tuple()):
            np.testing.assert_allclose(y, expected[i], rtol=1e-6)


def test_dynamic_model_keeps_plans_by_shape() -> None:
    p = parameter([-1, 3, -1, -1], f32, "x")
    pooled = make("ReduceMean", make("Relu", p.outputs[0]), constant(np.array([2, 3])), name="mean", keep_dims=False)
    compiled = lpir.compile_model(model_of(pooled, inputs=[p]), "CPU")
    exe = compiled.executable
    assert isinstance(exe, DynamicExecutable)
    with pytest.raises(lpir.InputError, match="run it once"):
        compiled.explain()
    for shape in ((1, 3, 4, 4), (2, 3, 4, 5), (1, 3, 4, 4)):
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.testing.assert_allclose(compiled([x])[0], np.maximum(x, 0).mean((2, 3)), rtol=1e-5, atol=1e-6)
    assert len(exe._plans) == 2
    assert compiled.explain().rows


# functions that nine further shapes compile, 6 where none is named: register tiles of products go by the rows there are
MOST_NEW = {"generic": 24, "avx_vnni": 10, "avx512_vnni": 14}
IMAGES = [(1, 3, 32, 32 + 16 * i) for i in range(5)] + [(2 + i, 3, 48, 32) for i in range(5)]
TOKENS = [(1, 64 + 23 * i, 64) for i in range(5)] + [(2 + i, 77, 64) for i in range(5)]


@pytest.mark.parametrize(
    ("network", "dimensions", "shapes"),
    [
        (mobile_block, [-1, 3, -1, -1], IMAGES),
        (inverted_residuals, [-1, 3, -1, -1], IMAGES),
        (encoder, [-1, -1, 64], TOKENS),
    ],
)
@pytest.mark.parametrize("isa", ISAS)
def test_ten_shapes_cost_ten_plans_and_hardly_a_kernel(
    isa: str,
    network: Callable[[], Model],
    dimensions: list[int],
    shapes: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # other tests may have left the functions that this one counts
    monkeypatch.setattr(run, "_CODE", {})
    model = network()
    model.reshape(dimensions)
    compiled = lpir.compile_model(model, "CPU", {"ISA": isa})
    assert (compiled.get_property("PLANS"), compiled.get_property("COMPILED_KERNELS")) == (0, 0)
    functions = []
    for shape in shapes:
        compiled([np.zeros(shape, np.float32)])
        functions.append(compiled.get_property("COMPILED_KERNELS"))
    assert compiled.get_property("PLANS") == len(shapes)
    assert functions[0] > 4
    assert functions[-1] - functions[0] <= MOST_NEW.get(isa, 6)
    for shape in shapes:
        compiled([np.zeros(shape, np.float32)])
    assert compiled.get_property("PLANS") == len(shapes)
    assert compiled.get_property("COMPILED_KERNELS") == functions[-1]


def test_shapes_that_depend_on_values_leave_the_rest_native() -> None:
    p = parameter([2, 8], f32, "x")
    positive = make("Relu", p.outputs[0], name="relu")
    found = make("NonZero", positive, name="found", output_type=i64)
    total = make("Add", positive, p.outputs[0], name="total")
    model = model_of(found, total, inputs=[p])
    compiled = lpir.compile_model(model, "CPU")
    assert isinstance(compiled.executable, SplitExecutable)
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    result = compiled([x])
    np.testing.assert_array_equal(result[0], np.stack(np.nonzero(np.maximum(x, 0))))
    np.testing.assert_array_equal(result[1], np.maximum(x, 0) + x)
    rows = {r.name: r for r in compiled.explain().rows}
    assert rows["found"].kernel == "eval"
    assert rows["total"].kernel != "eval"


def test_streams_run_side_by_side() -> None:
    config = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": 2}
    compiled = lpir.compile_model(mobile_block(), "CPU", config)
    queue = lpir.AsyncInferQueue(compiled)
    assert len(queue) == 2
    expected = compiled([X])[0]
    for _ in range(10):
        queue.start_async([X])
    queue.wait_all()
    for request in queue:
        assert_close(request.results[0], expected, EXACT)


def _in_child(compiled: Any, pipe: Any) -> None:
    pipe.send(compiled([X])[0])


def test_a_tiny_model_runs_in_one_thread() -> None:
    assert executable(mobile_block(), INFERENCE_NUM_THREADS=2).threads == 1


def test_a_forked_child_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpir.devices.cpu.work.ONE_THREAD", 0)
    compiled = lpir.compile_model(mobile_block(), "CPU", {"INFERENCE_NUM_THREADS": 2})
    expected = compiled([X])[0]
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(compiled, theirs))
    child.start()
    assert mine.poll(30), "the child hangs"
    np.testing.assert_array_equal(mine.recv(), expected)
    child.join()


def test_equal_constants_are_stored_once() -> None:
    store = ConstantStore()
    a = np.arange(100, dtype=np.float32)
    first = store.add(a)
    assert store.add(a.copy()) == first
    second = store.add(a + 1)
    assert second != first
    assert second % 64 == 0
    memory = store.pack()
    np.testing.assert_array_equal(memory[second : second + 400].view(np.float32), a + 1)


def test_memory_is_shared_by_values_that_never_meet() -> None:
    p = parameter([64, 1024], f32, "x")
    x = p.outputs[0]
    for i in range(6):
        x = make("Transpose", x, constant(np.array([1, 0])), name=f"t{i}")
    plan = Planner(model_of(x, inputs=[p]), host_isa(), 1).plan()
    assert plan.arena_size <= 2 * 64 * 1024 * 4 + 64


def test_kernels_have_names_and_say_why_not() -> None:
    names = [k.name for k in all_kernels()]
    assert len(set(names)) == len(names)
    p = parameter([2, 8], f32, "x")
    choice = choose(foreign(p.outputs[0]).node, host_isa())
    assert choice.name == "eval"
    assert choice.refused == {"native": "no kernel for Foreign"}
