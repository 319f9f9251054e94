"""`quantize`: from a float model and a few typical inputs to a model with INT8 weights and FakeQuantize."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from lpir.errors import InputError, UnsupportedError
from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.passes.compress import compress_weights as compress
from lpir.quantize.calibrate import Tap, collect, make_observer, ranges_of
from lpir.quantize.config import IgnoredScope, QuantizationConfig, make_config
from lpir.quantize.correct import channel_axis, correct, is_correctable
from lpir.quantize.dataset import Dataset, as_dataset
from lpir.quantize.insert import insert_activations, insert_weights
from lpir.quantize.observers import PositionObserver
from lpir.quantize.placement import Placement, place
from lpir.quantize.prepare import prepare
from lpir.quantize.progress import Progress, Reporter
from lpir.quantize.smooth import SAMPLES, smooth
from lpir.quantize.traits import Traits, traits_for
from lpir.runtime import registry

Array = np.ndarray[Any, np.dtype[Any]]


def quantize(
    model: Model,
    dataset: Dataset | Iterable[Any],
    *,
    preset: str | None = None,
    subset_size: int = 300,
    model_type: str | None = None,
    ignored_scope: IgnoredScope | None = None,
    target_device: str = "CPU",
    compress_weights: bool = True,
    progress: bool | Reporter = True,
    config: QuantizationConfig | None = None,
    **options: Any,
) -> Model:
    """A quantized copy of `model`, which stays as it is.

    dataset: typical inputs, read once (see Dataset); 10 to 300 are enough. preset: "performance" (symmetric
    activations) or "mixed" (asymmetric). model_type: "transformer" for networks with attention. progress: False for
    silence, or `f(what, done, total)`. config: all choices in one object, in place of the others; `options` are further
    fields of QuantizationConfig.

    Raises InputError: an empty dataset, items that do not fit the model or hold NaN or infinity (with the item's
    number), a model that is quantized already, unknown options or names.
    """
    if config is None:
        given = {
            "preset": preset,
            "subset_size": subset_size,
            "model_type": model_type,
            "ignored_scope": ignored_scope or IgnoredScope(),
            "target_device": target_device,
            "compress_weights": compress_weights,
        }
        config = make_config(None, {**given, **options})
    elif options:
        config = make_config(config, options)
    check_float(model)
    data = as_dataset(dataset)
    with Progress(progress) as bar:
        quantized = _quantize(prepare(model), data, config, bar)
    quantized.rt_info = {**model.rt_info, "lpir": {"quantization": config.as_rt_info()}}
    return quantized


def _quantize(model: Model, data: Dataset, config: QuantizationConfig, bar: Progress) -> Model:
    """The steps in order, on a prepared float model."""
    traits = traits_of(config.target_device)
    placement = placement_of(model, config, traits)
    given = data.samples(model, config.subset_size)
    if config.smooth and config.model_type == "transformer":
        # the data is read once: the first samples are kept for the pass over all
        first = list(islice(given, SAMPLES))
        given = chain(first, given)
        smooth(model, placement, first, config.target_device, lambda done: bar.step("Smoothing", done, len(first)))
        placement = placement_of(model, config, traits)
    observers = [make_observer(q, config) for q in placement.activations]
    taps = [Tap(q.value, o) for q, o in zip(placement.activations, observers, strict=True)]
    layers = layers_to_correct(placement, config)
    taps += [Tap(layer.output, o) for layer, o in layers]
    kept: list[list[Array]] = []
    samples = _keep(given, kept, config.correction_samples if layers else 0)
    total = min(len(data), config.subset_size)
    fit = collect(model, taps, samples, config.target_device, lambda done: bar.step("Calibrating", done, total))
    usable = [o if good else None for o, good in zip(observers, fit, strict=False)]
    ranges = ranges_of(placement.activations, usable, config)
    quantized = model.clone()
    copy = placement_of(quantized, config, traits)
    insert_activations(copy.activations, ranges)
    insert_weights(copy.weights)
    expected = {layer.name: o for layer, o in layers if len(o.picks) == len(kept)}
    correct(
        quantized,
        expected,
        kept,
        gain=config.correction == "gain_bias",
        report=lambda done, count: bar.step("Correcting", done, count),
    )
    if config.compress_weights:
        compress(quantized)
    quantized.validate()
    return quantized


def layers_to_correct(placement: Placement, config: QuantizationConfig) -> list[tuple[Node, PositionObserver]]:
    """Each layer with a quantized weight whose output can be fitted, with what is to see its float output."""
    if config.correction == "none":
        return []
    nodes = {id(use.node): use.node for weight in placement.weights for use in weight.uses if use.index == 1}
    count = config.correction_samples
    return [(n, PositionObserver(channel_axis(n), count)) for n in nodes.values() if is_correctable(n)]


def placement_of(model: Model, config: QuantizationConfig, traits: Traits) -> Placement:
    """Where the quantizers of `model` would go. Raises InputError when the ignored scope matches nothing."""
    ignored = dict.fromkeys(config.ignored_scope.matches(model), "in the ignored scope")
    return place(
        model,
        traits,
        transformer=config.model_type == "transformer",
        symmetric=config.symmetric_activations,
        per_channel_depthwise=config.per_channel_depthwise,
        ignored=ignored,
    )


def traits_of(device: str) -> Traits:
    """What the device gains from quantization; the general table where the device is not there to ask.

    Raises InputError for an unknown device.
    """
    try:
        return traits_for(registry.load(device).capabilities())
    except UnsupportedError:
        return traits_for(None)


def check_float(model: Model) -> None:
    """Raises InputError when the model has FakeQuantize nodes, or was written by `quantize`."""
    found = [n.name for n in model.nodes() if n.op.type_name == "FakeQuantize"]
    if found:
        raise InputError(
            f"model '{model.name}' is quantized already: it has {len(found)} FakeQuantize nodes (first '{found[0]}'); "
            "quantize the float model"
        )
    own = model.rt_info.get("lpir")
    if isinstance(own, dict) and "quantization" in own:
        raise InputError(f"model '{model.name}' is quantized already (by lpir); quantize the float model")


def _keep(samples: Iterator[list[Array]], kept: list[list[Array]], count: int) -> Iterator[list[Array]]:
    """The samples; copies of the first `count` go to `kept`."""
    for sample in samples:
        if len(kept) < count:
            kept.append([x.copy() for x in sample])
        yield sample
