"""Files that are unusual but right are read; wrong ones are refused with the place and the cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lpir.errors import FileError, UnsupportedError
from lpir.ir.types import f16, f32, i32
from lpir.serialize.names import join_names, split_names
from lpir.serialize.xml_parse import MAX_DEPTH
from lpir.serialize.xml_read import read_model
from tests.serialize.oracle import CORE, evaluate, tensor

AXIS = np.array([1], np.int64).tobytes()


def net(layers: str, edges: str = "", version: int = 11, rest: str = "") -> bytes:
    return (
        f'<?xml version="1.0"?><net name="m" version="{version}"><layers>{layers}</layers>'
        f"<edges>{edges}</edges>{rest}</net>"
    ).encode()


def edge(*ends: int) -> str:
    return '<edge from-layer="{}" from-port="{}" to-layer="{}" to-port="{}"/>'.format(*ends)


PORT = '<port id="{}" precision="FP32"/>'
PARAMETER = (
    '<layer id="0" name="x" type="Parameter" version="opset1"><data shape="2,3" element_type="f32"/>'
    f"<output>{PORT.format(0)}</output></layer>"
)
CONST = (
    '<layer id="7" name="c" type="Const" version="opset1">'
    '<data element_type="i64" shape="1" offset="0" size="8"/><output><port id="0" precision="I64"/></output></layer>'
)


def result(number: int, name: str = "r", port: int = 0) -> str:
    ports = PORT.format(port)
    return f'<layer id="{number}" name="{name}" type="Result" version="opset1"><input>{ports}</input></layer>'


SQUEEZE = (
    '<layer id="{id}" name="s" type="{type}" version="{version}"><input>'
    '<port id="30" precision="FP32"/><port id="10" precision="I64"/></input>'
    '<output><port id="44" precision="FP32" names="n"/></output></layer>'
)


def unsqueeze(type_name: str = "Unsqueeze", version: str = "opset1") -> bytes:
    big = 4_000_000_000
    layer = SQUEEZE.format(id=big, type=type_name, version=version)
    return net(
        result(90, port=5) + layer + CONST + PARAMETER, edge(big, 44, 90, 5) + edge(7, 0, big, 10) + edge(0, 0, big, 30)
    )


@pytest.mark.parametrize("type_name", ["Unsqueeze", "unsqueeze", "UNSQUEEZE"])
@pytest.mark.parametrize("version", ["opset1", "opset5", "opset16"])
def test_any_order_ids_case_and_opset(type_name: str, version: str) -> None:
    text = unsqueeze(type_name, version)
    model = read_model(text, AXIS)
    assert [n.name for n in model.nodes()] == ["x", "c", "s", "r"]
    assert str(model.outputs[0].shape) == "[2,1,3]"
    assert model.results[0].inputs[0].names == {"n"}
    assert str(CORE.read_model(text, tensor(AXIS)).outputs[0].get_partial_shape()) == "[2,1,3]"


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("opset17", "opset17 has no Unsqueeze"),
        ("opset99", "opset99 has no Unsqueeze"),
        ("experimental", "not an operation set"),
        ("", "not an operation set"),
        ("opset0", "not an operation set"),
    ],
)
def test_a_wrong_opset_is_refused(version: str, message: str) -> None:
    with pytest.raises(FileError, match=f"layer 4000000000 's'.*{message}"):
        read_model(unsqueeze(version=version), AXIS)
    with pytest.raises(RuntimeError):
        CORE.read_model(unsqueeze(version=version), tensor(AXIS))


def test_an_operation_is_unknown_before_its_first_opset() -> None:
    layer = '<layer id="1" name="t" type="Slice" version="opset7"><input>'
    layer += PORT.format(0) + "</input><output>" + PORT.format(1) + "</output></layer>"
    with pytest.raises(FileError, match="opset7 has no Slice; it came with opset8"):
        read_model(net(PARAMETER + layer + result(2), edge(0, 0, 1, 0) + edge(1, 1, 2, 0)))


def test_what_is_missing_is_listed_at_once() -> None:
    unknown = "".join(
        f'<layer id="{i}" name="{name}" type="{kind}" version="{version}"><input>{PORT.format(0)}</input>'
        f"<output>{PORT.format(1)}</output></layer>"
        for i, name, kind, version in [
            (1, "a/if", "If", "opset8"),
            (2, "b/foo", "Foo", "extension"),
            (3, "c/foo", "Foo", "extension"),
        ]
    )
    f8 = '<layer id="4" name="w" type="Const" version="opset1">'
    f8 += '<data element_type="f8e4m3" shape="1" offset="0" size="1"/>'
    f8 += f"<output>{PORT.format(0)}</output></layer>"
    edges = edge(0, 0, 1, 0) + edge(1, 1, 2, 0) + edge(2, 1, 3, 0) + edge(3, 1, 9, 0) + edge(4, 0, 10, 0)
    text = net(PARAMETER + unknown + f8 + result(9) + result(10, "q"), edges)
    with pytest.raises(UnsupportedError) as caught:
        read_model(text)
    assert "Const of element type f8e4m3 (1, first 'w')" in str(caught.value)
    assert "Foo extension (2, first 'b/foo'), If opset8 (1, first 'a/if')" in str(caught.value)


def test_layers_that_nothing_needs_are_left_out() -> None:
    dead = f'<layer id="5" name="d" type="Foo" version="opset1"><output>{PORT.format(0)}</output></layer>'
    assert len(read_model(net(PARAMETER + dead + result(1), edge(0, 0, 1, 0))).nodes()) == 2


GOOD = net(PARAMETER + result(1), edge(0, 0, 1, 0)).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not well-formed"),
        (GOOD[:-20], "not well-formed"),
        (GOOD.replace("<net", "<bet").replace("</net", "</bet"), "root element is <bet>"),
        (GOOD.replace('version="11"', 'version="9"'), "version 9"),
        (GOOD.replace('version="11"', 'version="12"'), "version 12"),
        (GOOD.replace('version="11"', ""), "'version' is missing"),
        ('<net version="11"/>', "no layers"),
        (GOOD.replace('<layer id="1"', '<layer id="0"'), "both have id 0"),
        (GOOD.replace('<layer id="1"', '<layer id="one"'), "must be an integer"),
        (GOOD.replace('<layer id="1"', "<layer"), "'id' is missing"),
        (GOOD.replace('type="Result"', ""), "layer 1: attribute 'type' is missing"),
        (GOOD.replace('from-layer="0"', 'from-layer="3"'), "there is no layer 3"),
        (GOOD.replace('from-port="0"', 'from-port="3"'), "layer 0 'x' .Parameter. has no output port 3"),
        (GOOD.replace('to-port="0"', 'to-port="3"'), "layer 1 'r' .Result. has no input port 3"),
        (GOOD.replace("</edges>", edge(0, 0, 1, 0) + "</edges>"), "input port 0 of layer 1 'r' .Result. is fed twice"),
        (GOOD.replace(edge(0, 0, 1, 0), ""), "nothing feeds input port 0 of layer 1 'r'"),
        (GOOD.replace("2,3", "2,x"), "layer 0 'x' .Parameter.: attribute shape='2,x'"),
        (GOOD.replace('element_type="f32"', ""), "layer 0 'x' .Parameter.: attribute 'element_type' is missing"),
        (GOOD.replace("<output>", "<output>" + PORT.format(4)), "2 output ports, but the operation 1"),
        (GOOD.replace("<output>", "<output>" + PORT.format(0)), "port id 0 occurs twice"),
    ],
)
def test_damaged_files_name_the_place(text: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_model(text.encode())


def test_a_cycle_is_found() -> None:
    layers = "".join(
        f'<layer id="{i}" name="s{i}" type="Squeeze" version="opset1"><input>{PORT.format(0)}</input>'
        f"<output>{PORT.format(1)}</output></layer>"
        for i in (1, 2)
    )
    with pytest.raises(FileError, match="a cycle through layer"):
        read_model(net(layers + result(3), edge(1, 1, 2, 0) + edge(2, 1, 1, 0) + edge(2, 1, 3, 0)))


def test_a_long_chain_is_no_problem() -> None:
    count = 5000
    layers = "".join(
        f'<layer id="{i}" name="s{i}" type="Squeeze" version="opset1"><input>{PORT.format(0)}</input>'
        f"<output>{PORT.format(1)}</output></layer>"
        for i in range(1, count)
    )
    edges = "".join(edge(i, int(i > 0), i + 1, 0) for i in range(count))
    assert len(read_model(net(PARAMETER + layers + result(count), edges)).nodes()) == count + 1


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
        '<!DOCTYPE net SYSTEM "file:///etc/passwd">',
        "<!DOCTYPE net>",
    ],
)
def test_no_document_types(head: str) -> None:
    text = GOOD.replace('<?xml version="1.0"?>', head).replace('name="m"', 'name="&b;"' if "ENTITY" in head else "")
    with pytest.raises(FileError, match="document type or entities"):
        read_model(text.encode())


def test_deep_nesting_and_odd_encodings_are_refused() -> None:
    with pytest.raises(FileError, match="nested deeper"):
        read_model(("<a>" * (MAX_DEPTH + 1)).encode())
    with pytest.raises(FileError):
        read_model(b'<?xml version="1.0" encoding="rot13"?><net/>')


def test_a_constant_names_layer_offset_size_and_file(tmp_path: Path) -> None:
    text = net(CONST + result(1), edge(7, 0, 1, 0))
    (tmp_path / "m.xml").write_bytes(text)
    with pytest.raises(FileError, match=r"m\.xml: layer 7 'c' .*offset 0, size 8, file of 0 bytes.*m\.bin"):
        read_model(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"1234")
    with pytest.raises(FileError, match=r"file of 4 bytes.*m\.bin"):
        read_model(str(tmp_path / "m.xml"))
    (tmp_path / "m.bin").write_bytes(AXIS + b"more")
    assert evaluate(read_model(tmp_path / "m.xml"))[0].tolist() == [1]
    assert evaluate(read_model(text, tmp_path / "m.bin"))[0].tolist() == [1]
    with pytest.raises(FileError, match=r"cannot read .*none\.xml"):
        read_model(tmp_path / "none.xml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('shape="1"', 'shape="-1"', "negative"),
        ('shape="1"', f'shape="{2**62},{2**62}"', "needs"),
        ('offset="0"', 'offset="-8"', "negative"),
        ('offset="0"', f'offset="{2**63}"', "64 bits"),
        ('size="8"', "", "'size' is missing"),
        ('size="8"', 'size="7"', "needs 8 bytes"),
        ('element_type="i64"', 'element_type="I64"', "no such element type"),
        ('element_type="i64"', 'element_type="dynamic"', "dynamic"),
    ],
)
def test_damaged_constants(old: str, new: str, message: str) -> None:
    text = net(CONST + result(1), edge(7, 0, 1, 0)).decode().replace(old, new)
    with pytest.raises(FileError, match=f"layer 7 'c'.*{message}"):
        read_model(text.encode(), AXIS)


def test_version_10() -> None:
    """Names come from layers, f16 inputs and outputs become f32, i64 outputs i32, layer rt_info is ignored."""
    half = PARAMETER.replace("f32", "f16").replace("FP32", "FP16").replace("<data", "<rt_info/><data")
    shape = '<layer id="2" name="sh" type="ShapeOf" version="opset3"><data output_type="i64"/><input>'
    shape += '<port id="0" precision="FP16"/></input><output><port id="1" precision="I64"/></output></layer>'
    split = '<layer id="3" name="sp" type="Split" version="opset1"><data num_splits="2"/><input>'
    split += '<port id="0" precision="FP16"/><port id="1" precision="I64"/></input><output>'
    split += '<port id="2" precision="FP16" names="own"/><port id="3" precision="FP16"/></output></layer>'
    const = CONST.replace('shape="1"', 'shape=""')
    rest = '<meta_data><MO value="x"/><cli_parameters><type value="FP16"/></cli_parameters></meta_data>'
    rest += '<quantization_parameters><config value="{}"/></quantization_parameters>'
    edges = edge(0, 0, 2, 0) + edge(0, 0, 3, 0) + edge(7, 0, 3, 1) + edge(2, 1, 8, 0) + edge(3, 2, 9, 0)
    results = result(8, "r8") + result(9, "r9")
    text = net((half + shape + split + const + results).replace("2,3", "2,4"), edges, 10, rest)
    model = read_model(text, AXIS)
    assert [v.element_type for v in (*model.inputs, *model.outputs)] == [f32, i32, f32]
    assert model.input("x").names == {"x"}
    assert model.results[1].inputs[0].names == {"own", "sp.0"}
    assert model.output("sh") is model.outputs[0]
    assert model.results[1].inputs[0].node.inputs[0].element_type == f16
    assert model.rt_info == {"MO": "x", "conversion_parameters": {"type": "FP16"}, "optimization": {"config": "{}"}}
    theirs = CORE.read_model(text, tensor(AXIS))
    found = [v.get_element_type().get_type_name() for v in (*theirs.inputs, *theirs.outputs)]
    assert found == ["f32", "i32", "f32"]
    assert [v.get_names() for v in theirs.outputs] == [r.inputs[0].names for r in model.results]
    assert [a.tolist() for a in evaluate(model, np.ones((2, 4), np.float32))] == [[2, 4], [[1, 1], [1, 1]]]


@pytest.mark.parametrize(
    ("names", "text"), [({"b", "a,x"}, "a\\,x,b"), (set(), ""), ({"a\\b"}, "a\\b"), ({"x"}, "x"), ({","}, "\\,")]
)
def test_lists_of_names(names: set[str], text: str) -> None:
    assert join_names(names) == text
    assert split_names(text) == names
