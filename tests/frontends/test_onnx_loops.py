"""Loop, Scan, and LSTM with peepholes: CPU gives what ONNX Runtime gives, unrolled and with a compiled body."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lpir
from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx import read_onnx
from tests.frontends.networks import Array, build, onnxruntime_outputs
from tests.tolerances import F32_CHAIN, F32_SUM, Tolerance, assert_close

NODE = helper.make_node
RNG = np.random.default_rng(5)
ROWS, WIDTH = 3, 4
SUMS = F32_SUM.per(50)
KERNELS = {"unrolled": 2000, "compiled": 0}


def info(name: str, kind: int, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def body(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[str], constants: dict[str, Array]) -> Any:
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    return helper.make_graph(nodes, "body", inputs, [info(n, TensorProto.FLOAT, None) for n in outputs], weights)


def loop_body(most: float | None) -> Any:
    """`state = relu(state w + outer) * 0.5 + i`, until its sum is `most` or more; the states are stacked up."""
    nodes = [
        NODE("MatMul", ["s", "w"], ["product"]),
        NODE("Add", ["product", "outer"], ["sum"]),
        NODE("Relu", ["sum"], ["positive"]),
        NODE("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
        NODE("Mul", ["positive", "half"], ["small"]),
        NODE("Add", ["small", "number"], ["next"]),
        NODE("Identity", ["next"], ["stacked"]),
    ]
    if most is None:
        nodes.append(NODE("Identity", ["going"], ["goes_on"]))
    else:
        nodes += [NODE("ReduceSum", ["next"], ["total"], keepdims=0), NODE("Less", ["total", "most"], ["goes_on"])]
    inputs = [info("i", TensorProto.INT64, []), info("going", TensorProto.BOOL, []), info("s", TensorProto.FLOAT, None)]
    constants: dict[str, Any] = {"w": RNG.standard_normal((WIDTH, WIDTH), np.float32), "half": np.float32(0.5)}
    if most is not None:
        constants["most"] = np.float32(most)
    graph = body(nodes, inputs, ["goes_on", "next", "stacked"], constants)
    graph.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    return graph


def check(model: onnx.ModelProto, feeds: dict[str, Array], tolerance: Tolerance = SUMS) -> lpir.CompiledModel:
    compiled = lpir.compile_model(read_onnx(model), "CPU")
    for _ in range(2):
        found = compiled([feeds[i.name] for i in model.graph.input])
        for i, expected in enumerate(onnxruntime_outputs(model, feeds)):
            assert_close(np.asarray(found[i]), expected, tolerance, f"output {i}")
    return compiled


@pytest.mark.parametrize("way", KERNELS)
@pytest.mark.parametrize("most", [None, 1.0, 40.0])
def test_loop(most: float | None, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpir.passes.unroll.MOST_NODES", KERNELS[way])
    node = NODE("Loop", ["count", "", "x"], ["last", "all"], body=loop_body(most))
    outer = NODE("Neg", ["x"], ["outer"])
    model = build([outer, node], {"x": (ROWS, WIDTH)}, ["last", "all"], {"count": np.int64(5)})
    x = RNG.standard_normal((ROWS, WIDTH), np.float32)
    rows = check(model, {"x": x}).explain().rows
    (row,) = (r for r in rows if r.type == "Loop")
    unrolled = most is None and way == "unrolled"
    assert ("fgemm_matmul" in row.kernel) == unrolled
    assert ("its body is compiled" in row.kernel or row.kernel == "eval") == (not unrolled)


def test_loop_without_an_iteration_keeps_its_states() -> None:
    nodes = [NODE("Neg", ["x"], ["outer"]), NODE("Loop", ["count", "go", "x"], ["last", "all"], body=loop_body(None))]
    types = {"count": TensorProto.INT64, "go": TensorProto.BOOL}
    model = build(nodes, {"x": (ROWS, WIDTH), "count": (), "go": ()}, ["last"], types=types)
    x = RNG.standard_normal((ROWS, WIDTH), np.float32)
    for count, go in ((0, True), (3, False), (2, True)):
        check(model, {"x": x, "count": np.array(count), "go": np.array(go)})


def test_a_state_may_grow() -> None:
    inputs = [info("i", TensorProto.INT64, []), info("going", TensorProto.BOOL, []), info("s", TensorProto.FLOAT, None)]
    nodes = [NODE("Concat", ["s", "one"], ["next"], axis=0), NODE("Identity", ["going"], ["goes_on"])]
    graph = body(nodes, inputs, ["goes_on", "next"], {"one": np.ones((1, 2), np.float32)})
    graph.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    node = NODE("Loop", ["count", "", "x"], ["y"], body=graph)
    for types, constants in (({}, {"count": np.int64(3)}), ({"count": TensorProto.INT64}, {})):
        inputs_of: dict[str, Any] = {"x": (2, 2)} | ({} if constants else {"count": ()})
        model = build([node], inputs_of, ["y"], constants, types=types)
        feeds: dict[str, Array] = {"x": RNG.standard_normal((2, 2), np.float32), "count": np.array(3)}
        check(model, {k: v for k, v in feeds.items() if k in inputs_of})


@pytest.mark.parametrize("way", KERNELS)
@pytest.mark.parametrize("directions", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_scan(directions: tuple[int, int], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpir.passes.unroll.MOST_NODES", KERNELS[way])
    nodes = [
        NODE("Mul", ["s", "w"], ["scaled"]),
        NODE("Add", ["scaled", "part"], ["next"]),
        NODE("Tanh", ["next"], ["y"]),
    ]
    inputs = [info("s", TensorProto.FLOAT, None), info("part", TensorProto.FLOAT, None)]
    graph = body(nodes, inputs, ["next", "y"], {"w": RNG.standard_normal(WIDTH).astype(np.float32)})
    into, out = directions
    more = {"scan_input_axes": [1], "scan_input_directions": [into]}
    more |= {"scan_output_axes": [-1], "scan_output_directions": [out]}
    node = NODE("Scan", ["start", "x"], ["last", "all"], body=graph, num_scan_inputs=1, **more)
    model = build([node], {"start": (ROWS, WIDTH), "x": (ROWS, 7, WIDTH)}, ["last", "all"])
    feeds = {
        n: RNG.standard_normal(s).astype(np.float32) for n, s in (("start", (ROWS, WIDTH)), ("x", (ROWS, 7, WIDTH)))
    }
    check(model, feeds, F32_CHAIN)


def test_what_a_body_lacks_is_said() -> None:
    graph = loop_body(None)
    node = NODE("Loop", ["count", "", "x", "x"], ["last", "other", "all"], name="rounds", body=graph)
    outer = NODE("Neg", ["x"], ["outer"])
    with pytest.raises(ModelError, match=r"'rounds'.*3 inputs, not 4"):
        read_onnx(build([outer, node], {"x": (ROWS, WIDTH)}, ["last"], {"count": np.int64(5)}))
    graph.node[0].op_type = "Foo"
    node = NODE("Loop", ["count", "", "x"], ["last", "all"], body=graph)
    with pytest.raises(UnsupportedError, match="Foo"):
        read_onnx(build([outer, node], {"x": (ROWS, WIDTH)}, ["last"], {"count": np.int64(5)}))


HIDDEN, SIZE, STEPS = 5, 6, 7


@pytest.mark.parametrize("way", KERNELS)
@pytest.mark.parametrize("lengths", [None, [7, 4]])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm_with_peepholes(
    direction: str, lengths: list[int] | None, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpir.passes.unroll.MOST_NODES", KERNELS[way])
    check_lstm(direction, lengths, True)


@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm_whose_gates_hang_together(peepholes: bool) -> None:
    check_lstm("forward", None, peepholes, input_forget=1, clip=0.7)


def check_lstm(direction: str, lengths: list[int] | None, peepholes: bool, **more: Any) -> None:
    both = 2 if direction == "bidirectional" else 1
    shapes = {"W": (both, 4 * HIDDEN, SIZE), "R": (both, 4 * HIDDEN, HIDDEN), "B": (both, 8 * HIDDEN)}
    shapes |= {"h0": (both, 2, HIDDEN), "c0": (both, 2, HIDDEN), "P": (both, 3 * HIDDEN)}
    constants: dict[str, Any] = {n: (RNG.standard_normal(s) * 0.5).astype(np.float32) for n, s in shapes.items()}
    names = ["x", "W", "R", "B", "lengths" if lengths else "", "h0", "c0", "P" if peepholes else ""]
    if lengths:
        constants["lengths"] = np.array(lengths, np.int32)
    node = NODE("LSTM", names, ["y", "h", "c"], hidden_size=HIDDEN, direction=direction, **more)
    used = {n: v for n, v in constants.items() if n in names}
    model = build([node], {"x": (STEPS, 2, SIZE)}, ["y", "h", "c"], used)
    check(model, {"x": RNG.standard_normal((STEPS, 2, SIZE), np.float32)}, F32_SUM.per(20 * HIDDEN))
