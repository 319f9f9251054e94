"""Kernels that move elements: bit-identical to the operations' NumPy evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpir.devices.cpu.isa import Isa, by_name
from lpir.devices.cpu.kernels.copy import choose_form
from lpir.devices.cpu.kernels.geometry import collapse, dense_strides, reorder
from lpir.devices.cpu.kernels.move import KERNELS
from lpir.ir.op import REGISTRY, Op
from tests.devices.cpu.harness import HOST_ISAS, Array, run
from tests.tolerances import EXACT, assert_close

DTYPES = [np.float32, np.uint8, np.int64, np.int16, np.bool_]
ISAS = pytest.mark.parametrize("isa", HOST_ISAS, ids=lambda isa: isa.name)


def op(name: str, **attributes: object) -> Op:
    return REGISTRY[name](**attributes)


def check(operation: Op, inputs: list[Array], isa: Isa, threads: int = 1, moving: int = 1) -> None:
    kernel = next(k for k in KERNELS if isinstance(operation, k.ops))
    actual = run(kernel, operation, inputs, isa, threads, range(moving, len(inputs)))
    for a, e in zip(actual, operation.eval(*inputs), strict=True):
        assert_close(a, e, EXACT)


def numbered(shape: tuple[int, ...], dtype: Any) -> Array:
    rng = np.random.default_rng(0)
    x: Array = rng.integers(0, 2 if dtype == np.bool_ else 120, shape).astype(dtype)
    return x


@ISAS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_transpose(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 7, 16, 33, 70]), min_size=1, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    x = numbered(shape, data.draw(st.sampled_from(DTYPES)))
    check(op("Transpose"), [x, np.asarray(order)], isa, data.draw(st.sampled_from([1, 2, 3])))


@ISAS
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 24, 65])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_image_layouts(isa: Isa, dtype: Any, channels: int) -> None:
    for pixels in (3, 31, 113):
        check(op("Transpose"), [numbered((2, channels, pixels), dtype), np.asarray([0, 2, 1])], isa, 2)
        check(op("Transpose"), [numbered((2, pixels, channels), dtype), np.asarray([0, 2, 1])], isa, 2)


@ISAS
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_slice(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)))
    start = [data.draw(st.integers(-n - 1, n)) for n in shape]
    stop = [data.draw(st.integers(-n - 1, n + 1)) for n in shape]
    step = [data.draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    x = numbered(shape, data.draw(st.sampled_from(DTYPES)))
    check(
        op("Slice"), [x, np.asarray(start), np.asarray(stop), np.asarray(step)], isa, data.draw(st.sampled_from([1, 2]))
    )


@ISAS
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_concat(isa: Isa, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    dtype = data.draw(st.sampled_from(DTYPES))
    parts = []
    for _ in range(data.draw(st.integers(1, 4))):
        shape[axis] = data.draw(st.integers(1, 70))
        parts.append(numbered(tuple(shape), dtype))
    check(op("Concat", axis=axis), parts, isa, data.draw(st.sampled_from([1, 2])), moving=len(parts))


@ISAS
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_pad(isa: Isa, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(4, 20), min_size=1, max_size=4)))
    mode = data.draw(st.sampled_from(["constant", "edge", "reflect", "symmetric"]))
    begins, ends = ([data.draw(st.integers(-2, 3)) for _ in shape] for _ in range(2))
    x = numbered(shape, data.draw(st.sampled_from(DTYPES)))
    inputs = [x, np.asarray(begins), np.asarray(ends), np.asarray(1, x.dtype)]
    check(op("Pad", pad_mode=mode), inputs, isa, data.draw(st.sampled_from([1, 2])))


@ISAS
def test_operation_samples(isa: Isa) -> None:
    done = 0
    for kernel in KERNELS:
        for cls in kernel.ops:
            for case in cls.cases():
                moving = len(case.inputs) if cls.type_name == "Concat" else 1
                check(case.op, list(case.inputs), isa, moving=moving)
                done += 1
    assert done > 40


@ISAS
def test_split_and_tile_and_broadcast(isa: Isa) -> None:
    x = numbered((3, 40, 24), np.float32)
    check(op("Split", num_splits=4), [x, np.asarray(1)], isa, 2)
    check(op("VariadicSplit"), [x, np.asarray(2), np.asarray([3, -1, 5])], isa, 2)
    check(op("Tile"), [x, np.asarray([2, 1, 3])], isa, 2)
    check(op("Broadcast", mode="numpy"), [numbered((40, 1), np.uint8), np.asarray([3, 40, 24])], isa, 2)


def test_forms() -> None:
    isa = by_name("avx2")

    def kind(order: tuple[int, ...], shape: tuple[int, ...], size: int) -> str:
        moved = tuple(shape[a] for a in order)
        strides = tuple(dense_strides(shape)[a] for a in order)
        return choose_form(isa, size, reorder(collapse(moved, [strides, dense_strides(moved)]), 1))[0].kind

    assert kind((0, 2, 3, 1), (1, 64, 56, 56), 4) == "transpose"
    assert kind((0, 2, 3, 1), (1, 3, 224, 224), 4) == "interleave"
    assert kind((0, 3, 1, 2), (1, 224, 224, 3), 1) == "deinterleave"
    assert kind((0, 2, 1, 3), (1, 128, 12, 32), 4) == "run"
    assert kind((0, 1, 2, 3), (2, 3, 4, 5), 4) == "run"
    assert kind((1, 0), (2, 2), 4) == "strided"
