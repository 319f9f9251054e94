"""GMAC/s of each product of a network in lpir, and its share of what the machine allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.prepare import Files
from benchmarks.report import markdown
from benchmarks.samples import Inputs
from lpir.runtime.profile import ProfilingInfo

WARM_UP, RUNS = 3, 31
HEADER = ("operation", "kernel", "us", "MMAC", "GMAC/s", "of bound", "bound", "FP32, us")


def profile(path: Path, inputs: Inputs, threads: int, isa: str) -> list[ProfilingInfo]:
    """What runs for each node, with the median time of RUNS inferences."""
    import lpir

    config: dict[str, Any] = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads}
    request = lpir.compile_model(path, "CPU", {**config, "ISA": isa} if isa else config).create_infer_request()
    found = []
    for run in range(WARM_UP + RUNS):
        request.infer(list(inputs))
        if run >= WARM_UP:
            found.append(request.get_profiling_info())
    return [replace(each[0], seconds=median(i.seconds for i in each)) for each in zip(*found, strict=True)]


def layer_table(files: Files, inputs: Inputs, threads: int, isa: str = "") -> str:
    """A row for each convolution and matrix product of the INT8 network, and one for all of them.

    Beside each the time of the node of that name in the float network; in bold where that is shorter.
    """
    layers = profile(files.nncf, inputs, threads, isa)
    floats: dict[str, float] = {}
    for layer in profile(files.ir, inputs, threads, isa):
        floats[_origin(layer)] = floats.get(_origin(layer), 0.0) + layer.seconds
    own: dict[str, float] = {}
    for layer in layers:
        own[_origin(layer)] = own.get(_origin(layer), 0.0) + layer.seconds
    products = [layer for layer in layers if layer.macs]
    rows = []
    for layer in products:
        other = floats.get(_origin(layer))
        faster = other is not None and other < own[_origin(layer)]
        shown = "" if other is None else f"{1e6 * other:.1f}"
        rows.append(
            [
                layer.node_name,
                layer.exec_type,
                f"{1e6 * layer.seconds:.1f}",
                f"{layer.macs / 1e6:.2f}",
                f"{layer.gmacs:.0f}",
                "" if layer.share is None else f"{layer.share:.0%}",
                str(layer.bound or ""),
                f"**{shown}**" if faster else shown,
            ]
        )
    seconds, macs = sum(i.seconds for i in products), sum(i.macs for i in products)
    least = sum(i.bound.seconds for i in products if i.bound)
    part = f"{seconds / sum(i.seconds for i in layers):.0%} of the time"
    total = [f"{1e6 * seconds:.0f}", f"{macs / 1e6:.0f}", f"{macs / seconds / 1e9:.0f}", f"{least / seconds:.0%}"]
    return markdown(HEADER, [*rows, ["all products", part, *total, "", ""]])


def _origin(layer: ProfilingInfo) -> str:
    """The name of the operation in the float network; a padded copy has that of its convolution."""
    return layer.node_name.removesuffix("/WithoutBiases")
