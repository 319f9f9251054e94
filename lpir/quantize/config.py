"""What a user chooses about a quantization, and what a device can do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lpir.errors import InputError
from lpir.ir.model import Model

PRESETS = ("performance", "mixed")
MODEL_TYPES = (None, "transformer")
# percent of the values that an automatic range of a transformer keeps on each side
OF_TRANSFORMERS = 99.999
RANGE_ESTIMATORS = ("auto", "minmax", "mean_minmax", "percentile", "mse")


@dataclass(frozen=True)
class IgnoredScope:
    """Nodes that stay float, with their weights.

    names: exact node names; patterns: regular expressions that match from the start of a name; types: operation types.
    An entry that matches nothing is an error unless `validate` is False.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    validate: bool = True

    def __init__(
        self,
        names: str | list[str] | tuple[str, ...] = (),
        patterns: str | list[str] | tuple[str, ...] = (),
        types: str | list[str] | tuple[str, ...] = (),
        validate: bool = True,
    ) -> None:
        for key, value in (("names", names), ("patterns", patterns), ("types", types)):
            object.__setattr__(self, key, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "validate", validate)

    def matches(self, model: Model) -> set[str]:
        """Names of the nodes in scope. Raises InputError that lists every entry that matches nothing."""
        nodes = model.nodes()
        compiled = []
        for pattern in self.patterns:
            try:
                compiled.append(re.compile(pattern))
            except re.error as error:
                raise InputError(f"ignored scope: {pattern!r} is not a regular expression: {error}") from None
        found = {n.name for n in nodes if n.name in self.names or n.op.type_name in self.types}
        found |= {n.name for n in nodes if any(c.match(n.name) for c in compiled)}
        known, types = {n.name for n in nodes}, {n.op.type_name for n in nodes}
        missing = [f"name {n!r}" for n in self.names if n not in known]
        missing += [f"type {t!r}" for t in self.types if t not in types]
        missing += [f"pattern {c.pattern!r}" for c in compiled if not any(c.match(n) for n in known)]
        if missing and self.validate:
            raise InputError(f"ignored scope: nothing in the model matches {', '.join(missing)}")
        return found

    def as_text(self) -> str:
        """One line for a model's rt_info."""
        parts = {"names": self.names, "patterns": self.patterns, "types": self.types}
        return "; ".join(f"{key}={','.join(entries)}" for key, entries in parts.items() if entries)


@dataclass(frozen=True)
class QuantizationConfig:
    """Every choice of `quantize`.

    preset: "performance" (activations symmetric) or "mixed" (asymmetric, for values mostly of one sign);
    None takes "mixed" for transformers and "performance" otherwise.
    subset_size: the most calibration items that are read.
    model_type: "transformer" keeps additions, normalizations and attention's probabilities x values in float.
    smooth: of a transformer, moves outliers of activations into weights first (SmoothQuant), where that helps.
    per_channel_depthwise: one activation range a channel in front of depthwise convolutions, as NNCF does. Off: it
    clips what 10 photos did not show (EfficientNet-Lite0 on unseen photos: 9 to 12 dB, against 21 dB per tensor).
    activation_range: "minmax", "mean_minmax" (mean over the items of each one's limits), "percentile", "mse" (least
    square error) or "auto": for one range a tensor "mse", but 99.999 % of the values for transformers, whose outliers
    count (embeddings of MiniLM, smoothed: 23.9 dB against 22.0 dB).
    percentile: how much of the values "percentile" keeps on each side, in percent.
    correction: "none", "bias" or "gain_bias": fits each layer's output to the float one's.
    correction_samples: the most items that are kept in memory for it.
    compress_weights: store INT8 codes instead of FakeQuantize on float weights.
    """

    preset: str | None = None
    subset_size: int = 300
    model_type: str | None = None
    ignored_scope: IgnoredScope = field(default_factory=IgnoredScope)
    target_device: str = "CPU"
    smooth: bool = True
    per_channel_depthwise: bool = False
    activation_range: str = "auto"
    percentile: float = 99.99
    correction: str = "gain_bias"
    correction_samples: int = 10
    compress_weights: bool = True

    def __post_init__(self) -> None:
        if self.preset not in (None, *PRESETS):
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        if self.model_type not in MODEL_TYPES:
            raise InputError(f"model_type must be None or 'transformer', not {self.model_type!r}")
        if self.subset_size < 1:
            raise InputError(f"subset_size must be at least 1, not {self.subset_size}")
        if self.activation_range not in RANGE_ESTIMATORS:
            raise InputError(f"activation_range must be one of {', '.join(RANGE_ESTIMATORS)}")
        if self.correction not in ("none", "bias", "gain_bias"):
            raise InputError(f"correction must be none, bias or gain_bias, not {self.correction!r}")
        if not 50 < self.percentile <= 100:
            raise InputError(f"percentile must be above 50 and at most 100, not {self.percentile}")

    @property
    def symmetric_activations(self) -> bool:
        preset = self.preset or ("mixed" if self.model_type == "transformer" else "performance")
        return preset == "performance"

    @property
    def range_estimator(self) -> tuple[str, float]:
        """`activation_range` and `percentile`, settled where the first is "auto"."""
        if self.activation_range != "auto":
            return self.activation_range, self.percentile
        return ("percentile", OF_TRANSFORMERS) if self.model_type == "transformer" else ("mse", self.percentile)

    def as_rt_info(self) -> dict[str, str]:
        """Each choice as text, for the model's rt_info."""
        info: dict[str, str] = {}
        for item in fields(self):
            value: Any = getattr(self, item.name)
            info[item.name] = value.as_text() if isinstance(value, IgnoredScope) else str(value)
        return info


def make_config(config: QuantizationConfig | None, options: Mapping[str, Any]) -> QuantizationConfig:
    """`config` with `options` changed. Raises InputError that lists the options that do not exist."""
    known = {f.name for f in fields(QuantizationConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"unknown quantization options: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    base = {f.name: getattr(config, f.name) for f in fields(QuantizationConfig)} if config else {}
    return QuantizationConfig(**{**base, **options})
