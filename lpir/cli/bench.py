"""`lpir bench`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpir.cli._layers import layer_lines
from lpir.cli._options import AsIs, Config, Device, Isa, ModelPath, Shapes, Threads, configuration, load

if TYPE_CHECKING:
    from lpir.runtime.session import CompiledModel, InferRequest

EXAMPLES = """
lpir bench int8.xml
lpir bench int8.xml --threads 1 --layers      where one core spends its time
lpir bench int8.xml --isa avx2                as on a CPU without VNNI
lpir bench model.onnx -s 8,3,224,224          eight pictures at once
lpir bench int8.xml -c PERFORMANCE_HINT=THROUGHPUT
"""
FEWEST_RUNS = 5


def command(
    model: ModelPath,
    device: Device = "CPU",
    seconds: Annotated[float, typer.Option(metavar="SECONDS", min=0.01, max=3600, help="How long to measure.")] = 5.0,
    layers: Annotated[
        bool, typer.Option("--layers", help="Show the time of each operation too, and what it could be.")
    ] = False,
    shape: Shapes = None,
    threads: Threads = 0,
    isa: Isa = "auto",
    as_is: AsIs = False,
    config: Config = None,
) -> None:
    """Measure how long a model takes.

    To read, to compile and to run, one inference after the other, with random inputs; with several streams also side by
    side.
    """
    import lpir
    from lpir.cli._data import random_inputs

    start = time.perf_counter()
    found = load(model, shape)
    loaded = time.perf_counter()
    compiled = lpir.compile_model(found, device, configuration(threads, isa, as_is, config))
    request = compiled.create_infer_request()
    compiled_at = time.perf_counter()
    inputs = random_inputs(found, 0, set())
    begin = time.perf_counter()
    request.infer(inputs)
    first = time.perf_counter() - begin
    _print_facts(compiled)
    print(f"read        {1e3 * (loaded - start):.1f} ms")
    print(f"compile     {1e3 * (compiled_at - loaded):.1f} ms")
    print(f"first run   {1e3 * first:.2f} ms", flush=True)
    times = measure(request, inputs, seconds)
    streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    rate = side_by_side(compiled, inputs, seconds) if streams > 1 else 0.0
    _print_times(times, rate, found.inputs[0].shape.to_static()[0] if _has_batch(found) else 1)
    if layers:
        profiled = lpir.compile_model(found, device, {**configuration(threads, isa, as_is, config), "PERF_COUNT": True})
        print("\n".join(["", *layer_lines(profiled.create_infer_request(), inputs)]))


def measure(request: InferRequest, inputs: Any, seconds: float) -> list[float]:
    """Milliseconds of each inference during `seconds`, and of a few at least."""
    times: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < FEWEST_RUNS:
        begin = time.perf_counter()
        request.infer(inputs)
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def side_by_side(compiled: CompiledModel, inputs: Any, seconds: float) -> float:
    """Inferences a second with a request for each stream."""
    import lpir

    queue = lpir.AsyncInferQueue(compiled)
    for _ in queue:
        queue.start_async(inputs, share_inputs=True)
    queue.wait_all()
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or count < FEWEST_RUNS:
        queue.start_async(inputs, share_inputs=True)
        count += 1
    queue.wait_all()
    return count / (time.perf_counter() - start)


def _has_batch(model: Any) -> bool:
    """Whether the first input has a known first dimension of several items."""
    shape = model.inputs[0].shape if model.inputs else None
    return shape is not None and shape.is_static and shape.rank == 4 and shape[0].length > 1


def _print_facts(compiled: CompiledModel) -> None:
    import lpir

    name = compiled.device.name
    print(f"device      {name}: {lpir.Core().get_property(name, 'FULL_DEVICE_NAME')}")
    known = compiled.get_property("SUPPORTED_PROPERTIES")
    facts = {"ISA": "ISA", "INFERENCE_NUM_THREADS": "threads", "NUM_STREAMS": "streams"}
    shown = [f"{label} {compiled.get_property(key)}" for key, label in facts.items() if key in known]
    print(f"setting     {', '.join(shown)}")
    print(f"operations  {compiled.explain().summary().partition(': ')[2].replace(' operations', '', 1)}")


def _print_times(times: list[float], rate: float, batch: int) -> None:
    """`rate`: inferences a second of all streams, 0 where there is one."""
    import numpy as np

    p10, median, p90 = np.percentile(times, (10, 50, 90))
    print(
        f"latency     median {median:.3f} ms, best {min(times):.3f}, p10 {p10:.3f}, p90 {p90:.3f} ({len(times)} runs)"
    )
    rate = rate or 1e3 / median
    items = f", {rate * batch:.1f} items/s in batches of {batch}" if batch > 1 else ""
    print(f"throughput  {rate:.1f} inferences/s{items}")
