"""Attribute text of every field type, in both directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lpir.errors import FileError, UnsupportedError
from lpir.ir.op import Op, xml_name
from lpir.ir.shape import PartialShape
from lpir.ir.types import ElementType, f16, i64
from lpir.serialize.attrs import decode, encode, to_text

SCALAR = PartialShape(())


@dataclass(frozen=True)
class Sample(Op):
    flag: bool
    axis: int
    eps: float = 1e-5
    mode: str = "numpy"
    upper: str = "ERF"
    pads_begin: tuple[int, ...] = ()
    coefficients: tuple[float, ...] = (0.5,)
    element_type: ElementType = i64
    shape: PartialShape = SCALAR
    exclude_pad: bool = xml_name("exclude-pad", False)
    limit: int | None = None


def test_texts_are_those_of_openvino() -> None:
    op = Sample(True, -1, float(np.float32(1e-5)), pads_begin=(1, 2), shape=PartialShape.parse("1,1..10,?,3.."))
    assert encode(op) == {
        "flag": "true",
        "axis": "-1",
        "eps": "9.9999997473787516e-06",
        "mode": "numpy",
        "upper": "ERF",
        "pads_begin": "1, 2",
        "coefficients": "0.5",
        "element_type": "i64",
        "shape": "1,1..10,?,3..",
        "exclude-pad": "false",
    }
    assert Sample(**decode(Sample, encode(op))) == op


def test_other_spellings_are_read() -> None:
    texts = {"flag": "YES", "axis": " 3 ", "mode": "NUMPY", "upper": "tanh", "pads_begin": "1,2", "shape": "..."}
    texts |= {"exclude-pad": "1", "element_type": "f16", "limit": "4", "unknown": "x", "eps": "inf"}
    op = Sample(**decode(Sample, texts))
    expected = Sample(True, 3, float("inf"), "numpy", "TANH", (1, 2), (0.5,), f16, PartialShape(None), True, 4)
    assert op == expected
    assert encode(op)["shape"] == "..."
    assert encode(op)["limit"] == "4"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("flag", "maybe", "true or false"),
        ("axis", "1.5", "must be an integer"),
        ("axis", "9" * 20, "64 bits"),
        ("axis", "9" * 5000, "must be an integer"),
        ("axis", "", "must be an integer"),
        ("pads_begin", "1,,2", "must be an integer"),
        ("eps", "small", "could not convert"),
        ("element_type", "FP32", "no such element type"),
        ("shape", "1,-5", "dimension"),
        ("shape", "1,x", "not a dimension"),
        ("shape", "9" * 30, "64 bits"),
        ("shape", "5..2", "dimension"),
    ],
)
def test_bad_text_names_the_attribute(key: str, text: str, message: str) -> None:
    with pytest.raises(FileError, match=f"attribute {key}=.*{message}"):
        decode(Sample, {"flag": "true", "axis": "1", key: text})


def test_a_missing_attribute_is_named() -> None:
    with pytest.raises(FileError, match="'axis' is missing"):
        decode(Sample, {"flag": "true"})


def test_an_element_type_without_arithmetic_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="f8e4m3"):
        decode(Sample, {"flag": "true", "axis": "1", "element_type": "f8e4m3"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (0.1, "0.10000000000000001"),
        (float("-inf"), "-inf"),
        (6.0, "6"),
        ((), ""),
        (i64, "i64"),
    ],
)
def test_value_texts(value: object, text: str) -> None:
    assert to_text(value) == text


@dataclass(frozen=True)
class Padded(Op):
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    auto_pad: str = "explicit"


def test_pads_are_zero_where_they_mean_nothing() -> None:
    assert encode(Padded((1, 2), (3, 4), "same_upper"))["pads_end"] == "0, 0"
    assert encode(Padded((1, 2), (3, 4)))["pads_end"] == "3, 4"
    assert encode(Padded((), (), "valid"))["pads_begin"] == ""
