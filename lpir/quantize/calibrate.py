"""Runs the float model over the calibration data and gathers the statistics that ranges need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lpir.errors import ModelError
from lpir.ir.graph import Value
from lpir.ir.model import Model
from lpir.quantize.config import QuantizationConfig
from lpir.quantize.execute import TappedModel
from lpir.quantize.observers import HistogramObserver, MinMaxObserver, Observer
from lpir.quantize.placement import ActivationQuantizer
from lpir.quantize.ranges import Range, asymmetric, symmetric
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]

# a tensor with such values is an attention mask: 8 bits for -3e38 .. 0 would leave nothing of the scores
MASK = 1e30


def make_observer(quantizer: ActivationQuantizer, config: QuantizationConfig) -> Observer:
    """One range a channel needs limits only; a histogram is kept where the whole tensor has one range."""
    estimator, _ = config.range_estimator
    if quantizer.axis is None and estimator in ("percentile", "mse"):
        return HistogramObserver()
    mean = estimator == "mean_minmax" and quantizer.axis is None
    return MinMaxObserver(quantizer.axis, mean)


@record
class Tap:
    """A tensor of the float model, and who sees its value for each sample."""

    value: Value
    observer: Observer


def collect(
    model: Model,
    taps: Sequence[Tap],
    samples: Iterable[list[Array]],
    device: str,
    report: Callable[[int], None],
) -> list[bool]:
    """Shows every tap's observer all samples; for each tap whether the tensor is fit for quantization.

    Tensors with masks (beyond 1e30) or infinities are not. Raises ModelError when the float model itself gives NaN.
    """
    fit = [True] * len(taps)
    tapped = TappedModel(model, [tap.value for tap in taps], device)
    for index, sample in enumerate(samples):
        for position, array in enumerate(tapped.run(sample)):
            if not _is_plain(array):
                if np.isnan(array).any():
                    name = taps[position].value.name
                    raise ModelError(f"the float model gives NaN in '{name}' for calibration item {index}")
                fit[position] = False
            if fit[position]:
                taps[position].observer.update(array)
        report(index + 1)
    return fit


def ranges_of(
    quantizers: Sequence[ActivationQuantizer], observers: Sequence[Observer | None], config: QuantizationConfig
) -> list[Range | None]:
    """The limits of each quantizer; those of one group are the same. None (no observer): the tensor stays float."""
    limits = [_limits(o, config, q.symmetric) for q, o in zip(quantizers, observers, strict=True)]
    groups: dict[int, list[int]] = {}
    for position, quantizer in enumerate(quantizers):
        if quantizer.group is not None:
            groups.setdefault(quantizer.group, []).append(position)
    for members in groups.values():
        known = [limit for p in members if (limit := limits[p]) is not None]
        whole = None
        if len(known) == len(members):
            whole = (np.min([low for low, _ in known]), np.max([high for _, high in known]))
        for position in members:
            limits[position] = whole
    found: list[Range | None] = []
    for quantizer, pair in zip(quantizers, limits, strict=True):
        rule = symmetric if quantizer.symmetric else asymmetric
        found.append(None if pair is None else rule(*pair))
    return found


def _limits(observer: Observer | None, config: QuantizationConfig, is_symmetric: bool) -> tuple[Array, Array] | None:
    if observer is None:
        return None
    if isinstance(observer, MinMaxObserver):
        return observer.limits()
    estimator, percentile = config.range_estimator
    if isinstance(observer, HistogramObserver) and estimator == "percentile":
        return observer.percentile(percentile)
    return observer.best_clipping(symmetric=is_symmetric) if isinstance(observer, HistogramObserver) else None


def _is_plain(array: Array) -> bool:
    return array.size == 0 or bool(max(-float(array.min()), float(array.max())) < MASK)
