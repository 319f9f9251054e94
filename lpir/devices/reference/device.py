"""REFERENCE: every operation as its own NumPy `eval`, one after the other. FakeQuantize is executed as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lpir.ops  # noqa: F401  (registers the operations)
from lpir.ir.model import Model
from lpir.runtime.device import Capabilities, Device, Executable
from lpir.runtime.interpreter import Interpreter


class ReferenceDevice(Device):
    """The device that states what a model means, public or lowered; slow, and right."""

    name = "REFERENCE"

    def capabilities(self) -> Capabilities:
        return Capabilities("REFERENCE", "NumPy reference")

    def compile(self, model: Model, config: Mapping[str, Any]) -> Executable:
        return Interpreter(model.clone(), self.name, bool(config.get("PERF_COUNT", False)))
