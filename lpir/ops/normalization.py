"""Normalizations. Statistics are computed in float64 and each result is rounded once.

Source: the OpenVINO operation set specification of the version that each class names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ops.reduction import reduced_axes
from lpir.record import record


def _data_type(inputs: Sequence[Arg], floats: int | None = None) -> list[TensorType]:
    """The type of the first input. Raises ModelError unless the first `floats` inputs are of one float type."""
    data = inputs[0]
    for x in inputs[:floats]:
        if x.type != data.type:
            raise ModelError(f"the inputs have different types: {data.type} and {x.type}")
    if not data.type.is_float:
        raise ModelError(f"the data must be floating point, not {data.type}")
    return [TensorType(data.type, data.shape)]


def _check_axes(data: Arg, axes: Arg) -> None:
    if not axes.type.is_integer:
        raise ModelError(f"axes must be integers, not {axes.type}")
    if data.shape.rank is not None and axes.value is not None:
        reduced_axes(axes.value, data.shape.rank)


def _check_channels(data: Arg, parameters: Sequence[Arg]) -> None:
    """Each parameter is a vector as long as axis 1."""
    for p in parameters:
        if p.shape.rank not in (None, 1):
            raise ModelError(f"a channel parameter must be a vector, not {p.shape}")
        known = data.shape.rank is not None and p.shape.rank is not None
        if known and data.shape[1].merge(p.shape[0]) is None:
            raise ModelError(f"{p.shape[0]} channel parameters do not fit {data.shape[1]} channels")


def _per_channel(v: Array, rank: int) -> Array:
    return v.astype(np.float64).reshape((1, -1) + (1,) * (rank - 2))


@op
@record
class MVN(Op):
    """Mean-variance normalization (opset6): inputs data, axes.

    `x - mean(x)`, divided by `sqrt(var + eps)` (INSIDE_SQRT) or `sqrt(var) + eps` (OUTSIDE_SQRT) if normalize_variance.
    """

    version: ClassVar[str] = "opset6"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    normalize_variance: bool = True
    eps: float = 1e-9
    eps_mode: str = "INSIDE_SQRT"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if self.eps_mode.upper() not in ("INSIDE_SQRT", "OUTSIDE_SQRT"):
            raise ModelError(f"eps_mode must be INSIDE_SQRT or OUTSIDE_SQRT, not {self.eps_mode!r}")
        _check_axes(inputs[0], inputs[1])
        return _data_type(inputs, 1)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        data, axes = inputs
        chosen = reduced_axes(axes, data.ndim)
        x = data.astype(np.float64)
        y = x - x.mean(chosen, keepdims=True)
        if self.normalize_variance:
            variance = np.square(y).mean(chosen, keepdims=True)
            inside = self.eps_mode.upper() == "INSIDE_SQRT"
            y = y / (np.sqrt(variance + self.eps) if inside else np.sqrt(variance) + self.eps)
        return (y.astype(data.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(3).normal(1, 2, (2, 3, 4, 5)).astype(np.float32)
        return [
            Case(cls(True, 1e-5), (x, np.array([-1])), "layer norm"),
            Case(cls(True, 1e-5, "OUTSIDE_SQRT"), (x, np.array([2, 3])), "instance norm, eps outside"),
            Case(cls(False, 1e-5), (x, np.array([1, 2, 3])), "mean only"),
            Case(cls(True, 1e-5), (x[0, 0], np.array([1], np.int32)), "matrix"),
        ]


@op
@record
class NormalizeL2(Op):
    """`x / sqrt(sum(x^2) + eps)` or, with eps_mode "max", `x / sqrt(max(sum(x^2), eps))` (opset1): inputs data, axes.

    Without axes every element is its own sum.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    eps: float
    eps_mode: str = "add"

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        if self.eps_mode not in ("add", "max"):
            raise ModelError(f"eps_mode must be add or max, not {self.eps_mode!r}")
        _check_axes(inputs[0], inputs[1])
        return _data_type(inputs, 1)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        data, axes = inputs
        x = data.astype(np.float64)
        total = np.square(x).sum(reduced_axes(axes, data.ndim), keepdims=True)
        total = total + self.eps if self.eps_mode == "add" else np.maximum(total, self.eps)
        return ((x / np.sqrt(total)).astype(data.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(4).normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
        return [
            Case(cls(1e-6), (x, np.array([1])), "channels"),
            Case(cls(0.5, "max"), (x * 0.1, np.array([1])), "eps max"),
            Case(cls(1e-6), (x, np.array([1, 2, 3])), "all but batch"),
        ]


@op
@record
class BatchNormInference(Op):
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta` by channel, axis 1 (opset5).

    Inputs: data, gamma, beta, mean, variance.
    """

    version: ClassVar[str] = "opset5"
    arity: ClassVar[tuple[int, int | None]] = (5, 5)
    epsilon: float

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        _check_channels(inputs[0], inputs[1:])
        return _data_type(inputs)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0].astype(np.float64)
        gamma, beta, mean, variance = (_per_channel(v, x.ndim) for v in inputs[1:])
        with np.errstate(all="ignore"):
            y = (x - mean) / np.sqrt(variance + self.epsilon) * gamma + beta
        return (y.astype(inputs[0].dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(5)
        x = rng.normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
        gamma, beta, mean = rng.normal(0, 1, (3, 3)).astype(np.float32)
        variance = rng.uniform(0.5, 2, 3).astype(np.float32)
        return [
            Case(cls(1e-5), (x, gamma, beta, mean, variance), "4-D"),
            Case(cls(1e-3), (x[:, :, 0, 0], gamma, beta, mean, variance), "2-D"),
        ]


@op
@record
class LRN(Op):
    """Local response normalization (opset1): inputs data, axes.

    `x / (bias + alpha / size^n * sum(x^2))^beta`; the sum runs over a window of `size` around each element along the
    `n` axes.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    alpha: float
    beta: float
    bias: float
    size: int

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        _check_axes(inputs[0], inputs[1])
        return _data_type(inputs, 1)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        data, axes = inputs
        x = data.astype(np.float64)
        chosen = reduced_axes(axes, data.ndim)
        total = np.square(x)
        before, after = (self.size - 1) // 2, self.size // 2
        for axis in chosen:
            width = [(before, after) if a == axis else (0, 0) for a in range(x.ndim)]
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(total, width), self.size, axis)
            total = windows.sum(-1)
        scale = self.alpha / self.size ** len(chosen)
        return ((x / (self.bias + scale * total) ** self.beta).astype(data.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(6).normal(0, 2, (2, 7, 3, 4)).astype(np.float32)
        return [
            Case(cls(1e-1, 0.75, 1.0, 5), (x, np.array([1])), "channels"),
            Case(cls(1e-1, 0.75, 2.0, 3), (x, np.array([2, 3])), "spatial"),
        ]


@op
@record
class GroupNormalization(Op):
    """Mean-variance normalization over groups of channels, then `* scale + bias` by channel (opset12).

    Inputs: data [N, C, ...], scale [C], bias [C].
    """

    version: ClassVar[str] = "opset12"
    arity: ClassVar[tuple[int, int | None]] = (3, 3)
    num_groups: int
    epsilon: float

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        _check_channels(inputs[0], inputs[1:])
        data = inputs[0].shape
        if self.num_groups < 1 or (data.rank and data[1].is_static and data[1].length % self.num_groups):
            raise ModelError(f"{self.num_groups} groups do not divide the channels of {data}")
        return _data_type(inputs)

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        data, scale, bias = inputs
        x = data.astype(np.float64).reshape(data.shape[0], self.num_groups, -1)
        y = x - x.mean(2, keepdims=True)
        y = y / np.sqrt(np.square(y).mean(2, keepdims=True) + self.epsilon)
        y = y.reshape(data.shape) * _per_channel(scale, data.ndim) + _per_channel(bias, data.ndim)
        return (y.astype(data.dtype),)

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(7)
        x = rng.normal(1, 2, (2, 6, 3, 4)).astype(np.float32)
        scale, bias = rng.normal(0, 1, (2, 6)).astype(np.float32)
        return [Case(cls(g, 1e-5), (x, scale, bias), f"{g} groups") for g in (1, 3, 6)]
