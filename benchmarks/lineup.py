"""Which engines race on a network, and how each is loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.engines import Engine, Lpir, OnnxRuntime, OpenVino
from benchmarks.litert import LiteRt
from benchmarks.machine import has_vnni
from benchmarks.prepare import NETWORKS, Files

OWN = "lpir, own quantizer,"
PRECISE = "ONNX Runtime, exact,"
FUSED, DYNAMIC = "ONNX Runtime, fused,", "ONNX Runtime, fused + dynamic,"

# loads an engine: Maker(threads=2, streams=1)
Maker = Callable[..., Engine]
# by the names of modules, for command lines
ENGINES: dict[str, Callable[[str, Path, int, bool], Engine]] = {
    "lpir": Lpir,
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
    "litert": LiteRt,
}


def makers(files: Files, isa: str) -> list[Maker]:
    """The engines of a network, lpir's first. `isa`: only those that can be held to an instruction set."""
    lpir = functools.partial(Lpir, isa=isa)
    found: list[Maker] = [
        functools.partial(lpir, "FP32", files.ir),
        functools.partial(lpir, "INT8", files.nncf),
        functools.partial(lpir, "INT8", files.own, maker=OWN),
        functools.partial(OpenVino, "FP32", files.ir),
        functools.partial(OpenVino, "INT8", files.nncf),
    ]
    if isa:
        return found
    found += [
        functools.partial(OnnxRuntime, "FP32", files.onnx),
        functools.partial(OnnxRuntime, "INT8", files.onnx_int8),
    ]
    if not has_vnni():
        found.append(functools.partial(OnnxRuntime, "INT8", files.onnx_int8, maker=PRECISE, precise=True))
    if NETWORKS[files.name].transformer:
        found += [
            functools.partial(OnnxRuntime, "FP32", files.onnx_fused, maker=FUSED),
            functools.partial(OnnxRuntime, "INT8", files.onnx_dynamic, maker=DYNAMIC),
        ]
    if has_litert(files):
        found += [functools.partial(LiteRt, "FP32", files.litert), functools.partial(LiteRt, "INT8", files.litert_int8)]
    return found


def has_litert(files: Files) -> bool:
    """Whether LiteRT is installed and has the network."""
    return find_spec("ai_edge_litert") is not None and files.litert_int8.exists()


def notes(files: Files, isa: str) -> list[str]:
    """What the rows do not say by themselves."""
    if isa:
        return ["ONNX Runtime and LiteRT have no rows: they take every instruction that the machine has"]
    found = []
    if has_vnni():
        found.append("this machine has VNNI: ONNX Runtime's U8S8 is exact as it is, so it has no slower exact row")
    if not has_litert(files):
        found.append("LiteRT has no row: it is not installed, or has no file of this network (benchmarks/litert.py)")
    return found
