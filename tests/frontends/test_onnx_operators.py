"""ONNX's own node tests, counted by operator."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from lpir.errors import LpirError, UnsupportedError
from lpir.frontends.onnx import read_onnx
from lpir.frontends.onnx.table import supported_operators
from tests.frontends.networks import Array, evaluate
from tests.tolerances import Tolerance, assert_close

LISTED = Path(__file__).parent.parent / "golden" / "onnx_node_tests.txt"
NODE_TEST = Tolerance("NODE_TEST", "the relative tolerance that onnx gives its own node tests", rel=1e-3, abs=1e-6)
NARROW = Tolerance("NARROW", "16-bit floats: each step of a decomposition rounds", rel=2e-2, abs=1e-2)


@functools.cache
def node_tests() -> list[Any]:
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(node.collect_testcases())


def as_array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value if isinstance(value, list | dict) or value is None else np.asarray(value)


def load(proto: onnx.ModelProto, inputs: list[Any]) -> Any:
    """The model; inputs that lpir needs to know (shapes, scales) become initializers when it says so."""
    try:
        return read_onnx(proto)
    except UnsupportedError as error:
        if "must be a constant" not in str(error):
            raise
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    for info, array in list(zip(proto.graph.input, inputs, strict=True))[1:]:
        fixed.graph.initializer.append(numpy_helper.from_array(array, info.name))
    return read_onnx(fixed)


def problem(case: Any) -> str:
    """What goes wrong in a node test, or "" when it passes."""
    for given, expected in case.data_sets:
        inputs = [as_array(v) for v in given]
        try:
            model = load(case.model, inputs)
            feeds: dict[str, Array] = {i.name: a for i, a in zip(case.model.graph.input, inputs, strict=True)}
            with np.errstate(all="ignore"):
                outputs = evaluate(model, feeds)
            for actual, wanted in zip(outputs, expected, strict=True):
                wanted = as_array(wanted)
                narrow = wanted.dtype.itemsize < 4 and wanted.dtype.kind not in "iub"
                assert_close(actual, wanted, NARROW if narrow else NODE_TEST)
        except (LpirError, AssertionError) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def counts() -> dict[str, tuple[int, int]]:
    """Operator -> (tests passed, tests in all) for every operator with a converter; `others` are the rest."""
    known = {name for domain, name, _ in supported_operators() if not domain}
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for case in node_tests():
        types = {n.op_type for n in case.model.graph.node}
        only = next(iter(types)) if len(types) == 1 else ""
        row = only if only in known else "others (several operators, or written out by onnx)"
        found[row][0] += not problem(case)
        found[row][1] += 1
    return {k: (v[0], v[1]) for k, v in sorted(found.items())}


def parse(text: str) -> dict[str, int]:
    rows = (line.rsplit(maxsplit=1) for line in text.splitlines()[1:])
    return {name: int(count.split("/")[0]) for name, count in rows}


def test_official_node_tests(golden: bool) -> None:
    """No operator passes fewer of ONNX's tests than the list says; `--golden` writes the list anew."""
    now = counts()
    if golden:
        total = sum(n for n, _ in now.values())
        lines = [f"{name} {passed}/{all_}" for name, (passed, all_) in now.items()]
        LISTED.write_text(f"{total} of ONNX's node tests pass, by operator:\n" + "\n".join(lines) + "\n")
    listed = parse(LISTED.read_text())
    worse = {k: (now.get(k, (0, 0))[0], n) for k, n in listed.items() if now.get(k, (0, 0))[0] < n}
    assert not worse, f"fewer node tests pass than listed (now, listed): {worse}"
