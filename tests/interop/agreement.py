"""How far two evaluations of one deep quantized network may be apart, and each layer of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

import lpir
from lpir.demo.show import cosine
from lpir.ir.model import Model
from lpir.passes.lowprec.lower import lower_model
from lpir.runtime.interpreter import Interpreter
from tests.interop.networks import Array
from tests.tolerances import ONE_STEP, Tolerance, assert_close

CORE = ov.Core()
# the network as it is written: f32 arithmetic and no integer transformations
AS_WRITTEN = {
    "LP_TRANSFORMS_MODE": "NO",
    "INFERENCE_PRECISION_HINT": "f32",
    # otherwise activations in front of compressed weights are quantized
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}

# a rounding that flips at a tie is amplified by every later layer (docs/numerics.md)
MEAN_COSINE, LEAST_COSINE = 0.999, 0.998
# of a layer's outputs; only values that lie within float32's error of a tie can flip
MOST_FLIPS = 1e-3

DEEP_SUM = Tolerance("DEEP_SUM", "float32 sums in another order through some fifty layers", of_max=5e-5)
F16_WEIGHTS = Tolerance(
    "F16_WEIGHTS", "weights are decompressed in float16 by the file, in float32 by a device", of_max=2e-3
)


def openvino_runs(model: Any, *samples: list[Array]) -> list[list[Array]]:
    """For each sample all outputs, as OpenVINO computes them from the file as written."""
    compiled = CORE.compile_model(model, "CPU", AS_WRITTEN)
    ports = range(len(compiled.outputs))
    return [[np.array(found[i]) for i in ports] for found in map(compiled.infer_new_request, samples)]


def lpir_runs(model: Model | Path, device: str, *samples: list[Array]) -> list[list[Array]]:
    """For each sample all outputs on a device of lpir."""
    compiled = lpir.compile_model(model, device)
    return [[np.asarray(y) for y in compiled(sample).to_tuple()] for sample in samples]


def lowered_runs(model: Model, *samples: list[Array]) -> list[list[Array]]:
    """For each sample all outputs of the lowered reference: the lowered graph in NumPy."""
    runner = Interpreter(lower_model(model)).create_runner()
    return [runner.run(sample) for sample in samples]


def assert_same_values(actual: list[list[Array]], expected: list[list[Array]], what: str) -> None:
    """Cosines of the only output, one a sample, as far as flips at ties allow."""
    found = [cosine(a, b) for (a,), (b,) in zip(actual, expected, strict=True)]
    assert np.mean(found) >= MEAN_COSINE, f"{what}: cosines {found}"
    assert min(found) >= LEAST_COSINE, f"{what}: cosines {found}"


def assert_same_network(actual: list[list[Array]], expected: list[list[Array]], what: str) -> None:
    """`assert_same_values`, and the same label for each photo."""
    assert_same_values(actual, expected, what)
    assert [int(np.argmax(y)) for (y,) in actual] == [int(np.argmax(y)) for (y,) in expected], what


def assert_codes(actual: Array, expected: Array, low: Array, step: Array, what: str) -> None:
    """The codes behind the values of one FakeQuantize: equal but for a few that are one apart."""
    a, b = (np.rint((x - low) / step).astype(np.int32) for x in (actual, expected))
    assert_close(a, b, ONE_STEP, what)
    share = float(np.mean(a != b))
    assert share <= MOST_FLIPS or int((a != b).sum()) <= 1, f"{what}: {share:.1%} of the codes differ"
