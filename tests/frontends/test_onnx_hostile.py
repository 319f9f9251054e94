"""Damaged and hostile ONNX files end in a FileError or ModelError that says what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lpir.errors import FileError, LpirError, ModelError
from lpir.frontends.onnx import read_onnx
from lpir.ops.boundary import Constant
from lpir.passes.manager import transform
from tests.frontends.networks import build, residual_network

NODE = helper.make_node
Change = Callable[[onnx.ModelProto], None]


def small() -> onnx.ModelProto:
    nodes = [NODE("Relu", ["x"], ["a"], name="one"), NODE("Add", ["a", "w"], ["y"], name="two")]
    return build(nodes, {"x": [2, 3]}, ["y"], {"w": np.ones(3, np.float32)})


def missing_tensor(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[0] = "nowhere"


def cycle(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[0] = "y"


def produced_twice(m: onnx.ModelProto) -> None:
    m.graph.node[0].output[0] = "y"


def same_input_twice(m: onnx.ModelProto) -> None:
    m.graph.input.append(m.graph.input[0])


def same_initializer_twice(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


def output_of_nothing(m: onnx.ModelProto) -> None:
    m.graph.output[0].name = "ghost"


def no_outputs(m: onnx.ModelProto) -> None:
    del m.graph.output[:]


def negative_dimension(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -7


def negative_weights(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = -3


def huge_weights(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = 2**62


def short_data(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].raw_data = m.graph.initializer[0].raw_data[:5]


def shapes_that_do_not_fit(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def too_few_inputs(m: onnx.ModelProto) -> None:
    del m.graph.node[1].input[1]


def unknown_type(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_type = 99


def input_without_type(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = 0


def wrong_attribute(m: onnx.ModelProto) -> None:
    m.graph.node[0].CopyFrom(NODE("Concat", ["x", "x"], ["a"], axis="left"))


def axis_far_out(m: onnx.ModelProto) -> None:
    m.graph.node[0].CopyFrom(NODE("Softmax", ["x"], ["a"], axis=2**40))


def zero_strides(m: onnx.ModelProto) -> None:
    m.graph.node[0].CopyFrom(NODE("Conv", ["x", "w"], ["a"], strides=[0]))


def huge_broadcast(m: onnx.ModelProto) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**40, 2**40])
    m.graph.initializer.append(shape)
    m.graph.node[0].CopyFrom(NODE("Expand", ["x", "shape"], ["a"]))


def external_elsewhere(location: str) -> Change:
    def change(m: onnx.ModelProto) -> None:
        tensor = m.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    change.__name__ = f"external_{location}"
    return change


CHANGES: list[tuple[Change, type[LpirError], str]] = [
    (missing_tensor, ModelError, "reads tensor 'nowhere', which nothing produces"),
    (cycle, ModelError, "cycle through Relu 'one'"),
    (produced_twice, ModelError, "'y' is produced twice"),
    (same_input_twice, ModelError, "two inputs are called 'x'"),
    (same_initializer_twice, ModelError, "two initializers are called 'w'"),
    (output_of_nothing, ModelError, "nothing produces the outputs ghost"),
    (no_outputs, ModelError, "no outputs"),
    (negative_dimension, ModelError, "dimension -7 is negative"),
    (negative_weights, ModelError, "negative dimension"),
    (huge_weights, FileError, "initializer 'w': 12 bytes of data"),
    (short_data, FileError, "initializer 'w': 5 bytes of data"),
    (shapes_that_do_not_fit, ModelError, "do not broadcast"),
    (too_few_inputs, ModelError, "Add 'two': input 1 is missing"),
    (unknown_type, ModelError, "99 is not an ONNX element type"),
    (input_without_type, ModelError, "0 is not an ONNX element type"),
    (wrong_attribute, ModelError, "attribute 'axis' is of the wrong kind"),
    (axis_far_out, ModelError, "outside a tensor of rank 2"),
    (zero_strides, ModelError, ""),
    (external_elsewhere("../w.bin"), FileError, "outside the folder of the model"),
    (external_elsewhere("/etc/passwd"), FileError, "outside the folder of the model"),
    (external_elsewhere("gone.bin"), FileError, "'gone.bin' is missing"),
    (external_elsewhere("short.bin"), FileError, "12 bytes needed"),
    (external_elsewhere("link.bin"), FileError, "outside the folder of the model"),
]


@pytest.mark.parametrize(("change", "kind", "message"), CHANGES, ids=lambda v: getattr(v, "__name__", ""))
def test_damage_is_reported(change: Change, kind: type[LpirError], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    (folder / "short.bin").write_bytes(bytes(3))
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    proto = small()
    change(proto)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(kind, match=None) as caught:
        read_onnx(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("kind", "second"), [("Mul", "w"), ("Add", "w"), ("Relu", ""), ("Unsqueeze", "axis")])
def test_a_very_long_chain_is_read(kind: str, second: str) -> None:
    """Nothing recurses over the length of a graph."""
    length = 3000 if kind != "Unsqueeze" else 40
    nodes = [NODE(kind, [f"t{i}", second] if second else [f"t{i}"], [f"t{i + 1}"]) for i in range(length)]
    constants = {"w": np.float32(1.5), "axis": np.array([0], np.int64)}
    model = transform(read_onnx(build(nodes, {"t0": [2, 3]}, [f"t{length}"], constants)))
    assert model.outputs[0].shape.is_static


def test_a_huge_shape_is_never_allocated() -> None:
    proto = small()
    huge_broadcast(proto)
    try:
        model = transform(read_onnx(proto))
    except LpirError:
        return
    sizes = [n.op.data.size for n in model.nodes() if isinstance(n.op, Constant)]
    assert max(sizes) < 100


@pytest.mark.parametrize(
    "data", [b"", b"not a model", bytes(100), b"\x08\x07"], ids=["empty", "text", "zeros", "header"]
)
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(FileError):
        read_onnx(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        read_onnx(tmp_path / "gone.onnx")


WHOLE = residual_network().SerializeToString()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_truncated_and_flipped_bytes_never_crash(data: st.DataObject) -> None:
    """Any prefix and any changed byte gives a model or an error of lpir."""
    raw = bytearray(WHOLE)
    if data.draw(st.booleans(), "truncate"):
        del raw[data.draw(st.integers(0, len(raw) - 1), "length") :]
    else:
        # the structure is at the end: the weights before it are just numbers
        for _ in range(data.draw(st.integers(1, 4), "changes")):
            raw[data.draw(st.integers(0, len(raw) - 1), "where")] = data.draw(st.integers(0, 255), "byte")
    try:
        read_onnx(bytes(raw))
    except LpirError:
        return
