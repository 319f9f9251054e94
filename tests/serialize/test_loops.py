"""Files with loops: those of OpenVINO give its answers here and, written again, there; damaged ones are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset16 as ops

import lpir
from lpir.errors import FileError, LpirError, UnsupportedError
from lpir.ir.op import REGISTRY
from lpir.ops.loops import Part, TensorIterator
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import to_bytes, write_model
from tests.serialize.oracle import evaluate, one_operation, run_openvino
from tests.tolerances import F32_SUM, assert_close

RNG = np.random.default_rng(11)
STEPS, SIZE, HIDDEN = 5, 6, 4


def constant(*shape: int) -> Any:
    return ops.constant((RNG.standard_normal(shape) * 0.4).astype(np.float32))


def lstm_iterator(backward: bool) -> ov.Model:
    """A TensorIterator around an LSTMCell, as older converters wrote recurrent networks."""
    part = ops.parameter([2, 1, SIZE], np.float32, name="part")
    h, c = (ops.parameter([2, HIDDEN], np.float32, name=name) for name in "hc")
    flat = ops.squeeze(part, ops.constant(np.array([1])))
    cell = ops.lstm_cell(
        flat, h, c, constant(4 * HIDDEN, SIZE), constant(4 * HIDDEN, HIDDEN), constant(4 * HIDDEN), HIDDEN
    )
    one = ops.unsqueeze(cell.output(0), ops.constant(np.array([1])))
    results = [ops.result(v) for v in (cell.output(0), cell.output(1), one)]
    x = ops.parameter([2, STEPS, SIZE], np.float32, name="x")
    loop = ops.tensor_iterator()
    loop.set_body(ov.Model(results, [part, h, c], "cell"))
    bounds = (-1, -1, 1, 0, 1) if backward else (0, 1, 1, -1, 1)
    loop.set_sliced_input(part, x.output(0), *bounds)
    for state, result in ((h, results[0]), (c, results[1])):
        loop.set_merged_input(state, constant(2, HIDDEN).output(0), result.output(0))
    outputs = [loop.get_iter_value(r.output(0), -1) for r in results[:2]]
    outputs.append(loop.get_concatenated_slices(results[2].output(0), *bounds))
    return ov.Model([ops.result(v) for v in outputs], [x], "lstm")


def counted_loop() -> ov.Model:
    """A Loop with a weight that the body gets as an input, the number of the iteration, and a condition."""
    number, s, w = (
        ops.parameter(shape, kind, name=n)
        for n, shape, kind in (("i", [], np.int64), ("s", [1, SIZE], np.float32), ("w", [SIZE, SIZE], np.float32))
    )
    product = ops.tanh(ops.matmul(s, w, False, False))
    y = ops.add(product, ops.convert(number, "f32"))
    total = ops.reduce_sum(y, ops.constant(np.array([0, 1])), False)
    results = [ops.result(v) for v in (ops.less(total, ops.constant(np.float32(15))), y)]
    x = ops.parameter([1, SIZE], np.float32, name="x")
    loop = ops.loop(ops.constant(np.array(9, np.int64)), ops.constant(np.array(True)))
    loop.set_function(ov.Model(results, [number, s, w], "round"))
    loop.set_special_body_ports([0, 0])
    loop.set_merged_input(s, x.output(0), results[1].output(0))
    loop.set_invariant_input(w, constant(SIZE, SIZE).output(0))
    last = loop.get_iter_value(results[1].output(0), -1)
    stacked = loop.get_concatenated_slices(results[1].output(0), 0, 1, 1, -1, 0)
    return ov.Model([ops.result(last), ops.result(stacked)], [x], "rounds")


CASES: dict[str, tuple[Callable[[], ov.Model], tuple[int, ...]]] = {
    "lstm": (lambda: lstm_iterator(False), (2, STEPS, SIZE)),
    "lstm backward": (lambda: lstm_iterator(True), (2, STEPS, SIZE)),
    "loop": (counted_loop, (1, SIZE)),
}


@pytest.mark.parametrize("case", CASES)
def test_files_of_openvino(case: str, tmp_path: Path) -> None:
    make, shape = CASES[case]
    ov.save_model(make(), tmp_path / "theirs.xml", compress_to_fp16=False)
    model = read_model(tmp_path / "theirs.xml")
    write_model(model, tmp_path / "ours.xml")
    again = read_model(tmp_path / "ours.xml")
    assert to_bytes(again) == to_bytes(model)
    x = RNG.standard_normal(shape).astype(np.float32)
    expected = run_openvino(tmp_path / "theirs.xml", x)
    compiled = lpir.compile_model(model, "CPU")([x])
    for found in (run_openvino(tmp_path / "ours.xml", x), evaluate(model, x), compiled.to_tuple()):
        for actual, wanted in zip(found, expected, strict=True):
            assert_close(actual, wanted, F32_SUM.per(50 * SIZE))


def loop_file() -> tuple[bytes, bytes]:
    return to_bytes(one_operation(REGISTRY["Loop"].cases()[0])[0])


def test_hostile_maps() -> None:
    xml, weights = loop_file()
    maps = re.search(rb"<port_map>.*</back_edges>", xml, re.DOTALL)
    assert maps is not None
    for found in re.finditer(rb'="([^"]*)"', maps[0]):
        start, end = (maps.start() + i for i in found.span(1))
        for text in (b"-1", b"7", b"x", b"", b"99999999999999999999", b"-9223372036854775808"):
            try:
                read_model(xml[:start] + text + xml[end:], weights)
            except LpirError:
                continue
    whole = maps[0]
    for less in (b"", re.sub(rb"<input [^>]*/>", b"", whole)):
        with pytest.raises(FileError, match="'op'"):
            read_model(xml.replace(whole, less), weights)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (rb"<body>.*</body>", "has no body"),
        (rb'<input external_port_id="2"[^>]*/>', "nothing feeds parameter 1 of the body"),
    ],
)
def test_what_is_missing_is_named(what: bytes, message: str) -> None:
    xml, weights = loop_file()
    with pytest.raises(FileError, match=f"'op'.*{message}"):
        read_model(re.sub(what, b"", xml, flags=re.DOTALL), weights)


def test_what_a_body_lacks_is_listed_too() -> None:
    xml, weights = loop_file()
    with pytest.raises(UnsupportedError, match="Foo opset1"):
        read_model(xml.replace(b'type="Multiply"', b'type="Foo"'), weights)


def test_parts_that_overlap_are_refused() -> None:
    case = TensorIterator.cases()[2]
    xml, weights = to_bytes(one_operation(case)[0])
    with pytest.raises(UnsupportedError, match="steps of 1"):
        read_model(xml.replace(b'stride="2"', b'stride="1"'), weights)
    assert Part(1, 0, -1, 2, 2).count(7) == 3
