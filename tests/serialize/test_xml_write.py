"""Writing: the text of the file, replacement of both files, failures that leave the old pair."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lpir.errors import FileError, UnsupportedError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ir.op import LOWERED, Op, lowered_op
from lpir.ir.types import f32
from lpir.ops.boundary import Constant, Result, constant, parameter
from lpir.ops.reshaping import Reshape
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import to_bytes, write_model
from tests.serialize.oracle import evaluate, in_openvino


def small(value: float = 1.0) -> Model:
    x = parameter("1..2,?", f32, "in")
    x.output.names = {"x,1", "b"}
    x.output.rt_info = {"layout": {"version": "0", "layout": "[N,C]"}}
    shape = constant(np.array([-1, 1], np.int64), name="shape")
    y = Node(Reshape(special_zero=True), [x.output, shape], "y")
    y.rt_info = {"fused_names": {"version": "0", "value": "a,b"}, "affinity": "CPU"}
    data = constant(np.array([value], np.float32), name="w & <b>")
    results = [Node(Result(), [v], name) for name, v in (("r0", y.output), ("r1", data))]
    results[0].outputs[0].names = {"out"}
    model = Model(results, [x], "net")
    model.rt_info = {"nncf": {"version": "3", "list": [1, 2], "flag": True}, "a key": "v", "info": {"x y": "1"}}
    return model


EXPECTED = """\
<?xml version="1.0"?>
<net name="net" version="11">
	<layers>
		<layer id="0" name="in" type="Parameter" version="opset1">
			<data shape="1..2,?" element_type="f32" />
			<output>
				<port id="0" precision="FP32" names="b,x\\,1">
					<dim>-1</dim>
					<dim>-1</dim>
					<rt_info>
						<attribute name="layout" version="0" layout="[N,C]" />
					</rt_info>
				</port>
			</output>
		</layer>
		<layer id="1" name="shape" type="Const" version="opset1">
			<data element_type="i64" shape="2" offset="0" size="16" />
			<output>
				<port id="0" precision="I64">
					<dim>2</dim>
				</port>
			</output>
		</layer>
		<layer id="2" name="y" type="Reshape" version="opset1">
			<data special_zero="true" />
			<rt_info>
				<attribute name="fused_names" version="0" value="a,b" />
			</rt_info>
			<input>
				<port id="0" precision="FP32">
					<dim>-1</dim>
					<dim>-1</dim>
				</port>
				<port id="1" precision="I64">
					<dim>2</dim>
				</port>
			</input>
			<output>
				<port id="2" precision="FP32" names="out">
					<dim>-1</dim>
					<dim>1</dim>
				</port>
			</output>
		</layer>
		<layer id="3" name="w &amp; &lt;b&gt;" type="Const" version="opset1">
			<data element_type="f32" shape="1" offset="16" size="4" />
			<output>
				<port id="0" precision="FP32">
					<dim>1</dim>
				</port>
			</output>
		</layer>
		<layer id="4" name="r0" type="Result" version="opset1" output_names="out">
			<input>
				<port id="0" precision="FP32">
					<dim>-1</dim>
					<dim>1</dim>
				</port>
			</input>
		</layer>
		<layer id="5" name="r1" type="Result" version="opset1">
			<input>
				<port id="0" precision="FP32">
					<dim>1</dim>
				</port>
			</input>
		</layer>
	</layers>
	<edges>
		<edge from-layer="0" from-port="0" to-layer="2" to-port="0" />
		<edge from-layer="1" from-port="0" to-layer="2" to-port="1" />
		<edge from-layer="2" from-port="2" to-layer="4" to-port="0" />
		<edge from-layer="3" from-port="0" to-layer="5" to-port="0" />
	</edges>
	<rt_info>
		<nncf>
			<version value="3" />
			<list value="1 2" />
			<flag value="YES" />
		</nncf>
		<info name="a key" value="v" />
		<info name="info">
			<info name="x y" value="1" />
		</info>
	</rt_info>
</net>
"""


def test_text() -> None:
    text, weights = to_bytes(small())
    assert text.decode() == EXPECTED
    assert weights == np.array([-1, 1], np.int64).tobytes() + np.float32(1).tobytes()
    assert to_bytes(read_model(text, weights)) == (text, weights)
    assert in_openvino(small()).get_rt_info("nncf")["version"] == "3"


def test_rewriting_the_file_that_is_mapped(tmp_path: Path) -> None:
    write_model(small(3.0), tmp_path / "m.xml")
    model = read_model(tmp_path / "m.xml")
    write_model(small(4.0), tmp_path / "m.xml")
    x = np.zeros((1, 2), np.float32)
    assert evaluate(model, x)[1].tolist() == [3.0]
    write_model(model, tmp_path / "m.xml")
    assert evaluate(model, x)[1].tolist() == [3.0]
    assert evaluate(read_model(tmp_path / "m.xml"), x)[1].tolist() == [3.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.xml"]


def test_another_place_for_the_weights(tmp_path: Path) -> None:
    write_model(small(), tmp_path / "m.xml", tmp_path / "other.weights")
    model = read_model(tmp_path / "m.xml", tmp_path / "other.weights")
    assert to_bytes(model) == to_bytes(small())


@lowered_op
class Inner(Op):
    """An operation without a file form."""


LOWERED.pop("Inner")


def test_a_failure_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(small(), tmp_path / "m.xml")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    broken = small(5.0)
    broken.results[1].inputs[0].node.op = Constant(np.zeros(1), f32)
    with pytest.raises(Exception, match=r"'w & <b>'.*cannot be written as f32"):
        write_model(broken, tmp_path / "m.xml")
    lowered = small()
    lowered.results[0].inputs[0].node.op = Inner()
    with pytest.raises(UnsupportedError, match=r"Inner \(first 'y'\)"):
        write_model(lowered, tmp_path / "m.xml")
    real = os.replace

    def fail_on_xml(source: str, target: str) -> None:
        if str(target).endswith("m.xml"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_on_xml)
    with pytest.raises(FileError, match="No space left"):
        write_model(small(5.0), tmp_path / "m.xml")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write"):
        write_model(small(), tmp_path / "none" / "m.xml")
    with pytest.raises(FileError, match="two files"):
        write_model(small(), tmp_path / "m.bin")
    (tmp_path / "d.xml").mkdir()
    with pytest.raises(FileError, match="folder"):
        write_model(small(), tmp_path / "d.xml")
    with pytest.raises(FileError, match="cannot write"):
        write_model(small(), "/proc/m.xml")
    assert [p.name for p in tmp_path.iterdir()] == ["d.xml"]


@pytest.mark.parametrize("name", ["a\x01b", "\ud800", "\x00"])
def test_names_that_xml_cannot_hold(name: str) -> None:
    model = small()
    model.parameters[0].name = name
    with pytest.raises(FileError, match="XML cannot store"):
        to_bytes(model)


@pytest.mark.parametrize("name", ["tab\tline\nreturn\r", "quote\"'", "<&>", "日本", "🙂", " blank "])
def test_names_that_need_escapes(name: str) -> None:
    model = small()
    model.parameters[0].name = name
    model.inputs[0].names = {name}
    assert read_model(*to_bytes(model)).parameters[0].name == name
    theirs = in_openvino(model)
    assert theirs.inputs[0].get_node().get_friendly_name() == name
    assert theirs.inputs[0].get_names() == {name}
