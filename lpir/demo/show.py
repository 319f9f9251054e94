"""The demonstration: a float network becomes a Low Precision IR on disk, and both classify the same photos."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from lpir.demo.networks import NETWORKS
from lpir.demo.photos import Photo, class_names, photos
from lpir.errors import FileError, InputError
from lpir.ir.model import Model
from lpir.runtime.session import CompiledModel

Array = np.ndarray[Any, np.dtype[Any]]

CALIBRATION = 10
WARM_UP, ROUNDS = 20, 60


def show(network: str, folder: Path, threads: int) -> None:
    """Prints every step. Raises InputError for an unknown network, FileError when a package or folder is missing."""
    import lpir

    if network not in NETWORKS:
        raise InputError(f"there is no network {network!r}; choose {' or '.join(NETWORKS)}")
    module, function = NETWORKS[network]
    pictures = photos()
    inputs = [p.input() for p in pictures]
    model: Model = getattr(importlib.import_module(module), function)()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: the folder cannot be made: {error.strerror}") from error
    float_path, int8_path = folder / f"{network}.xml", folder / f"{network}_int8.xml"
    lpir.save_model(model, float_path, compress_to_fp16=False)
    print(f"{network}, ImageNet weights, {len(pictures)} labeled photos, of which {CALIBRATION} calibrate")

    start = time.perf_counter()
    quantized = lpir.quantize(model, inputs[:CALIBRATION])
    print(f"quantized in {time.perf_counter() - start:.1f} s", flush=True)
    lpir.save_model(quantized, int8_path, compress_to_fp16=False)

    config = {"INFERENCE_NUM_THREADS": threads}
    compiled = [lpir.compile_model(path, "CPU", config) for path in (float_path, int8_path)]
    outputs = [[np.asarray(c(x)[0]) for x in inputs] for c in compiled]
    _print_labels(pictures, *outputs)
    _print_figures(pictures, *outputs)
    _print_sizes(float_path, int8_path)
    _print_precisions(compiled[1])
    _print_latency(compiled, inputs)
    print(f"\nLow Precision IR: {int8_path}  (try: lpir explain {int8_path})")


def _print_labels(pictures: list[Photo], floats: list[Array], codes: list[Array]) -> None:
    names = class_names()
    print(f"\n{'photo':34} {'FP32':28} INT8")
    for picture, y, z in zip(pictures, floats, codes, strict=True):
        cells = [f"{names[int(np.argmax(v))][:22]} {_confidence(v):4.0%}" for v in (y, z)]
        right = ["" if int(np.argmax(v)) == picture.label else " (wrong)" for v in (y, z)]
        print(f"{names[picture.label][:33]:34} {cells[0] + right[0]:28} {cells[1] + right[1]}")


def _confidence(logits: Array) -> float:
    powers = np.exp(logits - logits.max())
    return float(powers.max() / powers.sum())


def cosine(a: Array, b: Array) -> float:
    """The cosine of the angle between two outputs, in float64."""
    x, y = (v.astype(np.float64).reshape(-1) for v in (a, b))
    return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), np.finfo(np.float64).tiny))


def _print_figures(pictures: list[Photo], floats: list[Array], codes: list[Array]) -> None:
    right = [sum(int(np.argmax(y)) == p.label for p, y in zip(pictures, o, strict=True)) for o in (floats, codes)]
    same = sum(int(np.argmax(a)) == int(np.argmax(b)) for a, b in zip(floats, codes, strict=True))
    cosines = [cosine(a, b) for a, b in zip(floats, codes, strict=True)]
    print(f"\ntop-1         FP32 {right[0]}/{len(pictures)}, INT8 {right[1]}/{len(pictures)}, the same label on {same}")
    print(f"agreement     cosine of the logits {np.mean(cosines):.4f} in the mean, {min(cosines):.4f} at worst")


def _print_sizes(float_path: Path, int8_path: Path) -> None:
    sizes = [p.with_suffix(".bin").stat().st_size for p in (float_path, int8_path)]
    print(
        f"weights file  FP32 {sizes[0] / 1e6:.2f} MB, INT8 {sizes[1] / 1e6:.2f} MB: {sizes[0] / sizes[1]:.1f}x smaller"
    )


def _print_precisions(compiled: CompiledModel) -> None:
    explanation = compiled.explain()
    counts, refused = explanation.counts(), len(explanation.refused())
    print(f"operations    {counts.get('INT8', 0)} of {sum(counts.values())} run in INT8, {refused or 'none'} refused")


def _print_latency(compiled: list[CompiledModel], inputs: list[Array]) -> None:
    requests = [c.create_infer_request() for c in compiled]
    for request in requests:
        for _ in range(WARM_UP):
            request.infer([inputs[0]])
    times: list[list[float]] = [[], []]
    # in turn, so that both see the same machine
    for _ in range(ROUNDS):
        for request, found in zip(requests, times, strict=True):
            begin = time.perf_counter()
            request.infer([inputs[0]])
            found.append(1e3 * (time.perf_counter() - begin))
    slow, fast = (float(np.median(t)) for t in times)
    ratio = float(np.median(np.divide(times[0], times[1])))
    print(f"latency       FP32 {slow:.2f} ms, INT8 {fast:.2f} ms: {ratio:.1f}x faster")
