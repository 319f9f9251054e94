"""Bad input, end to end through the public API: an lpir error that names the cause, and no file harmed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lpir
from lpir.errors import FileError, InputError, LpirError, ModelError, UnsupportedError
from tests.cli.conftest import float_network

X = np.zeros((1, 3, 8, 8), np.float32)
Folder = Path


@pytest.fixture(scope="module")
def model() -> lpir.Model:
    return lpir.convert_model(onnx_file(float_network()))


def onnx_file(proto: onnx.ModelProto) -> Any:
    from lpir.frontends.onnx import read_onnx

    return read_onnx(proto.SerializeToString())


@pytest.fixture
def folder(model: lpir.Model, tmp_path: Path) -> Folder:
    """m.xml, m.bin and m.onnx, all good."""
    lpir.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    onnx.save(float_network(), tmp_path / "m.onnx")
    return tmp_path


def contents(folder: Folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(action: Callable[[], object], kind: type[LpirError], *words: object) -> str:
    """The message of the error that `action` ends in."""
    with pytest.raises(LpirError) as found:
        action()
    message = str(found.value)
    assert isinstance(found.value, kind), f"{type(found.value).__name__}: {message}"
    for word in words:
        assert str(word).lower() in message.lower(), message
    return message


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.tflite", "m.pdf", "m", "m.xml.gz"])
def test_unknown_type_of_file(name: str, folder: Folder) -> None:
    (folder / name).write_bytes(b"?")
    for read in (lpir.read_model, lpir.convert_model, lpir.compile_model):
        refused(lambda read=read: read(folder / name), FileError, name, "unknown type", ".xml", ".onnx")


@pytest.mark.parametrize("name", ["gone.xml", "gone.onnx", "nowhere/m.xml"])
def test_missing_file(name: str, folder: Folder) -> None:
    for read in (lpir.read_model, lpir.convert_model, lpir.compile_model):
        refused(lambda read=read: read(folder / name), FileError, name, "no such file")


@pytest.mark.parametrize("name", ["d.xml", "d.onnx", "d"])
def test_folder_in_place_of_a_file(name: str, folder: Folder) -> None:
    (folder / name).mkdir()
    refused(lambda: lpir.convert_model(folder / name), FileError, name, "folder")
    refused(lambda: lpir.read_model(folder / name), FileError, name)


@pytest.mark.parametrize("name", ["m.xml", "m.onnx", "m.bin"])
@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, -9])
def test_truncated_file(name: str, keep: float, folder: Folder) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * keep) if keep == 0.5 else int(keep)])
    path = folder / ("m.xml" if name == "m.bin" else name)
    before = contents(folder)
    refused(lambda: lpir.compile_model(path, "CPU"), FileError, name)
    assert contents(folder) == before


def test_missing_weights(folder: Folder) -> None:
    (folder / "m.bin").unlink()
    refused(lambda: lpir.read_model(folder / "m.xml"), FileError, "m.bin")


def edit(text: str, pattern: str, by: str) -> str:
    changed, count = re.subn(pattern, by, text, count=1, flags=re.DOTALL)
    assert count == 1, pattern
    return changed


BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><net name="&c;" version="11">'
)
# what to replace in the good file, by what, and what the error must say
XML: dict[str, tuple[str, str, type[LpirError], list[str]]] = {
    "entities": (r"<net [^>]*>", BOMB, FileError, ["entit"]),
    "file entity": (
        r"<net ",
        '<!DOCTYPE n [<!ENTITY e SYSTEM "file:///etc/hostname">]><net x="1" ',
        FileError,
        ["entit"],
    ),
    "another root": (r"<net .*</net>", "<html></html>", FileError, ["html"]),
    "version 3": (r'version="11"', 'version="3"', LpirError, ["version", "3"]),
    "version in words": (r'version="11"', 'version="new"', LpirError, ["version", "new"]),
    "offset outside": (r'offset="0"', 'offset="999999999"', FileError, ["offset", "999999999"]),
    "offset below 0": (r'offset="0"', 'offset="-4"', FileError, ["-4"]),
    "offset beyond 64 bits": (r'offset="0"', 'offset="99999999999999999999"', FileError, ["99999999999999999999"]),
    "size too large": (r'( offset="0" size=")\d+', r"\g<1>999999999", FileError, ["999999999"]),
    "size too small": (r'( offset="0" size=")\d+', r"\g<1>8", FileError, ["864 bytes", "there are 8"]),
    "shape below 0": (r'(<data element_type="f32" shape=")[^"]*', r"\g<1>-8, 3, 3, 3", LpirError, ["-8"]),
    "huge shape": (
        r'(<data element_type="f32" shape=")[^"]*',
        r"\g<1>4294967296, 4294967296",
        LpirError,
        ["4294967296"],
    ),
    "input below 0": (r'(<data shape=")1,3', r"\g<1>-5,3", LpirError, ["-5"]),
    "huge input": (r'(<data shape=")1,3,8,8', r"\g<1>1,3,99999999999,99999999999", LpirError, ["99999999999"]),
    "unknown element type": (r'element_type="f32"', 'element_type="f33"', LpirError, ["f33"]),
    "unknown operation": (r'type="ReLU"', 'type="Frobnicate"', UnsupportedError, ["Frobnicate", "relu"]),
    "unknown opset": (r'type="ReLU" version="opset1"', 'type="ReLU" version="opset99"', LpirError, ["opset99"]),
    "unknown attribute value": (r'auto_pad="\w+"', 'auto_pad="sideways"', LpirError, ["auto_pad", "sideways"]),
    "strides of 0": (r'strides="1, 1"', 'strides="0,1"', LpirError, ["strides", "conv1"]),
    "negative strides": (r'strides="1, 1"', 'strides="-1,1"', LpirError, ["strides", "conv1"]),
    "strides in words": (r'strides="1, 1"', 'strides="one"', LpirError, ["strides", "one"]),
    "missing attribute": (r'strides="1, 1"', "", LpirError, ["strides"]),
    "huge pads": (r'pads_end="1, 1"', 'pads_end="4611686018427387904,1"', LpirError, []),
    "no such port": (r'(to-layer="\d+" to-port=")1"', r'\g<1>77"', LpirError, ["77"]),
    "no such source port": (r'(from-layer="\d+" from-port=")\d+"', r'\g<1>55"', LpirError, ["55"]),
    "no such layer": (r'from-layer="\d+"', 'from-layer="4711"', LpirError, ["4711"]),
    "duplicate id": (r'<layer id="1"', '<layer id="0"', LpirError, ["both", "id 0"]),
    "id in words": (r'<layer id="1"', '<layer id="one"', LpirError, ["one"]),
    "edge twice": (r"(<edge [^>]*>)", r"\1\1", LpirError, ["twice"]),
    "edge missing": (r"<edge [^>]*>", "", LpirError, ["port"]),
    "no edges": (r"<edges>.*</edges>", "", LpirError, []),
    "no layers": (r"<layers>.*</edges>", "", LpirError, []),
    "null byte": (r'name="conv1"', 'name="co\0nv1"', FileError, ["XML"]),
}


@pytest.mark.parametrize(("pattern", "by", "kind", "words"), XML.values(), ids=XML)
def test_hostile_xml(pattern: str, by: str, kind: type[LpirError], words: list[str], folder: Folder) -> None:
    path = folder / "m.xml"
    path.write_text(edit(path.read_text(), pattern, by))
    before = contents(folder)
    refused(lambda: lpir.compile_model(path, "CPU"), kind, *words)
    assert contents(folder) == before


def test_cycle_in_xml(folder: Folder) -> None:
    """relu reads conv2, which reads relu."""
    path = folder / "m.xml"
    text = path.read_text()
    ids = {name: number for number, name in re.findall(r'<layer id="(\d+)" name="([^"]+)"', text)}
    (port,) = re.findall(rf'from-layer="{ids["conv2"]}" from-port="(\d+)"', text)
    path.write_text(
        edit(
            text,
            rf'from-layer="\d+" from-port="\d+" (to-layer="{ids["relu"]}")',
            rf'from-layer="{ids["conv2"]}" from-port="{port}" \1',
        )
    )
    refused(lambda: lpir.read_model(path), LpirError, "cycle", "conv2")


def onnx_relu(change: Callable[[onnx.NodeProto], None]) -> onnx.ModelProto:
    proto = float_network()
    change(proto.graph.node[1])
    return proto


def weights(change: Callable[[onnx.TensorProto], None]) -> onnx.ModelProto:
    proto = float_network()
    change(proto.graph.initializer[0])
    return proto


def renamed(node: onnx.NodeProto) -> None:
    node.op_type = "Frobnicate"


def looped(node: onnx.NodeProto) -> None:
    node.input[0] = "c"


def dangling(node: onnx.NodeProto) -> None:
    node.input[0] = "nowhere"


def negative(tensor: onnx.TensorProto) -> None:
    tensor.dims[0] = -8


def huge(tensor: onnx.TensorProto) -> None:
    tensor.dims[0] = 2**61


def outside(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")


def far(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="m.onnx")
    tensor.external_data.add(key="offset", value="99999999")


ONNX: dict[str, tuple[Callable[[], onnx.ModelProto], type[LpirError], list[str]]] = {
    "unknown operation": (lambda: onnx_relu(renamed), UnsupportedError, ["Frobnicate", "relu"]),
    "cycle": (lambda: onnx_relu(looped), ModelError, ["cycle"]),
    "tensor of nobody": (lambda: onnx_relu(dangling), ModelError, ["nowhere"]),
    "negative dimension": (lambda: weights(negative), LpirError, ["w1", "negative"]),
    "huge dimension": (lambda: weights(huge), LpirError, ["w1"]),
    "data outside the folder": (lambda: weights(outside), FileError, ["w1", "outside"]),
    "offset outside the file": (lambda: weights(far), FileError, ["w1", "m.onnx"]),
}


@pytest.mark.parametrize(("make", "kind", "words"), ONNX.values(), ids=ONNX)
def test_hostile_onnx(
    make: Callable[[], onnx.ModelProto], kind: type[LpirError], words: list[str], folder: Folder
) -> None:
    (folder / "m.onnx").write_bytes(make().SerializeToString())
    before = contents(folder)
    refused(lambda: lpir.compile_model(folder / "m.onnx", "CPU"), kind, *words)
    assert contents(folder) == before


# -- inference --------------------------------------------------------------------------------------------------------

INFERENCES: dict[str, tuple[Any, list[str]]] = {
    "wrong name": ({"picture": X}, ["'picture'", "'image'"]),
    "wrong position": ({3: X}, ["3", "'image'"]),
    "missing": ({}, ["'image'", "missing"]),
    "too many": ([X, X], ["2 inputs", "has 1"]),
    "wrong shape": ([X[:, :2]], ["'image'", "[1, 2, 8, 8]", "[1,3,8,8]"]),
    "no batch": ([X[0]], ["'image'", "batch dimension"]),
    "text": ([np.full(X.shape, "a")], ["'image'", "<U1", "float32"]),
    "complex": ([X.astype(np.complex64)], ["'image'", "complex64"]),
    "objects": ([np.full(X.shape, None)], ["'image'", "object"]),
    "nothing": ([None], ["'image'", "object"]),
    "ragged": ([[[1.0], [1.0, 2.0]]], ["'image'"]),
}


@pytest.mark.parametrize("device", ["CPU", "REFERENCE"])
@pytest.mark.parametrize(("given", "words"), INFERENCES.values(), ids=INFERENCES)
def test_inference(given: Any, words: list[str], device: str, model: lpir.Model) -> None:
    compiled = compiled_on(device, model)
    refused(lambda: compiled(given), InputError, *words)
    request = compiled.create_infer_request()
    refused(lambda: request.start_async(given), InputError, *words)
    assert np.isfinite(compiled(X)[0]).all(), "the model must still work afterwards"


COMPILED: dict[str, lpir.CompiledModel] = {}


def compiled_on(device: str, model: lpir.Model) -> lpir.CompiledModel:
    if device not in COMPILED:
        COMPILED[device] = lpir.compile_model(model, device)
    return COMPILED[device]


def test_outputs_by_wrong_name(model: lpir.Model) -> None:
    results = compiled_on("CPU", model)(X)
    refused(lambda: results["nothing"], InputError, "'nothing'", "'scores'")
    refused(lambda: results[7], InputError, "7", "'scores'")


def test_queue(model: lpir.Model) -> None:
    refused(lambda: lpir.AsyncInferQueue(compiled_on("CPU", model), -1), InputError, "-1")
    queue = lpir.AsyncInferQueue(compiled_on("CPU", model), 2)
    refused(lambda: queue.start_async({"picture": X}), InputError, "'picture'", "'image'")
    queue.start_async([X])
    queue.wait_all()


def test_devices_and_properties(model: lpir.Model) -> None:
    refused(lambda: lpir.compile_model(model, "TPU"), InputError, "'TPU'", "CPU", "REFERENCE")
    refused(lambda: lpir.compile_model(model, "CPU", {"SPEED": 1}), InputError, "'SPEED'", "NUM_STREAMS")
    refused(lambda: lpir.compile_model(model, "CPU", {"NUM_STREAMS": "x"}), InputError, "NUM_STREAMS", "'x'")
    refused(lambda: lpir.compile_model(model, "CPU", {"ISA": "mmx"}), InputError, "ISA", "'mmx'", "avx2")
    refused(lambda: lpir.Core().get_property("CPU", "SPEED"), InputError, "'SPEED'")


def test_reshape(model: lpir.Model) -> None:
    own = model.clone()
    refused(lambda: own.reshape({"image": [1, 4, 8, 8]}), LpirError, "conv1", "4 channels")
    refused(lambda: own.reshape({"picture": [1, 3, 8, 8]}), InputError, "'picture'", "image")
    refused(lambda: own.reshape({"image": [1, 3, -8, 8]}), InputError, "-8")
    assert str(own.inputs[0].shape) == "[1,3,8,8]", "a refused shape changes nothing"


# -- calibration ------------------------------------------------------------------------------------------------------

NAN = np.where(np.arange(X.size).reshape(X.shape) == 70, np.nan, X)
DATA: dict[str, tuple[Any, list[str]]] = {
    "no item": ([], ["empty"]),
    "an empty generator": (iter(()), ["empty"]),
    "NaN": ([X, NAN], ["item 1", "'image'", "1 values are NaN"]),
    "too large for float32": ([X.astype(np.float64) + 1e300], ["item 0", "'image'", "infinite"]),
    "infinity": ([X + np.inf], ["item 0", "'image'", "infinite"]),
    "wrong shape": ([X[:, :, :4]], ["item 0", "'image'", "[1, 3, 4, 8]"]),
    "wrong type": ([np.full(X.shape, "a")], ["item 0", "'image'", "<U1"]),
    "wrong name": ([{"picture": X}], ["item 0", "'image'", "'picture'"]),
    "one name too many": ([{"image": X, "mask": X}], ["item 0", "'mask'"]),
    "too many arrays": ([[X, X]], ["item 0", "2 arrays"]),
    "an array": (X, ["ndarray", "iterable"]),
    "a path": ("photos/", ["str", "iterable"]),
    "nothing": (None, ["NoneType", "iterable"]),
}


@pytest.mark.parametrize(("data", "words"), DATA.values(), ids=DATA)
def test_calibration(data: Any, words: list[str], model: lpir.Model) -> None:
    before = model.dump()
    refused(lambda: lpir.quantize(model, data), InputError, *words)
    assert model.dump() == before


OPTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "preset": ({"preset": "wild"}, ["'wild'", "performance", "mixed"]),
    "model type": ({"model_type": "forest"}, ["'forest'", "transformer"]),
    "subset": ({"subset_size": 0}, ["subset_size"]),
    "unknown": ({"speed": 9}, ["speed"]),
    "device": ({"target_device": "TPU"}, ["'TPU'"]),
    "ignored name": ({"ignored_scope": lpir.IgnoredScope(names="conv9")}, ["'conv9'"]),
    "ignored pattern": ({"ignored_scope": lpir.IgnoredScope(patterns="(")}, ["regular expression"]),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS)
def test_quantization_options(options: dict[str, Any], words: list[str], model: lpir.Model) -> None:
    refused(lambda: lpir.quantize(model, [X], **options), InputError, *words)


def test_dataset_of_nothing() -> None:
    refused(lambda: lpir.Dataset(None), InputError, "NoneType", "iterable")  # type: ignore[arg-type]


def test_quantizing_twice(model: lpir.Model) -> None:
    once = lpir.quantize(model, [X + 1])
    refused(lambda: lpir.quantize(once, [X]), InputError, "quantized already")


# -- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gone/m.xml", "file/m.xml", "dir.xml", "same.bin"])
def test_impossible_targets(name: str, model: lpir.Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dir.xml").mkdir()
    refused(lambda: lpir.save_model(model, tmp_path / name), FileError, name.partition("/")[2] or name)
    assert contents(tmp_path) == {"file": b"kept"}


@pytest.mark.parametrize("broken", ["open", "replace", "second replace", "disk full"])
def test_unwritable_target(broken: str, model: lpir.Model, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no folder refuses: the system's answers are imitated."""
    before = contents(folder)
    other = model.clone()
    other.reshape([2, 3, 8, 8])
    monkeypatch_system(monkeypatch, broken)
    refused(lambda: lpir.save_model(other, folder / "m.xml"), FileError, "m.xml", "read-only")
    monkeypatch.undo()
    assert contents(folder) == before
    assert str(lpir.read_model(folder / "m.xml").inputs[0].shape) == "[1,3,8,8]"


def monkeypatch_system(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Makes one call of the system fail."""
    answer = OSError(30, "Read-only file system")
    replace, calls = os.replace, []

    def fail(*_: object, **__: object) -> None:
        raise answer

    def fail_later(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise answer
        replace(source, target)

    if broken == "open":
        monkeypatch.setattr("lpir.serialize.xml_write.open", fail, raising=False)
    elif broken == "disk full":
        monkeypatch.setattr(Path, "write_bytes", fail)
    else:
        monkeypatch.setattr(os, "replace", fail_later if broken == "second replace" else fail)


def test_saving_over_a_model_in_use(folder: Folder) -> None:
    """The weights of a loaded model may be mapped from the file that is replaced."""
    loaded = lpir.read_model(folder / "m.xml")
    compiled = lpir.compile_model(loaded, "CPU")
    expected = compiled(X + 1)[0]
    lpir.save_model(loaded, folder / "m.xml", compress_to_fp16=False)
    again = lpir.compile_model(folder / "m.xml", "CPU")(X + 1)[0]
    assert np.array_equal(expected, again)
    assert np.array_equal(lpir.compile_model(loaded, "CPU")(X + 1)[0], expected)
