"""Damaged or malicious attributes and shape inputs are refused by inference, in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lpir.ops  # noqa: F401
from lpir.errors import ModelError
from lpir.ir.op import REGISTRY, Arg
from lpir.ir.shape import PartialShape
from lpir.ir.types import f32, from_dtype

CONV = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (0, 0), "pads_end": (0, 0)}
POOL = {**CONV, "kernel": (2, 2)}
NEAREST = {"mode": "nearest", "shape_calculation_mode": "sizes"}
HUGE = 2**40


def arg(given: Any) -> Arg:
    if isinstance(given, str):
        return Arg(f32, PartialShape.parse(given))
    value = np.asarray(given)
    return Arg(from_dtype(value.dtype), PartialShape.of(value.shape), value)


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "message"),
    [
        ("Convolution", {**CONV, "strides": (0, 1)}, ("1,3,9,9", "4,3,3,3"), "strides must be between 1"),
        ("Convolution", {**CONV, "strides": (1,)}, ("1,3,9,9", "4,3,3,3"), "1 values for 2 spatial axes"),
        ("Convolution", {**CONV, "dilations": (1, HUGE)}, ("1,3,9,9", "4,3,3,3"), "dilations must be between"),
        ("Convolution", {**CONV, "pads_end": (-1, 0)}, ("1,3,9,9", "4,3,3,3"), "pads_end must be between 0"),
        ("Convolution", {**CONV, "auto_pad": "some"}, ("1,3,9,9", "4,3,3,3"), "auto_pad must be one of"),
        ("Convolution", {**CONV, "pads_end": (2**31 - 1,) * 2}, ("1,3,9,9", "4,3,3,3"), "too large"),
        ("Convolution", CONV, ("1,3,9,9", "4,2,3,3"), "has 3 channels and the weights"),
        ("Convolution", CONV, ("1,3,2,9", "4,3,3,3"), "does not fit"),
        ("Convolution", CONV, ("1,3,2,9", "4,3,0,3"), "kernel is empty"),
        ("Convolution", CONV, ("1,3", "4,3"), "spatial axes; convolution has 1, 2 or 3"),
        ("GroupConvolution", CONV, ("1,3,9,9", "0,4,3,3,3"), "no groups"),
        ("ConvolutionBackpropData", CONV, ("1,3,9,9", "3,4,3,3", [-1, 4]), "negative length"),
        ("ConvolutionBackpropData", CONV, ("1,3,9,9", "3,4,3,3", [HUGE, 4]), "too large"),
        ("MaxPool", {**POOL, "kernel": (0, 2)}, ("1,3,9,9",), "kernel must be between 1"),
        ("MaxPool", {**POOL, "rounding_type": "up"}, ("1,3,9,9",), "rounding_type must be one of"),
        ("MaxPool", {**POOL, "axis": 4}, ("1,3,9,9",), "axis 4 is outside"),
        ("AdaptiveAvgPool", {}, ("1,3,9,9", [HUGE, 1]), "too large"),
        ("MatMul", {}, ("2,3", "4,5"), "inner lengths"),
        ("MatMul", {}, ("", "4,5"), "scalars"),
        ("MatMul", {}, (f"{2**30},1", f"1,{2**30}"), "too large"),
        ("Reshape", {}, ("2,3", [-1, -1]), "one -1"),
        ("Reshape", {}, ("2,3", [-2]), "one -1"),
        ("Reshape", {}, ("2,3", [4, -1]), "not whole"),
        ("Reshape", {}, ("2,3", [7]), "number of elements differs"),
        ("Reshape", {"special_zero": True}, ("2,3", [1, 1, 0]), "copies axis 2"),
        ("Reshape", {}, ("...", [HUGE]), "too large"),
        ("Squeeze", {}, ("2,3", [0]), "has not the length 1"),
        ("Unsqueeze", {}, ("2,3", [5]), "axis 5 is outside"),
        ("Transpose", {}, ("2,3", [0, 0]), "no permutation"),
        ("Concat", {"axis": 2}, ("2,3", "2,3"), "axis 2 is outside"),
        ("Concat", {"axis": 1}, ("2,3", "3,3"), "does not fit beside"),
        ("Broadcast", {}, ("3", [4, HUGE, 3]), "too large"),
        ("Broadcast", {}, ("3", [4]), "does not broadcast"),
        ("Broadcast", {"mode": "explicit"}, ("3", [4, 3], [7]), "no place"),
        ("Tile", {}, ("3", [HUGE]), "too large"),
        ("Tile", {}, ("3", [-1]), "negative length"),
        ("Slice", {}, ("9", [0], [5], [0]), "step of a slice cannot be 0"),
        ("Slice", {}, ("9", [0, 1], [5], [1]), "different lengths"),
        ("Slice", {}, ("9,9", [0, 1], [5, 5], [1, 1], [0, 0]), "must be different"),
        ("StridedSlice", {"begin_mask": (2,), "end_mask": ()}, ("9", [0], [5]), "only 0 and 1"),
        ("StridedSlice", {"begin_mask": (), "end_mask": ()}, ("9", [0, 0], [5, 5]), "more axes than"),
        ("Split", {"num_splits": 0}, ("9", 0), "num_splits must be between"),
        ("Split", {"num_splits": HUGE}, ("...", 0), "num_splits must be between"),
        ("Split", {"num_splits": 2}, ("9", 0), "2 equal parts"),
        ("VariadicSplit", {}, ("9", 0, [4, 4]), "do not add up"),
        ("VariadicSplit", {}, ("9", 0, [-1, -1]), "only one -1"),
        ("Gather", {}, ("9", [0], 3), "axis 3 is outside"),
        ("Gather", {"batch_dims": 5}, ("9", [0], 0), "batch_dims 5"),
        ("Gather", {}, ("9", "1", 0), "must be integers"),
        ("GatherND", {}, ("9", np.zeros((2, 3), np.int64)), "too long"),
        ("Pad", {"pad_mode": "constant"}, ("9", [HUGE], [0]), "too large"),
        ("Pad", {"pad_mode": "constant"}, ("9", [-5], [-5]), "crops more"),
        ("Pad", {"pad_mode": "reflect"}, ("9", [9], [0]), "too much for pad_mode reflect"),
        ("Pad", {"pad_mode": "wrap"}, ("9", [1], [0]), "pad_mode must be one of"),
        ("Range", {"output_type": f32}, (0.0, 1.0, 0.0), "step cannot be 0"),
        ("Range", {"output_type": f32}, (0.0, 1e30, 1e-30), "too large"),
        ("Range", {"output_type": f32}, (0.0, np.float32(np.inf), 1.0), "must be finite"),
        ("OneHot", {}, (np.array([1]), -1, np.float32(1), np.float32(0)), "depth cannot be -1"),
        ("OneHot", {}, (np.array([1]), HUGE, np.float32(1), np.float32(0)), "too large"),
        ("TopK", {"axis": 0, "mode": "max", "sort": "value"}, ("9", 10), "k = 10 is not between"),
        ("TopK", {"axis": 0, "mode": "best", "sort": "value"}, ("9", 1), "mode must be max or min"),
        ("Interpolate", NEAREST, ("1,1,4,4", [1, 1, HUGE, 4]), "too large"),
        ("Interpolate", NEAREST, ("1,1,4,4", [1, 1, 0, 4]), "at least 1"),
        ("Interpolate", {**NEAREST, "shape_calculation_mode": "scales"}, ("4", [np.float32(np.nan)]), "positive"),
        ("Interpolate", {**NEAREST, "pads_end": (HUGE,)}, ("4", [1]), "must be one value from 0"),
        ("DepthToSpace", {"mode": "blocks_first", "block_size": 0}, ("1,4,2,2",), "block_size must be between"),
        ("DepthToSpace", {"mode": "blocks_first", "block_size": 2}, ("1,5,2,2",), "does not divide"),
        ("ShuffleChannels", {"group": 3}, ("1,4,2",), "does not divide"),
        ("BatchToSpace", {}, ("4,2", [1, 2], [0, 3], [0, 2]), "take more than"),
        ("SpaceToBatch", {}, ("4,2", [1, -2], [0, 0], [0, 0]), "positive lengths"),
    ],
)
def test_is_refused(name: str, attributes: dict[str, Any], inputs: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        REGISTRY[name](**attributes).infer([arg(g) for g in inputs])
