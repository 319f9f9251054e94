"""How right each engine is: against labels, against FP32, against the exact arithmetic of its own file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.exact import exact_outputs
from benchmarks.lineup import Maker
from benchmarks.prepare import Network
from benchmarks.samples import Inputs
from lpir.demo.show import cosine


@dataclass(frozen=True)
class Agreement:
    """Cosines over samples."""

    mean: float
    worst: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}, {self.worst:.4f}"


@dataclass(frozen=True)
class Fidelity:
    """Of one engine. top1: right labels, where they mean anything; to_exact: of INT8; kernels: as the engine tells."""

    samples: int
    top1: int | None
    same_label: int
    to_fp32: Agreement
    to_exact: Agreement | None
    kernels: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def fidelity(
    makers: list[Maker], network: Network, samples: list[Inputs], labels: list[int] | None
) -> dict[str, Fidelity]:
    """By engine name; FP32 is the first engine's."""
    found: dict[str, Fidelity] = {}
    reference: list[Any] = []
    for make in makers:
        engine = make(threads=1)
        outputs = [network.answer(engine.infer(*x), x) for x in samples]
        reference = reference or outputs
        tops = [int(np.argmax(y)) for y in outputs]
        to_exact = None
        if engine.precision == "INT8":
            few = samples[: network.exact]
            exact = exact_outputs(engine.key, engine.path, few)
            to_exact = agreement(outputs, [network.answer(y, x) for y, x in zip(exact, few, strict=True)])
        found[engine.name] = Fidelity(
            samples=len(samples),
            top1=sum(a == b for a, b in zip(tops, labels, strict=True)) if labels and network.trained else None,
            same_label=sum(top == int(np.argmax(y)) for top, y in zip(tops, reference, strict=True)),
            to_fp32=agreement(outputs, reference),
            to_exact=to_exact,
            kernels=engine.kernels(),
        )
    return found


def agreement(found: list[Any], expected: list[Any]) -> Agreement:
    """Of as many as `expected` has."""
    values = [cosine(y, z) for y, z in zip(found, expected, strict=False)]
    return Agreement(float(np.mean(values)), float(min(values)))
