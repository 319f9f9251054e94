"""Matrix products in INT8: operands of any kind on either side, on every instruction set, equal to the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lpir
from lpir.devices.cpu.isa import all_isas
from lpir.devices.cpu.pipeline import prepare
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import Result, constant, parameter
from lpir.ops.builder import make
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.passes.networks import Builder
from tests.tolerances import EXACT, assert_close

ISAS = [isa.name for isa in all_isas() if isa.available()]
# zero points: in the middle, at an end, anywhere, and none that is a code
STRAIGHT = {"transpose_a": False, "transpose_b": False}
RANGES = {"s8": (-128, 127), "u8": (0, 255), "asymmetric": (-77, 178), "without 0": (3, 258)}


class Product:
    """A product of quantized inputs and weights, and what runs it."""

    def __init__(self) -> None:
        self.builder = Builder(3)
        self.inputs: list[Node] = []

    def codes(self, *shape: int, kind: str = "s8") -> Value:
        """A new input, quantized with steps of 1/16."""
        self.inputs.append(parameter(shape, f32, f"x{len(self.inputs)}"))
        low, high = (n / 16 for n in RANGES[kind])
        return self.builder.fake_quantize(self.inputs[-1].outputs[0], low, high, f"fq{len(self.inputs)}")

    def weights(self, *shape: int, axes: int = 1) -> Value:
        """Weights with a scale for each index of the first `axes` axes, -128 among their codes."""
        w = self.builder.weights(shape, axes)
        w.node.inputs[0].node.inputs[0].node.op.data.reshape(-1)[0] = -128  # type: ignore[attr-defined]
        return w

    def vector(self, length: int) -> Value:
        """Quantized weights as a file has them that nobody compressed."""
        data = self.builder.rng.normal(size=length).astype(np.float32)
        return self.builder.fake_quantize(constant(data), -3, 3, "vector", 255)

    def check(self, a: Value, b: Value, isa: str, turn: bool = False, flip: bool = False) -> None:
        y = make("MatMul", a, b, transpose_a=turn, transpose_b=flip, name="tested")
        model = Model([Node(Result(), [y], "out")], self.inputs, "net")
        compiled = lpir.compile_model(model, "CPU", {"ISA": isa, "INFERENCE_NUM_THREADS": 2})
        row = next(r for r in compiled.explain().rows if r.name == "tested")
        assert (row.precision, row.reasons) == ("INT8", ())
        assert "eval" not in row.kernel
        lowered = Interpreter(lower_model(prepare(model, True))).create_runner()
        exact = lpir.compile_model(model, "REFERENCE")
        for seed in range(3):
            rng = np.random.default_rng(seed)
            arrays = [
                rng.normal(scale=4 * (1 + seed), size=v.shape.to_static()).astype(np.float32) for v in model.inputs
            ]
            (actual,) = compiled(arrays).to_tuple()
            assert_close(actual, lowered.run(arrays)[0], EXACT)
            # steps are powers of two: nothing lies between two codes, and float sums are exact but for the scale
            np.testing.assert_allclose(actual, exact(arrays)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("right", RANGES)
@pytest.mark.parametrize("left", RANGES)
def test_two_activations(left: str, right: str, isa: str) -> None:
    n = Product()
    n.check(n.codes(2, 17, 33, kind=left), n.codes(2, 33, 19, kind=right), isa)


CASES: dict[str, Callable[[Product, str], None]] = {
    "weights on the left": lambda n, isa: n.check(n.weights(17, 33), n.codes(33, 19), isa),
    "weights on the left, transposed": lambda n, isa: n.check(n.weights(33, 17, axes=0), n.codes(33, 19), isa, True),
    "weights on the left, for each batch": lambda n, isa: n.check(
        n.weights(3, 17, 64, axes=2), n.codes(3, 20, 64, kind="asymmetric"), isa, flip=True
    ),
    "weights on the left of a batch": lambda n, isa: n.check(n.weights(40, 33), n.codes(5, 33, 16, kind="u8"), isa),
    "a scale for each batch": lambda n, isa: n.check(n.codes(3, 17, 33), n.weights(3, 33, 19), isa),
    "a vector and weights": lambda n, isa: n.check(n.codes(33), n.weights(19, 33), isa, flip=True),
    "weights and a vector": lambda n, isa: n.check(n.weights(19, 33), n.codes(33, kind="u8"), isa),
    "codes and a vector of weights": lambda n, isa: n.check(n.codes(17, 33), n.vector(33), isa),
    "a vector and codes": lambda n, isa: n.check(n.codes(33, kind="asymmetric"), n.codes(33, 19), isa),
    "two vectors": lambda n, isa: n.check(n.codes(33), n.codes(33, kind="u8"), isa),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
def test_weights_and_vectors_on_either_side(name: str, isa: str) -> None:
    CASES[name](Product(), isa)


def test_a_scale_along_the_sum_is_refused_on_the_left_too() -> None:
    image = parameter((33, 19), f32, "x")
    b = Builder(0)
    weights = make("Transpose", b.weights((33, 17)), constant(np.array([1, 0])))
    y = make("MatMul", weights, b.fake_quantize(image.outputs[0], -4, 4 * 127 / 128), name="tested", **STRAIGHT)
    compiled = lpir.compile_model(Model([Node(Result(), [y], "out")], [image], "net"), "CPU")
    (row,) = compiled.explain().refused()
    assert row.name == "tested"
