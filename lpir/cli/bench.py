"""`lpir bench`."""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
import typer

from lpir.cli.options import AsIs, Device, Isa, ModelPath, Shapes, Threads, configuration, load


def command(
    model: ModelPath,
    device: Device = "CPU",
    seconds: Annotated[float, typer.Option(min=0.01, help="How long to measure.")] = 5.0,
    layers: Annotated[bool, typer.Option(help="Show the time of each operation too.")] = False,
    shape: Shapes = None,
    threads: Threads = 0,
    isa: Isa = "",
    as_is: AsIs = False,
) -> None:
    """Measure how long a model takes to load, to compile and to run, with random inputs."""
    import lpir
    from lpir.cli.data import random_inputs

    start = time.perf_counter()
    found = load(model, shape)
    loaded = time.perf_counter()
    config = configuration(threads, isa, as_is)
    compiled = lpir.compile_model(found, device, {**config, "PERF_COUNT": layers})
    inputs = random_inputs(found, 0, set())
    request = compiled.create_infer_request()
    compiled_at = time.perf_counter()
    request.infer(inputs)
    first = time.perf_counter()
    print(f"read {1e3 * (loaded - start):.1f} ms, compile {1e3 * (compiled_at - loaded):.1f} ms, ", end="")
    print(f"first inference {1e3 * (first - compiled_at):.2f} ms")
    times = []
    while time.perf_counter() - first < seconds or len(times) < 5:
        begin = time.perf_counter()
        request.infer(inputs)
        times.append(1e3 * (time.perf_counter() - begin))
    p10, p50, p90 = np.percentile(times, (10, 50, 90))
    print(f"latency ms: median {p50:.3f}, best {min(times):.3f}, p10 {p10:.3f}, p90 {p90:.3f} ({len(times)} runs)")
    if layers:
        for info in request.get_profiling_info():
            print(f"{info.real_time.total_seconds() * 1e3:9.4f} ms  {info.exec_type:24} {info.node_name}")
