"""A short form of scripts/soak.py: four Python threads, one compiled model."""

from __future__ import annotations

import numpy as np

import lpir
from scripts.soak import Soak, resident_mb
from tests.passes.networks import mobile_block


def test_threads_share_a_model_without_other_bits_or_leaks() -> None:
    compiled = lpir.compile_model(mobile_block(), "CPU")
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(8)]
    soak = Soak(compiled, inputs)
    soak.run(0.5, 4)
    before = resident_mb()
    count, wrong = soak.run(2.0, 4)
    assert count > 100
    assert wrong == 0
    assert resident_mb() - before < 8
