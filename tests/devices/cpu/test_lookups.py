"""Tables and gathers: bit-identical to NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.gather import KERNELS as GATHERS
from lpir.devices.cpu.kernels.table import KERNELS as TABLES
from lpir.ir.op import REGISTRY, Op
from lpir.ops.lowered import Table
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import EXACT, assert_close

ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


@ISAS
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32, np.bool_, np.int64])
def test_table(isa: Isa, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, 256).astype(dtype)
    for length in (1, 63, 64, 65, 1000):
        x = rng.integers(0, 256, length).astype(np.uint8)
        for threads in (1, 3):
            assert_close(run(TABLES[0], Table(), [x, table], isa, threads, (1,))[0], table[x], EXACT)
    every = np.arange(256, dtype=np.uint8)
    assert_close(run(TABLES[0], Table(), [every, table], isa)[0], table, EXACT)


def gather(x: Array, indices: Array, axis: int, isa: Isa, threads: int = 1, batch: int = 0) -> None:
    kind: Any = REGISTRY["Gather"]
    op: Op = kind(batch)
    inputs = [x, indices, np.asarray(axis)]
    assert_close(run(GATHERS[0], op, inputs, isa, threads, (2,))[0], op.eval(*inputs)[0], EXACT)


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_gather(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    places = tuple(data.draw(st.lists(st.integers(1, 6), min_size=0, max_size=2)))
    n = shape[axis]
    rng = np.random.default_rng(0)
    indices = rng.integers(-n, n, places).astype(data.draw(st.sampled_from([np.int32, np.int64])))
    x = rng.integers(0, 100, shape).astype(data.draw(st.sampled_from([np.float32, np.uint8, np.int64])))
    gather(x, np.asarray(indices), axis, isa, data.draw(st.sampled_from([1, 2])))


@ISAS
def test_gather_samples(isa: Isa) -> None:
    for case in REGISTRY["Gather"].cases():
        assert_close(run(GATHERS[0], case.op, case.inputs, isa, 1, (2,))[0], case.op.eval(*case.inputs)[0], EXACT)
