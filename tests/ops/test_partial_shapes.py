"""Shape inference on dynamic shapes, against OpenVINO's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lpir.ir.op import REGISTRY
from lpir.ir.shape import PartialShape
from tests.ops.openvino_shapes import Input, both_shapes

WINDOW = {"strides": (2, 2), "dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1)}
MAX_POOL = {**WINDOW, "kernel": (3, 3)}
BLOCKS = {"mode": "blocks_first", "block_size": 2}
TOP = {"axis": 0, "mode": "max", "sort": "value"}
NEAREST = {"mode": "nearest", "shape_calculation_mode": "scales"}
SIZES = {"mode": "nearest", "shape_calculation_mode": "sizes"}
PLAIN = {"begin_mask": (0,), "end_mask": (0,)}
SHRINK = {"begin_mask": (0, 0), "end_mask": (1, 1), "new_axis_mask": (1, 0), "shrink_axis_mask": (0, 1)}
ELLIPSIS = {"begin_mask": (1, 0), "end_mask": (1, 1), "ellipsis_mask": (1, 0)}


Sample = tuple[str, dict[str, Any], tuple[Input, ...]]


def axis(value: int) -> np.ndarray[Any, np.dtype[Any]]:
    return np.array(value)


def slices(x: str, start: int, stop: int, step: int) -> list[Sample]:
    return [
        ("Slice", {}, (x, [start], [stop], [step], [0])),
        ("StridedSlice", PLAIN, (x, [start], [stop], [step])),
    ]


def along_the_first_axis(x: str) -> list[Sample]:
    return [
        ("Split", {"num_splits": 3}, (x, axis(0))),
        ("VariadicSplit", {}, (x, axis(0), [2, 4])),
        ("Gather", {}, (x, [0, 1], axis(0))),
        ("Pad", {"pad_mode": "constant"}, (x, [1, 0], [2, -1])),
        ("Pad", {"pad_mode": "reflect"}, (x, [1, 0], [2, 1])),
        ("TopK", TOP, (x, axis(2))),
        ("NonZero", {}, (x,)),
        ("Interpolate", NEAREST, (x, np.array([1.5, 2], np.float32), [0, 1])),
        ("Interpolate", SIZES, (x, [5], [0])),
    ]


SAMPLES: list[Sample] = [
    *(
        ("Convolution", {**WINDOW, "auto_pad": pad}, (x, w))
        for pad in ("explicit", "same_upper", "valid")
        for x, w in (
            ("?,3,?,?", "8,3,3,3"),
            ("1,3,1..10,5..", "8,3,3,3"),
            ("...", "8,3,3,3"),
            ("?,?,?,?", "?,?,?,?"),
            ("1..4,3,10,2..100", "..."),
        )
    ),
    ("GroupConvolution", WINDOW, ("?,4,?,?", "2,3,2,3,3")),
    ("GroupConvolution", WINDOW, ("?,?,9,1..9", "?,3,2,3,3")),
    ("GroupConvolution", WINDOW, ("...", "2,3,2,3,3")),
    ("ConvolutionBackpropData", WINDOW, ("?,4,?,?", "4,3,3,3")),
    ("ConvolutionBackpropData", WINDOW, ("?,?,9,1..9", "?,3,3,3")),
    ("ConvolutionBackpropData", WINDOW, ("...", "2,3,3,3")),
    ("ConvolutionBackpropData", WINDOW, ("?,4,?,?", "4,3,3,3", [20, 30])),
    *(
        ("MaxPool", {**MAX_POOL, "rounding_type": rounding}, (x,))
        for rounding in ("floor", "ceil", "ceil_torch")
        for x in ("?,4,?,?", "1,3,1..10,5..")
    ),
    ("AdaptiveAvgPool", {}, ("?,4,?,?", [3, 4])),
    ("AdaptiveMaxPool", {}, ("1,3,1..10,5..", [3, 4])),
    ("MatMul", {}, ("?,3,4", "4,5")),
    ("MatMul", {}, ("2..3,1,?,4", "1..5,7,4,?")),
    ("MatMul", {}, ("...", "3,4")),
    ("MatMul", {}, ("?", "?")),
    ("MatMul", {}, ("?,4", "4")),
    *(
        ("Reshape", {"special_zero": True}, (x, pattern))
        for x, pattern in (
            ("?,3,4", [0, -1]),
            ("?,3,4", [-1, 12]),
            ("?,3,4", [-1]),
            ("2..6,3,?", [0, 0, -1]),
            ("?,?,?", [0, 0, 4, -1]),
            ("...", [0, -1]),
            ("2,3,4..8", [-1, 6]),
            ("?,8", [0, 2, -1]),
            ("1..4,?", [3, -1]),
        )
    ),
    ("Squeeze", {}, ("1,?,3", [0])),
    ("Squeeze", {}, ("1,?,3", [1])),
    ("Squeeze", {}, ("1,2..3,3",)),
    ("Squeeze", {}, ("1,?,3",)),
    ("Squeeze", {"allow_axis_skip": True}, ("1,?,3", [1])),
    ("Unsqueeze", {}, ("?,2", [0, -1])),
    ("Transpose", {}, ("?,2,3..4", [2, 0, 1])),
    ("Transpose", {}, ("...", [2, 0, 1])),
    ("Concat", {"axis": 1}, ("?,2,3", "1,?,3")),
    ("Concat", {"axis": -1}, ("?,2..3", "1..3,4")),
    ("Concat", {"axis": 0}, ("...", "1,3")),
    ("Broadcast", {}, ("?,3", [2, 4, 3])),
    ("Broadcast", {}, ("...", [2, 4, 3])),
    ("Broadcast", {"mode": "bidirectional"}, ("?,3", [2, 1])),
    ("Broadcast", {"mode": "explicit"}, ("?", [2, 3], [1])),
    ("Tile", {}, ("?,2..3", [2, 3])),
    ("Tile", {}, ("...", [2, 3])),
    ("ShapeOf", {}, ("?,2",)),
    ("ShapeOf", {}, ("...",)),
    *(
        sample
        for x in ("?,10", "...", "6..9,10")
        for start, stop, step in ((1, 5, 1), (-3, -1, 1), (0, 2**31 - 1, 2), (-1, -(2**31), -1), (2, -1, 1))
        for sample in slices(x, start, stop, step)
    ),
    ("StridedSlice", SHRINK, ("?,4..8", [0, 2], [0, 3], [1, 1])),
    ("StridedSlice", ELLIPSIS, ("?,4..8,?", [0, 2], [0, 3], [1, 1])),
    *(sample for x in ("?,2", "6..9,2", "...") for sample in along_the_first_axis(x)),
    ("DepthToSpace", BLOCKS, ("?,8,?,2..3",)),
    ("DepthToSpace", BLOCKS, ("?,5..9,?,2..3",)),
    ("SpaceToDepth", BLOCKS, ("?,8,?,2..5",)),
    ("BatchToSpace", {}, ("?,2,4..6", [1, 2, 3], [0, 1, 0], [0, 0, 2])),
    ("SpaceToBatch", {}, ("?,2,4..6", [1, 2, 3], [0, 1, 0], [0, 1, 2])),
]


@pytest.mark.parametrize(
    ("name", "attributes", "inputs"),
    [pytest.param(*s, id=f"{i}-{s[0]}-{s[2][0]}") for i, s in enumerate(SAMPLES)],
)
def test_openvino_infers_the_same(name: str, attributes: dict[str, Any], inputs: tuple[Input, ...]) -> None:
    ours, theirs = both_shapes(REGISTRY[name](**attributes), *inputs)
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "expected"),
    [
        # OpenVINO forgets that a window exists at all when the rank is unknown
        ("MaxPool", MAX_POOL, ("...",), "?,?,1..,1.."),
        # x[-4:3] of 2 elements has 2, of 3 has 3, of 5 has 2; OpenVINO looks only at the two ends of 2..5
        ("Slice", {}, ("2..5", [-4], [3], [1], [0]), "2..3"),
        ("VariadicSplit", {}, ("6..9,2", axis(0), [2, -1]), "2,2"),
    ],
)
def test_where_more_can_be_said(
    name: str, attributes: dict[str, Any], inputs: tuple[Input, ...], expected: str
) -> None:
    ours, theirs = both_shapes(REGISTRY[name](**attributes), *inputs)
    assert ours[0] == PartialShape.parse(expected)
    assert len(ours) == len(theirs)
