"""Selecting boxes."""

from __future__ import annotations

import numpy as np

from lpir.errors import ModelError
from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value
from lpir.ir.types import f32, i64


@operator("NonMaxSuppression", since=10)
def non_max_suppression(c: Call) -> Value:
    """Boxes, scores, most boxes a class (default 0), IoU threshold (0), score threshold (none); `[S, 3]` indices."""
    encoding = c.integer("center_point_box", 0)
    if encoding not in (0, 1):
        raise ModelError(f"center_point_box must be 0 or 1, not {encoding}")
    most = c.maybe(2) or c.const(0)
    overlap = c.maybe(3) or c.const(0.0, f32)
    score = c.maybe(4) or c.const(float(np.finfo(np.float32).min), f32)
    inputs = [scalar(c, v) for v in (most, overlap, score)]
    return c.make_all(
        "NonMaxSuppression",
        c[0],
        c[1],
        *inputs,
        box_encoding="center" if encoding else "corner",
        sort_result_descending=False,
        output_type=i64,
    )[0]


def scalar(c: Call, value: Value) -> Value:
    return c.make("Squeeze", value, c.const([0])) if value.shape.rank == 1 else value
