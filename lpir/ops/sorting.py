"""Choosing by value: the largest elements, the boxes with the best scores."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import Dimension, PartialShape
from lpir.ir.types import ElementType, i32, i64
from lpir.ops.bases import integers, normalize_axis
from lpir.record import record


@op
@record
class TopK(Op):
    """The `k` largest (mode "max") or smallest ("min") elements along `axis`, and their positions (OpenVINO opset11).

    sort: "value" orders them by value, "index" by position, "none" leaves the order open (here: by value). Of equal
    values the one in front comes first. Inputs: x and k (scalar).
    """

    version: ClassVar[str] = "opset11"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    axis: int
    mode: str
    sort: str
    index_element_type: ElementType = i32
    stable: bool = False

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, k = inputs
        if self.mode not in ("max", "min"):
            raise ModelError(f"mode must be max or min, not {self.mode!r}")
        if self.sort not in ("value", "index", "none"):
            raise ModelError(f"sort must be value, index or none, not {self.sort!r}")
        if self.index_element_type not in (i32, i64):
            raise ModelError(f"index_element_type must be i32 or i64, not {self.index_element_type}")
        shape = x.shape
        if shape.dims is not None:
            axis = normalize_axis(self.axis, len(shape))
            if not shape.dims:
                raise ModelError("a scalar has no axis to choose along")
            dim = shape[axis]
            new = Dimension(0, dim.hi)
            if k.value is not None:
                count = integers(k, "k")[0]
                if count < 0 or (dim.hi is not None and count > dim.hi):
                    raise ModelError(f"k = {count} is not between 0 and the length {dim} of axis {axis}")
                new = Dimension(count, count)
            shape = PartialShape(new if a == axis else d for a, d in enumerate(shape))
        return [TensorType(x.type, shape), TensorType(self.index_element_type, shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, count = inputs[0], int(inputs[1].reshape(-1)[0])
        if self.mode == "max":
            # a stable ascending sort of the mirrored array keeps equal values in front-first order when mirrored back
            flipped = np.argsort(np.flip(x, self.axis), self.axis, kind="stable")
            order = x.shape[self.axis] - 1 - np.flip(flipped, self.axis)
        else:
            order = np.argsort(x, self.axis, kind="stable")
        chosen = np.take(order, np.arange(count), self.axis)
        if self.sort == "index":
            chosen = np.sort(chosen, self.axis)
        return np.take_along_axis(x, chosen, self.axis), chosen.astype(self.index_element_type.dtype)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(8).permutation(60).reshape(3, 4, 5).astype(np.float32)
        ties = np.array([[1, 3, 3, 0, 3, 1]], np.float32)
        return [
            Case(cls(-1, "max", "value"), (x, np.array(3)), "max"),
            Case(cls(0, "min", "value", i32), (x, np.array(2)), "min"),
            Case(cls(1, "max", "index"), (x, np.array(2)), "by_index"),
            Case(cls(1, "max", "value", i32, True), (ties, np.array(4)), "ties"),
            Case(cls(2, "max", "value"), (x, np.array(5)), "all"),
            Case(cls(1, "min", "value"), (x.astype(np.int32), np.array(1)), "i32"),
        ]


@op
@record
class NonMaxSuppression(Op):
    """Boxes by falling score without those that overlap a better one of their class (OpenVINO opset9).

    Inputs: boxes `[B, N, 4]`, scores `[B, C, N]`, and scalars (default 0): most boxes a class, IoU threshold, score
    threshold, soft-NMS sigma. box_encoding: "corner" `y1, x1, y2, x2` or "center" `x, y, w, h`. Outputs: `[S, 3]` of
    batch, class, box; `[S, 3]` of batch, class, score; `[1]` S.
    """

    version: ClassVar[str] = "opset9"
    arity: ClassVar[tuple[int, int | None]] = (2, 6)
    box_encoding: str = "corner"
    sort_result_descending: bool = True
    output_type: ElementType = i64

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        boxes, scores = inputs[:2]
        if self.box_encoding not in ("corner", "center"):
            raise ModelError(f"box_encoding must be corner or center, not {self.box_encoding!r}")
        if self.output_type not in (i32, i64):
            raise ModelError(f"output_type must be i32 or i64, not {self.output_type}")
        most: int | None = None
        if boxes.shape.rank not in (None, 3) or scores.shape.rank not in (None, 3):
            raise ModelError(f"boxes {boxes.shape} and scores {scores.shape} must have rank 3")
        if boxes.shape.dims is not None and scores.shape.dims is not None:
            count = boxes.shape[1].merge(scores.shape[2])
            if not boxes.shape[2].allows(4) or count is None or boxes.shape[0].merge(scores.shape[0]) is None:
                raise ModelError(f"boxes {boxes.shape} and scores {scores.shape} do not belong together")
            if len(inputs) < 3:
                most = 0
            else:
                limit = inputs[2].value
                kept = (
                    Dimension(0, None) if limit is None else Dimension(0, max(0, int(np.asarray(limit).reshape(-1)[0])))
                )
                highs = [h for h in (count.hi, kept.hi) if h is not None]
                most = (scores.shape[0] * scores.shape[1] * Dimension(0, min(highs) if highs else None)).hi
        found = PartialShape((Dimension(0, most), Dimension(3, 3)))
        return [
            TensorType(self.output_type, found),
            TensorType(scores.type, found),
            TensorType(self.output_type, PartialShape((Dimension(1, 1),))),
        ]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        boxes, scores = inputs[:2]
        limits = [float(a.reshape(-1)[0]) for a in inputs[2:]]
        most, iou, score, sigma = [*limits, *[0.0] * (4 - len(limits))]
        rows: list[tuple[float, int, int, int]] = []
        for b in range(scores.shape[0]):
            corners = _corners(boxes[b].astype(np.float32), self.box_encoding)
            for c in range(scores.shape[1]):
                kept = _suppress(corners, scores[b, c].astype(np.float32), int(most), iou, score, sigma)
                rows += [(value, b, c, box) for value, box in kept]
        if self.sort_result_descending:
            rows.sort(key=lambda row: (-row[0], *row[1:]))
        indices = np.array([row[1:] for row in rows], self.output_type.dtype).reshape(-1, 3)
        values = np.array([(b, c, value) for value, b, c, _ in rows], scores.dtype).reshape(-1, 3)
        return indices, values, np.array([len(rows)], self.output_type.dtype)

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(10)
        start = rng.uniform(0, 1, (2, 12, 2))
        boxes = np.concatenate([start, start + rng.uniform(0.2, 0.6, (2, 12, 2))], -1).astype(np.float32)
        scores = rng.uniform(0, 1, (2, 3, 12)).astype(np.float32)

        def scalars(*values: float) -> tuple[Array, ...]:
            return (np.array(values[0], np.int64), *(np.array(v, np.float32) for v in values[1:]))

        return [
            Case(cls(), (boxes, scores, *scalars(4, 0.3, 0.2)), "corner"),
            Case(cls("corner", False), (boxes, scores, *scalars(20, 0.4, 0.5)), "by_class"),
            Case(cls("center", True, i32), (boxes, scores, *scalars(4, 0.3, 0.2)), "center"),
            Case(cls(), (boxes, scores, *scalars(5, 0.6, 0.2, 0.5)), "soft"),
        ]


def _corners(boxes: Array, encoding: str) -> Array:
    """`[N, 4]` boxes as `y1, x1, y2, x2` with the smaller corner first."""
    if encoding == "center":
        x, y, w, h = boxes.T
        return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], 1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _overlap(box: Array, others: Array) -> Array:
    """Intersection over union of one box with `[K, 4]` others."""
    size = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0)
    common = size[:, 0] * size[:, 1]
    area = np.prod(box[2:] - box[:2])
    areas = np.prod(others[:, 2:] - others[:, :2], 1)
    union = area + areas - common
    found: Array = np.divide(common, union, out=np.zeros_like(common), where=(area > 0) & (areas > 0))
    return found


def _suppress(
    corners: Array, scores: Array, most: int, iou: float, least: float, sigma: float
) -> list[tuple[float, int]]:
    """(score, box) of the boxes of one class that stay, best first; sigma > 0 lowers scores where boxes overlap."""
    # a candidate: mirrored score, box, number of kept boxes that it has been compared with
    queue = [(-float(s), i, 0) for i, s in enumerate(scores) if s > least]
    heapq.heapify(queue)
    kept: list[tuple[float, int]] = []
    while queue and len(kept) < most:
        mirrored, box, seen = heapq.heappop(queue)
        overlaps = _overlap(corners[box], corners[[k for _, k in kept[seen:]]])
        if sigma <= 0 and (overlaps >= np.float32(iou)).any():
            continue
        score = -mirrored
        if sigma > 0 and len(overlaps):
            score = float(
                np.float32(score) * np.exp(np.float32(-0.5 / sigma) * overlaps * overlaps).prod(dtype=np.float32)
            )
        if score == -mirrored:
            kept.append((score, box))
        elif score > least:
            heapq.heappush(queue, (-score, box, len(kept)))
    return kept
