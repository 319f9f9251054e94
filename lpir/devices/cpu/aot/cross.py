"""Libraries for instruction sets that this machine need not have: models compiled here for an ARM board."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lpir.devices.cpu import pipeline
from lpir.devices.cpu.aot.build import build, header
from lpir.devices.cpu.explain import explain_plan, operations_of
from lpir.devices.cpu.isa import by_name
from lpir.devices.cpu.plan import Planner
from lpir.devices.cpu.threads import threads_and_streams
from lpir.devices.cpu.work import threads_for
from lpir.errors import InputError
from lpir.ir.model import Model


def cross_compile(model: Model, config: Mapping[str, Any], prefix: str, soname: str = "") -> tuple[bytes, str]:
    """The library of a model for the instruction set in `config`, and its C header; nothing of it runs here.

    Raises InputError where shapes are dynamic, UnsupportedError that names the operations without native code.
    """
    isa = by_name(config["ISA"])
    low_precision = bool(config.get("LP_TRANSFORMS_MODE", True))
    prepared = pipeline.prepare(model, low_precision)
    if not pipeline.is_static(prepared):
        raise InputError("a model with dynamic shapes cannot be a library; Model.reshape() fixes them")
    lowered = pipeline.lower_for(prepared, low_precision, isa)
    threads = threads_for(lowered, threads_and_streams(config)[0])
    plan = Planner(lowered, isa, threads, bool(config.get("PERF_COUNT", False))).plan()
    explanation = explain_plan(operations_of(model), lowered, plan, isa)
    return build(model, plan, isa, threads, None, explanation, prefix, soname), header(model, isa, prefix)
