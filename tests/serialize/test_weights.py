"""Packing of every element type, against the bytes that OpenVINO writes, and views of the mapped file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import ml_dtypes
import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset16 as ops

from lpir.errors import FileError, ModelError
from lpir.ir.types import ALL, ElementType, boolean, f32, i4, i8, u1, u4, u8
from lpir.ops.boundary import Constant
from lpir.serialize.weights import WeightWriter, map_file, pack, read_array
from lpir.serialize.xml_read import read_model
from lpir.serialize.xml_write import to_bytes

TYPES = [t for t in ALL if t.bits]


@pytest.mark.parametrize(
    ("element_type", "values", "hex_bytes"),
    [
        (u1, [1, 0, 0, 0, 0, 0, 0, 0, 1, 1], "80 c0"),
        (i4, [-8, 7, -1, 0, 3], "78 0f 03"),
        (u4, [1, 15, 7], "f1 07"),
        (boolean, [True, False], "01 00"),
        (i8, [-1, 127], "ff 7f"),
    ],
)
def test_layout_in_the_file(element_type: ElementType, values: list[int], hex_bytes: str) -> None:
    data = pack(np.array(values).astype(element_type.dtype), element_type)
    assert bytes(data).hex(" ") == hex_bytes
    back = read_array(data, element_type, [len(values)], 0, len(data))
    assert back.astype(np.int64).tolist() == [int(v) for v in values]


@pytest.mark.parametrize("element_type", TYPES, ids=str)
@given(st.data())
def test_pack_and_unpack(element_type: ElementType, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 33))
    offset = data.draw(st.integers(0, 9))
    raw = data.draw(st.binary(min_size=8 * count, max_size=8 * count))
    codes = np.frombuffer(raw, np.uint8)
    if element_type.bits >= 8 and element_type != boolean:
        array = np.frombuffer(raw, element_type.dtype, count)
    elif element_type == boolean:
        array = codes[:count] > 127
    else:
        array = (codes[:count] % (1 << element_type.bits)).astype(np.uint8)
        array = (array.astype(np.int8) - 8 if element_type == i4 else array).astype(element_type.dtype)
    packed = pack(array, element_type)
    assert len(packed) == element_type.size_of(count)
    file = memoryview(b"\xaa" * offset + bytes(packed) + b"\xaa")
    back = read_array(file, element_type, [count], offset, len(packed))
    assert back.dtype == element_type.dtype
    assert back.tobytes() == array.tobytes()
    assert not back.flags.writeable


def test_a_constant_is_a_view_of_the_file_even_when_unaligned(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"abc" + np.arange(5, dtype=np.float32).tobytes())
    mapped = map_file(path)
    array = read_array(mapped, f32, [5], 3, 20)
    assert not array.flags.owndata
    assert array.ctypes.data == np.frombuffer(mapped, np.uint8).ctypes.data + 3
    assert (array + 1).tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_an_empty_file_can_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"")
    assert read_array(map_file(tmp_path / "w.bin"), f32, [0, 3], 0, 0).shape == (0, 3)
    with pytest.raises(FileError, match=r"cannot read .*none\.bin"):
        map_file(tmp_path / "none.bin")


def test_a_boolean_byte_other_than_0_and_1_is_true() -> None:
    assert read_array(memoryview(b"\0\2\xff\1"), boolean, [4], 0, 4).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("shape", "offset", "size", "message"),
    [
        ([2], 0, 8, "outside the weights"),
        ([1], 1 << 62, 4, "outside the weights"),
        ([1], 0, 3, "needs 4 bytes"),
        ([1 << 62, 1 << 62], 0, 4, "needs .* bytes"),
        ([-1], 0, 4, "negative"),
        ([1], -4, 4, "negative"),
        ([0, 1 << 62, 1 << 62], 0, 0, "no array can have shape"),
        ([1] * 70, 0, 4, "no array can have shape"),
    ],
)
def test_sizes_that_do_not_fit(shape: list[int], offset: int, size: int, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_array(memoryview(b"\0\0\0\0"), f32, shape, offset, size)


def test_equal_bytes_are_stored_once() -> None:
    writer = WeightWriter(BytesIO())
    first = writer.add(pack(np.array([1, 0], np.int8), i8))
    assert writer.add(pack(np.array([0, 1], np.int8), i8)) == 2
    assert writer.add(pack(np.array([1, 0], np.uint8), u8)) == first
    assert writer.add(pack(np.array([True, False]), boolean)) == first
    assert writer.size == 4


def test_an_array_of_another_type_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be written as f32"):
        pack(np.zeros(2), f32)


@pytest.mark.parametrize("element_type", TYPES, ids=str)
def test_openvino_writes_the_same_bytes(element_type: ElementType, tmp_path: Path) -> None:
    values = np.array([[1, 0, 1, 1, 0], [0, 1, 7, 5, 1]])
    values = values % 2 if element_type in (u1, boolean) else values
    kind = getattr(ov.Type, element_type.name)
    stored = np.packbits(values.astype(np.uint8)) if element_type == u1 else None
    if stored is not None:
        source = ops.constant(ov.Tensor(stored, ov.Shape([2, 5]), kind))
    elif element_type.dtype == np.dtype(ml_dtypes.bfloat16) or element_type.bits < 8:
        packed = np.frombuffer(pack(values.astype(element_type.dtype), element_type), np.uint8)
        source = ops.constant(ov.Tensor(packed, ov.Shape([2, 5]), kind))
    else:
        source = ops.constant(values.astype(element_type.dtype), kind)
    assert source.get_element_type() == kind
    ov.save_model(ov.Model([ops.result(source)], [], "m"), tmp_path / "m.xml", compress_to_fp16=False)
    model = read_model(tmp_path / "m.xml")
    constant = model.results[0].inputs[0].node.op
    assert isinstance(constant, Constant)
    assert constant.element_type == element_type
    assert constant.data.astype(np.float64).tolist() == values.tolist()
    assert to_bytes(model)[1] == (tmp_path / "m.bin").read_bytes()
