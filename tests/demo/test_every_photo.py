"""The promise of docs/numerics.md on real networks and every photo, with the quantizer's defaults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lpir
from lpir.demo.efficientnet import efficientnet_lite0
from lpir.demo.mobilenet import mobilenet_v2
from lpir.demo.photos import correct, photos
from lpir.demo.show import cosine
from lpir.ir.model import Model
from lpir.passes.lowprec.lower import lower_model
from lpir.passes.manager import transform
from lpir.runtime.interpreter import Interpreter
from tests.tolerances import EXACT, assert_close

# two honest float evaluations of one deep quantized network agree to about this
MEAN_COSINE, WORST_COSINE = 0.999, 0.998
# logits whose difference is noise: the reference's own margin must be larger for top-1 to have to agree
NOISE = 0.1


@pytest.mark.parametrize("build", [mobilenet_v2, efficientnet_lite0], ids=lambda f: f.__name__)
def test_int8_keeps_its_promises_on_every_photo(build: Callable[[], Model]) -> None:
    inputs = [photo.input() for photo in photos()]
    model = build()
    quantized = lpir.quantize(model, inputs[:10], progress=False)
    compiled, float_compiled = lpir.compile_model(quantized, "CPU"), lpir.compile_model(model, "CPU")
    floats = [np.asarray(float_compiled(x)[0]) for x in inputs]
    codes = [np.asarray(compiled(x)[0]) for x in inputs]

    assert correct(floats) >= 16
    assert abs(correct(codes) - correct(floats)) <= 1
    assert compiled.explain().refused() == []

    lowered = Interpreter(lower_model(transform(quantized.clone()))).create_runner()
    for actual, x in zip(codes, inputs, strict=True):
        assert_close(actual, lowered.run([x])[0], EXACT)

    as_is = lpir.compile_model(quantized, "REFERENCE")
    references = [np.asarray(as_is(x)[0]) for x in inputs]
    cosines = [cosine(a, b) for a, b in zip(codes, references, strict=True)]
    assert np.mean(cosines) >= MEAN_COSINE
    assert min(cosines) >= WORST_COSINE
    for actual, expected in zip(codes, references, strict=True):
        first, second = np.sort(expected.reshape(-1))[-1:-3:-1]
        if first - second > NOISE * np.abs(expected).max():
            assert np.argmax(actual) == np.argmax(expected)
