"""Loops on the CPU: bodies are compiled, in INT8 too, for any shape, and may run side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.device import CpuExecutable
from lpir.devices.cpu.loops import CompiledBody
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.ops.loops import Part, Port, TensorIterator
from lpir.passes.lowprec.lower import lower_model
from lpir.passes.unroll import unroll_loops
from lpir.runtime.cache import model_digest
from lpir.runtime.interpreter import Interpreter
from tests.passes.networks import Builder
from tests.tolerances import EXACT, F32_SUM, assert_close

RNG = np.random.default_rng(2)
SIZE = 8


def recurrent(steps: int, quantized: bool = False, seed: int = 0) -> Model:
    """`s = relu(x_t w + s)`: w comes from around the loop; the states are joined."""
    b = Builder(seed)
    x_t, s = (parameter((2, 1, SIZE), f32, name) for name in ("x", "s"))
    w = parameter((SIZE, SIZE), f32, "w")
    codes: Value = b.fake_quantize(x_t.output, -2, 2 * 127 / 128) if quantized else x_t.output
    weights = b.weights((SIZE, SIZE)) if quantized else w.output
    product = make("MatMul", codes, weights, transpose_a=False, transpose_b=quantized)
    y = make("Relu", make("Add", product, s.output))
    body = Model([Node(Result(), [y], "y")], [x_t, s, w], "body")
    x, start = parameter((2, steps, SIZE), f32, "x"), constant(np.zeros((2, 1, SIZE), np.float32))
    around = constant(np.random.default_rng(seed).standard_normal((SIZE, SIZE)).astype(np.float32))
    op = TensorIterator(body, (Port(0, 0, Part(1)), Port(1, 1), Port(2, 2)), (Port(0, 0, Part(1)),), ((0, 1),))
    loop = Node(op, [x.output, start, around], "loop")
    return Model([Node(Result(), [loop.output], "out")], [x])


def data(steps: int) -> np.ndarray:
    return RNG.standard_normal((2, steps, SIZE)).astype(np.float32)


@pytest.fixture
def as_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpir.passes.unroll.MOST_NODES", 0)


def bodies(compiled: lpir.CompiledModel) -> list[CompiledBody]:
    return [n.op.run for n in compiled.executable.lowered.nodes() if isinstance(n.op, TensorIterator)]  # type: ignore[attr-defined]


def test_a_short_loop_is_one_native_call() -> None:
    compiled = lpir.compile_model(recurrent(6), "CPU")
    assert isinstance(compiled.executable, CpuExecutable)
    assert len(compiled.executable.plan.segments) == 1
    assert compiled.executable.export_model()
    x = data(6)
    expected = Interpreter(recurrent(6)).create_runner().run([x])[0]
    assert_close(compiled([x])[0], expected, F32_SUM.per(6 * SIZE))


@pytest.mark.usefixtures("as_loops")
def test_a_body_is_compiled_with_the_constants_around_it() -> None:
    compiled = lpir.compile_model(recurrent(6), "CPU")
    (body,) = bodies(compiled)
    assert body.kept == [0, 1]
    assert isinstance(body.executable, CpuExecutable)
    assert body.executable.explain().rows[0].kernel == "fgemm_matmul"
    x = data(6)
    expected = Interpreter(recurrent(6)).create_runner().run([x])[0]
    assert_close(compiled([x])[0], expected, F32_SUM.per(6 * SIZE))
    (row,) = compiled.explain().rows
    assert row.kernel == "eval (its body is compiled)"
    with pytest.raises(lpir.UnsupportedError, match="TensorIterator"):
        compiled.executable.export_model()


@pytest.mark.parametrize("most", [2000, 0])
def test_bodies_run_in_int8(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = recurrent(5, quantized=True)
    plain = model.clone()
    assert unroll_loops(plain) == 1
    x = data(5)
    (expected,) = Interpreter(lower_model(plain)).create_runner().run([x])
    monkeypatch.setattr("lpir.passes.unroll.MOST_NODES", most)
    compiled = lpir.compile_model(model, "CPU")
    assert_close(compiled([x])[0], expected, EXACT)
    rows = bodies(compiled)[0].executable.explain().rows if most == 0 else compiled.explain().rows
    assert {r.precision for r in rows if r.type in ("MatMul", "TensorIterator")} == {"INT8"}


def test_any_number_of_steps() -> None:
    model = recurrent(3)
    model.reshape([2, -1, SIZE])
    assert str(model.outputs[0].shape) == f"[2,?,{SIZE}]"
    for device in ("CPU", "REFERENCE"):
        compiled = lpir.compile_model(model, device)
        for steps in (1, 4, 9):
            x = data(steps)
            expected = Interpreter(recurrent(steps)).create_runner().run([x])[0]
            assert_close(compiled([x])[0], expected, F32_SUM.per(steps * SIZE))


@pytest.mark.usefixtures("as_loops")
def test_requests_side_by_side() -> None:
    compiled = lpir.compile_model(recurrent(20), "CPU")
    inputs = [data(20) for _ in range(16)]
    expected = [compiled([x])[0] for x in inputs]

    def run(x: np.ndarray) -> np.ndarray:
        return compiled.create_infer_request().infer([x])[0]

    with ThreadPoolExecutor(4) as pool:
        for actual, wanted in zip(pool.map(run, inputs), expected, strict=True):
            assert_close(actual, wanted, EXACT)


def test_a_digest_tells_bodies_apart() -> None:
    assert model_digest(recurrent(3, True, 0)) == model_digest(recurrent(3, True, 0))
    assert model_digest(recurrent(3, True, 0)) != model_digest(recurrent(3, True, 1))
