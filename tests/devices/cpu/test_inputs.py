"""Large inputs are read where the caller has them, and only where that is safe."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.aot.load import LibraryRunner
from lpir.devices.cpu.inputs import PAGE
from lpir.devices.cpu.run import CpuRunner
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make

COUNT = 3 * PAGE // 4


def model(count: int = 4 * COUNT) -> Model:
    x = parameter((1, count), f32, "x")
    y = make("Relu", x.output)
    return Model([Node(Result(), [make("Add", y, x.output)], "r")], [x])


Request = tuple[lpir.InferRequest, CpuRunner | LibraryRunner]


@pytest.fixture(params=["compiled", "loaded"])
def compile_(request: pytest.FixtureRequest) -> Callable[[Model], lpir.CompiledModel]:
    """How a model comes to run: compiled here, or from its library."""

    def make(network: Model) -> lpir.CompiledModel:
        compiled = lpir.compile_model(network, "CPU")
        return compiled if request.param == "compiled" else lpir.Core().import_model(compiled.export_model(), "CPU")

    return make


@pytest.fixture
def request_of(compile_: Callable[[Model], lpir.CompiledModel]) -> Callable[[Model], Request]:
    def make(network: Model) -> Request:
        request = compile_(network).create_infer_request()
        assert isinstance(request.runner, CpuRunner | LibraryRunner)
        return request, request.runner

    return make


def at_page_end(count: int) -> Array:
    """Floats of which the last one ends a page."""
    pages = mmap.mmap(-1, count * 4)
    return np.frombuffer(pages, np.float32)


def inside(count: int) -> Array:
    """Floats with memory behind them."""
    return np.zeros(count + 64, np.float32)[:count]


def test_an_array_is_read_in_place(request_of: Callable[[Model], Request]) -> None:
    request, runner = request_of(model())
    x = inside(4 * COUNT)[None]
    x[:] = np.arange(x.size)
    np.testing.assert_array_equal(request.infer([x])[0], 2 * x)
    assert runner.inputs[0].source is x
    x -= 5
    np.testing.assert_array_equal(request.infer([x])[0], np.maximum(x, 0) + x)
    assert x.min() == -5


def test_an_array_that_ends_a_page_is_copied(request_of: Callable[[Model], Request]) -> None:
    request, runner = request_of(model())
    x = at_page_end(4 * COUNT)[None]
    x[:] = 3
    np.testing.assert_array_equal(request.infer([x])[0], 2 * x)
    assert runner.inputs[0].source is runner.inputs[0].view


def test_arrays_of_both_kinds_alternate(request_of: Callable[[Model], Request]) -> None:
    request, _ = request_of(model())
    arrays = [make_array(4 * COUNT)[None] for make_array in (inside, at_page_end, inside, at_page_end)]
    for value, x in enumerate(arrays * 2):
        x[:] = value
        np.testing.assert_array_equal(request.infer([x])[0], np.full(x.shape, 2 * value))


def test_a_small_array_is_copied(request_of: Callable[[Model], Request]) -> None:
    request, runner = request_of(model(16))
    x = np.ones((1, 16), np.float32)
    np.testing.assert_array_equal(request.infer([x])[0], 2 * x)
    assert runner.inputs[0].source is runner.inputs[0].view


@pytest.mark.parametrize("op", ["Relu", "Sigmoid"])
def test_nothing_is_written_to_the_callers_array(op: str, request_of: Callable[[Model], Request]) -> None:
    x = parameter((1, 4 * COUNT), f32, "x")
    request, _ = request_of(Model([Node(Result(), [make(op, x.output)], "r")], [x]))
    given = -inside(4 * COUNT)[None] - 1
    before = given.copy()
    request.infer([given])
    np.testing.assert_array_equal(given, before)


def test_an_input_that_is_an_output_is_copied(request_of: Callable[[Model], Request]) -> None:
    x = parameter((4, COUNT), f32, "x")
    flat: Value = make("Reshape", x.output, constant(np.array([-1])), special_zero=False)
    request, _ = request_of(Model([Node(Result(), [v], "r") for v in (flat, make("Relu", x.output))], [x]))
    for value in (1, 2):
        given = np.full((4, COUNT), value, np.float32)
        results = request.infer([given])
        np.testing.assert_array_equal(results[0], given.reshape(-1))
        assert results[0].base is not given


def test_an_idle_request_keeps_no_array(compile_: Callable[[Model], lpir.CompiledModel]) -> None:
    compiled = compile_(model())
    x = inside(4 * COUNT)[None]
    compiled([x])
    gone = weakref.ref(x)
    del x
    assert gone() is None
