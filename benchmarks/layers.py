"""GMAC/s of each product of a network in lpir, and its share of what the machine allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import markdown
from benchmarks.samples import Inputs

RUNS = 31
HEADER = ("operation", "kernel", "us", "MMAC", "GMAC/s", "of bound", "bound")


def layer_table(path: Path, inputs: Inputs, threads: int, isa: str = "") -> str:
    """A row for each convolution and matrix product, and one for all of them; medians of RUNS inferences."""
    import lpir

    config: dict[str, Any] = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads}
    request = lpir.compile_model(path, "CPU", {**config, "ISA": isa} if isa else config).create_infer_request()
    found = []
    for _ in range(RUNS):
        request.infer(list(inputs))
        found.append(request.get_profiling_info())
    layers = [replace(each[0], seconds=median(i.seconds for i in each)) for each in zip(*found, strict=True)]
    products = [layer for layer in layers if layer.macs]
    rows = [
        [
            layer.node_name,
            layer.exec_type,
            f"{1e6 * layer.seconds:.1f}",
            f"{layer.macs / 1e6:.2f}",
            f"{layer.gmacs:.0f}",
            "" if layer.share is None else f"{layer.share:.0%}",
            str(layer.bound or ""),
        ]
        for layer in products
    ]
    seconds, macs = sum(i.seconds for i in products), sum(i.macs for i in products)
    least = sum(i.bound.seconds for i in products if i.bound)
    rows.append(
        [
            "all products",
            f"{seconds / sum(i.seconds for i in layers):.0%} of the time",
            f"{1e6 * seconds:.0f}",
            f"{macs / 1e6:.0f}",
            f"{macs / seconds / 1e9:.0f}",
            f"{least / seconds:.0%}",
            "",
        ]
    )
    return markdown(HEADER, rows)
