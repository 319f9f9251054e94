"""Values inside other values: parts of a Concat are written where they belong, parts of a Split read where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.device import CpuExecutable
from lpir.devices.cpu.isa import all_isas
from lpir.devices.cpu.plan import Plan
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import REGISTRY
from lpir.ir.types import f32, i64
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.runtime.interpreter import Interpreter
from lpir.runtime.session import CompiledModel
from tests.tolerances import EXACT, assert_close

ISAS = [isa.name for isa in all_isas() if isa.available()]
RNG = np.random.default_rng(5)


def model_of(*outputs: Value, inputs: list[Node]) -> Model:
    return Model([Node(Result(), [v], f"r{i}") for i, v in enumerate(outputs)], inputs)


def quantized(x: Value, low: float = 0.0, high: float = 6.0) -> Value:
    limits = [constant(np.full((1,) * 4, v, np.float32)) for v in (low, high, low, high)]
    return make("FakeQuantize", x, *limits, levels=256)


def convolution(x: Value, outputs: int, size: int = 1) -> Value:
    """A convolution of quantized activations with 8-bit weights."""
    w = RNG.integers(-127, 128, (outputs, x.shape[1].length, size, size), np.int8)
    real = make("Multiply", make("Convert", constant(w), destination_type=f32), constant(np.float32(0.01)))
    pad = (size // 2,) * 2
    return make(
        "Convolution", x, real, strides=(1, 1), pads_begin=pad, pads_end=pad, dilations=(1, 1), auto_pad="explicit"
    )


def branches(channels: tuple[int, ...], shape: tuple[int, ...] = (1, 3, 6, 5)) -> Model:
    """Convolutions of one quantized input side by side, quantized in the same way and joined along the channels."""
    p = parameter(shape, f32, "x")
    x = quantized(p.outputs[0], -1.28, 1.27)
    parts = [quantized(convolution(x, n, 3 if i % 2 else 1)) for i, n in enumerate(channels)]
    joined = make("Concat", *parts, axis=1)
    return model_of(quantized(convolution(joined, 7)), inputs=[p])


def compiled(model: Model, **config: Any) -> tuple[CompiledModel, Plan]:
    found = lpir.compile_model(model, "CPU", config)
    assert isinstance(found.executable, CpuExecutable)
    return found, found.executable.plan


def kernels(plan: Plan) -> list[str]:
    return [choice.name for _, choice in plan.choices.values()]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [(16, 32), (17, 5, 40), (1, 1), (64, 3, 16, 33)])
def test_convolutions_write_their_part_of_a_concat(channels: tuple[int, ...], isa: str, threads: int) -> None:
    model = branches(channels)
    found, plan = compiled(model, ISA=isa, INFERENCE_NUM_THREADS=threads)
    x = RNG.normal(size=(1, 3, 6, 5)).astype(np.float32)
    expected = Interpreter(found.get_runtime_model()).create_runner().run([x])
    for _ in range(2):
        assert_close(found([x])[0], expected[0], EXACT)
    assert "concat" not in kernels(plan)


def test_a_batch_is_joined_without_copies_too() -> None:
    found, plan = compiled(branches((16, 20), (3, 3, 4, 4)))
    x = RNG.normal(size=(3, 3, 4, 4)).astype(np.float32)
    assert_close(found([x])[0], Interpreter(found.get_runtime_model()).create_runner().run([x])[0], EXACT)
    assert "concat" not in kernels(plan)


def test_a_part_that_others_read_is_copied() -> None:
    p = parameter((1, 3, 6, 5), f32, "x")
    x = quantized(p.outputs[0], -1.28, 1.27)
    first, second = quantized(convolution(x, 16)), quantized(convolution(x, 24))
    joined = make("Concat", first, second, axis=1)
    found, plan = compiled(model_of(quantized(convolution(joined, 7)), quantized(convolution(first, 5)), inputs=[p]))
    assert "concat" in kernels(plan)
    data = RNG.normal(size=(1, 3, 6, 5)).astype(np.float32)
    for got, want in zip(
        found([data]).values(), Interpreter(found.get_runtime_model()).create_runner().run([data]), strict=True
    ):
        assert_close(got, want, EXACT)


def test_the_same_part_twice_is_written_once_and_copied_once() -> None:
    p = parameter((4, 16), f32, "x")
    y = make("Sigmoid", p.outputs[0])
    found, _ = compiled(model_of(make("Concat", y, y, p.outputs[0], axis=0), inputs=[p]))
    x = RNG.normal(size=(4, 16)).astype(np.float32)
    got = found([x])[0]
    assert_close(got[:4], got[4:8], EXACT)
    assert_close(got[8:], x, EXACT)


@pytest.mark.parametrize("axis", [0, 1])
def test_any_kernel_writes_a_part_along_the_outermost_axis(axis: int) -> None:
    shape = (4, 16) if axis == 0 else (1, 4, 16)
    p = parameter(shape, f32, "x")
    x = p.outputs[0]
    parts = [make("Sigmoid", x), make("Exp", x), make("Reshape", make("Sqrt", x), constant(list(shape), i64))]
    joined = make("Concat", *parts, axis=axis)
    # the parts have other readers as well, before and after
    found, plan = compiled(model_of(joined, make("Add", parts[0], parts[1]), make("Relu", joined), inputs=[p]))
    assert "concat" not in kernels(plan)
    data = RNG.uniform(0.5, 2, shape).astype(np.float32)
    got = found([data])
    want = Interpreter(found.get_runtime_model()).create_runner().run([data])
    for a, b in zip(got.values(), want, strict=True):
        assert_close(a, b, EXACT)


def test_parts_at_odd_bytes_are_copied() -> None:
    p = parameter((3, 5), f32, "x")
    joined = make("Concat", make("Relu", p.outputs[0]), make("Abs", p.outputs[0]), axis=0)
    found, plan = compiled(model_of(joined, inputs=[p]))
    assert "concat" in kernels(plan)
    x = RNG.normal(size=(3, 5)).astype(np.float32)
    assert_close(found([x])[0], np.concatenate([np.maximum(x, 0), np.abs(x)]), EXACT)


@pytest.mark.parametrize(("rows", "alias"), [(16, True), (3, False)])
def test_a_split_along_the_outermost_axis_copies_nothing(rows: int, alias: bool) -> None:
    p = parameter((1, 2 * rows, 5), f32, "x")
    node = make("Exp", p.outputs[0]).node
    split = Node(REGISTRY["Split"](num_splits=2), [node.output, constant(np.int64(1))], "split")
    first, second = split.outputs
    outputs = [make("Subtract", second, first), first, make("Relu", node.output)]
    found, plan = compiled(model_of(*outputs, inputs=[p]))
    assert ("alias" in kernels(plan)) == alias
    x = RNG.normal(size=(1, 2 * rows, 5)).astype(np.float32)
    got = list(found([x]).values())
    want = Interpreter(found.get_runtime_model()).create_runner().run([x])
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, EXACT)
