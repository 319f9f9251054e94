"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")


def cpu_facts() -> tuple[str, list[str]]:
    """The CPU's name, and which of `FLAGS` it has."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine(), []
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    words = set((fields.get("flags") or fields.get("Features") or "").split())
    family = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    return f"{fields.get('model name', platform.machine())} {family}".strip(), [f for f in FLAGS if f in words]


def has_vnni() -> bool:
    """Whether there is an instruction that adds four products of bytes exactly."""
    return any(flag in cpu_facts()[1] for flag in ("avx_vnni", "avx512_vnni", "asimddp"))


def describe() -> str:
    """The machine and the versions, in two lines."""
    name, flags = cpu_facts()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    packages = ("openvino", "nncf", "onnxruntime", "llvmlite", "numpy")
    versions = ", ".join(f"{p} {version(p)}" for p in packages)
    return f"{name}, {cores} cores ({' '.join(flags)}), {platform.system()}{load}\n{versions}"
