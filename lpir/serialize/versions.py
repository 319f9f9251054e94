"""Old versions of operations, brought to the newest form that lpir models, one version at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpir.errors import FileError, UnsupportedError
from lpir.ir.graph import Value, known_value
from lpir.ops.boundary import constant

# the opsets in which a new version of an operation appeared; operations with one version are not listed
HISTORY: dict[str, tuple[int, ...]] = {
    "Assign": (3, 6),
    "AvgPool": (1, 14, 16),
    "BatchNormInference": (1, 5),
    "Broadcast": (1, 3),
    "DeformableConvolution": (1, 8),
    "DetectionOutput": (1, 8),
    "Gather": (1, 7, 8),
    "GatherND": (5, 8),
    "Gelu": (2, 7),
    "Interpolate": (1, 4, 11),
    "LSTMCell": (1, 4),
    "MVN": (2, 6),
    "MaxPool": (1, 8, 14),
    "MulticlassNms": (8, 9),
    "NonMaxSuppression": (1, 3, 4, 5, 9),
    "OneHot": (1, 16),
    "Pad": (1, 12),
    "PriorBox": (1, 8),
    "Proposal": (1, 4),
    "ROIAlign": (3, 9),
    "Range": (1, 4),
    "ReadValue": (3, 6),
    "ScatterElementsUpdate": (3, 12),
    "ScatterNDUpdate": (4, 15),
    "ShapeOf": (1, 3),
    "Softmax": (1, 8),
    "Squeeze": (1, 15),
    "TopK": (1, 3, 11),
}

# operations that files of old tools claim to be in an opset that never had them
MISPLACED = {("MVN", 1): 2, ("ROIPooling", 1): 2, ("ReorgYolo", 1): 2}


@dataclass
class Draft:
    """An operation on its way from file to node: attribute texts and inputs may still change."""

    type_name: str
    version: int
    attributes: dict[str, str]
    inputs: list[Value]
    name: str

    def flag(self, key: str, default: bool = False) -> bool:
        return self.attributes.get(key, str(default)).strip().lower() in ("true", "1", "yes")

    def move(self, old: str, new: str) -> None:
        if old in self.attributes:
            self.attributes.setdefault(new, self.attributes.pop(old))

    def need(self, count: int) -> None:
        """Raises FileError unless there are at least `count` inputs."""
        if len(self.inputs) < count:
            raise FileError(f"needs {count} inputs, not {len(self.inputs)}")

    def constant(self, data: Any, suffix: str, dtype: Any = np.int64) -> Value:
        return constant(np.asarray(data, dtype), name=f"{self.name}/{suffix}")


Step = Callable[[Draft], None]


def upgrade(draft: Draft, target: int) -> None:
    """Brings `draft` to version `target`. Raises UnsupportedError where its meaning cannot be expressed there."""
    history = HISTORY.get(draft.type_name, (draft.version,))
    while draft.version > target:
        back = STEPS_BACK.get((draft.type_name, draft.version))
        if back is None:
            raise UnsupportedError(f"{draft.type_name} of opset{draft.version} is newer than the opset{target} of lpir")
        back(draft)
        draft.version = max(v for v in history if v < draft.version)
    while draft.version < target:
        step = STEPS.get((draft.type_name, draft.version))
        if step is None:
            raise UnsupportedError(f"{draft.type_name} of opset{draft.version} is not supported; opset{target} is")
        step(draft)
        draft.version = min(v for v in history if v > draft.version)


def _same(draft: Draft) -> None:
    """The new version only adds inputs or attributes whose defaults keep the old meaning."""


def _adds(**attributes: str) -> Step:
    def step(draft: Draft) -> None:
        for key, text in attributes.items():
            draft.attributes.setdefault(key, text)

    return step


def _batch_norm(draft: Draft) -> None:
    # gamma, beta, data, mean, variance became data, gamma, beta, mean, variance
    draft.need(5)
    gamma, beta, data, *rest = draft.inputs
    draft.inputs = [data, gamma, beta, *rest]
    draft.move("eps", "epsilon")


def _broadcast(draft: Draft) -> None:
    if draft.attributes.get("mode", "numpy").lower() == "none":
        draft.attributes["mode"] = "explicit"
    if draft.attributes.get("mode", "numpy").lower() != "explicit":
        # old files may carry an axes input that only "explicit" reads
        del draft.inputs[2:]


def _max_pool(draft: Draft) -> None:
    draft.attributes.setdefault("dilations", ",".join("1" for _ in draft.attributes.get("strides", "").split(",")))


def _gather_nd(draft: Draft) -> None:
    # the old form flattens several batch dimensions into one
    if int(draft.attributes.get("batch_dims", "0")) > 1:
        raise UnsupportedError("GatherND of opset5 with batch_dims above 1 is not supported; save it as opset8")


def _lstm_cell(draft: Draft) -> None:
    weights_format = draft.attributes.get("weights_format", "fico").lower()
    if weights_format != "fico" or draft.flag("input_forget") or len(draft.inputs) > 6:
        raise UnsupportedError("LSTMCell of opset1 with peepholes, input_forget or weights not in 'fico' order")


def _mvn(draft: Draft) -> None:
    # across_channels / reduction_axes became an input
    draft.need(1)
    rank = draft.inputs[0].shape.rank
    text = draft.attributes.get("reduction_axes", "").strip()
    if text:
        axes = [int(t) for t in text.split(",")]
    elif rank is None:
        raise UnsupportedError("MVN of opset2 on an input of unknown rank")
    else:
        axes = list(range(1 if draft.flag("across_channels", True) else 2, rank))
    draft.inputs = [draft.inputs[0], draft.constant(axes, "axes")]
    draft.attributes.setdefault("eps_mode", "INSIDE_SQRT")


def _interpolate_1(draft: Draft) -> None:
    # sizes of some axes; ConvertInterpolate1ToInterpolate4 states the modes
    draft.need(2)
    axes = [int(t) for t in draft.attributes.pop("axes", "").split(",") if t.strip()]
    old = draft.attributes
    mode = old.get("mode", "linear").lower()
    if mode not in ("nearest", "linear"):
        raise UnsupportedError(f"Interpolate of opset1 with mode {mode!r}")
    align = draft.flag("align_corners", True)
    if mode == "linear" and not draft.flag("antialias"):
        mode = "linear_onnx" if draft.inputs[0].shape.rank in (4, 5) else "linear"
    draft.attributes = {
        "mode": mode,
        "shape_calculation_mode": "sizes",
        "coordinate_transformation_mode": "align_corners" if align else "asymmetric",
        "nearest_mode": "simple",
        "antialias": old.get("antialias", "false"),
        "pads_begin": old.get("pads_begin", "0"),
        "pads_end": old.get("pads_end", "0"),
        "cube_coeff": "-0.75",
    }
    scales = draft.constant(np.ones(max(len(axes), 1)), "scales", np.float32)
    draft.inputs = [draft.inputs[0], draft.inputs[1], scales, draft.constant(axes, "axes")]


def _interpolate_4(draft: Draft) -> None:
    # sizes and scales were two inputs of which one counted
    draft.need(3)
    by_scales = draft.attributes.get("shape_calculation_mode", "sizes").lower() == "scales"
    data, sizes, scales, *axes = draft.inputs
    draft.inputs = [data, scales if by_scales else sizes, *axes]


def _range(draft: Draft) -> None:
    draft.need(3)
    draft.attributes["output_type"] = draft.inputs[0].element_type.name


def _read_value(draft: Draft) -> None:
    draft.need(1)
    shape = str(draft.inputs[0].shape)[1:-1]
    draft.attributes.setdefault("variable_type", draft.inputs[0].element_type.name)
    draft.attributes.setdefault("variable_shape", shape)


def _detection_output(draft: Draft) -> None:
    draft.attributes.pop("num_classes", None)


def _one_hot(draft: Draft) -> None:
    draft.need(2)
    if known_value(draft.inputs[1]) is None:
        raise UnsupportedError("OneHot with a depth that is not constant")
    draft.attributes.setdefault("negative_indices_mode", "ignore_negative")


STEPS: dict[tuple[str, int], Step] = {
    ("Assign", 3): _same,
    ("AvgPool", 1): _same,
    ("AvgPool", 14): _same,
    ("BatchNormInference", 1): _batch_norm,
    ("Broadcast", 1): _broadcast,
    ("DeformableConvolution", 1): _adds(bilinear_interpolation_pad="false"),
    ("DetectionOutput", 1): _detection_output,
    ("Gather", 1): _same,
    ("Gather", 7): _same,
    ("GatherND", 5): _gather_nd,
    ("Gelu", 2): _adds(approximation_mode="ERF"),
    ("Interpolate", 1): _interpolate_1,
    ("Interpolate", 4): _interpolate_4,
    ("LSTMCell", 1): _lstm_cell,
    ("MVN", 2): _mvn,
    ("MaxPool", 1): _max_pool,
    ("MaxPool", 8): _same,
    ("NonMaxSuppression", 1): _adds(output_type="i64"),
    ("NonMaxSuppression", 3): _same,
    ("NonMaxSuppression", 4): _same,
    ("NonMaxSuppression", 5): _same,
    ("OneHot", 1): _one_hot,
    ("Pad", 1): _same,
    ("ROIAlign", 3): _adds(aligned_mode="asymmetric"),
    ("Range", 1): _range,
    ("ReadValue", 3): _read_value,
    ("ScatterElementsUpdate", 3): _adds(reduction="none", use_init_val="true"),
    ("ScatterNDUpdate", 4): _adds(reduction="none"),
    ("ShapeOf", 1): _adds(output_type="i64"),
    ("Softmax", 1): _adds(axis="1"),
    ("Squeeze", 1): _adds(allow_axis_skip="false"),
    ("TopK", 1): _adds(index_element_type="i32"),
    ("TopK", 3): _adds(stable="false"),
}


def _avg_pool_back(draft: Draft) -> None:
    dilations = draft.attributes.pop("dilations", "")
    if any(t.strip() != "1" for t in dilations.split(",") if t.strip()):
        raise UnsupportedError("AvgPool with dilations")


STEPS_BACK: dict[tuple[str, int], Step] = {("AvgPool", 16): _avg_pool_back}
