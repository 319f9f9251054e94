"""The table of operations that `lpir bench --layers` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpir.runtime.profile import ProfilingInfo
    from lpir.runtime.session import InferRequest


WARM_UP, RUNS = 5, 31


def layer_lines(request: InferRequest, inputs: Any) -> list[str]:
    """The table, and below it the kernels that were refused; times are medians of RUNS inferences."""
    found = []
    for run in range(WARM_UP + RUNS):
        request.infer(inputs)
        if run >= WARM_UP:
            found.append(request.get_profiling_info())
    layers = [replace(each[0], seconds=median(i.seconds for i in each)) for each in zip(*found, strict=True)]
    return [*_table(layers), "", *_refused(layers)]


def _table(layers: Sequence[ProfilingInfo]) -> list[str]:
    total = max(sum(i.seconds for i in layers), 1e-12)
    head = f"{'ms':>9} {'share':>6} {'MMAC':>8} {'GMAC/s':>7} {'of bound':>8}  {'bound':24}  {'kernel':24}  operation"
    return [head, *(_line(layer, total) for layer in layers), *_sums(layers)]


def _line(layer: ProfilingInfo, total: float) -> str:
    products = f"{layer.macs / 1e6:8.2f} {layer.gmacs:7.1f}" if layer.macs else " " * 16
    share = "" if layer.share is None else f"{layer.share:.0%}"
    bound = str(layer.bound or "")
    return (
        f"{1e3 * layer.seconds:9.4f} {layer.seconds / total:6.1%} {products} {share:>8}  {bound:24}  "
        f"{layer.exec_type:24}  {layer.node_name}"
    )


def _sums(layers: Sequence[ProfilingInfo]) -> list[str]:
    """What all operations with products come to, and the others."""
    lines = []
    for title, part in (("products", [i for i in layers if i.macs]), ("others", [i for i in layers if not i.macs])):
        seconds = sum(i.seconds for i in part)
        if seconds > 0:
            least = sum(i.bound.seconds if i.bound else 0.0 for i in part)
            macs = sum(i.macs for i in part)
            speed = f", {macs / 1e6:.0f} MMAC at {macs / seconds / 1e9:.1f} GMAC/s" if macs else ""
            share = f", {least / seconds:.0%} of what the machine allows" if least else ""
            lines.append(f"{1e3 * seconds:9.4f} ms in {len(part)} {title}{speed}{share}")
    return lines


def _refused(layers: Sequence[ProfilingInfo]) -> list[str]:
    """Why kernels that were asked before the chosen ones did not run, most frequent first."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        for kernel, why in layer.refused.items():
            names.setdefault(f"{kernel}: {why}", []).append(layer.node_name)
    order = sorted(names.items(), key=lambda item: -len(item[1]))
    lines = [f"  {why} ({len(found)}, first '{found[0]}')" for why, found in order]
    return ["kernels that were asked before the chosen ones:", *lines] if lines else []
