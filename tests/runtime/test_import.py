"""`import lpir` is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lpir

HEAVY = ("llvmlite", "onnx", "rich", "typer", "scipy", "numpy", "lpir.ops", "lpir.devices", "PIL")


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_heavy() -> None:
    found = fresh(f"import sys, lpir; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert found.strip() == "[]"


def test_import_is_fast() -> None:
    code = "import time; t = time.perf_counter(); import lpir; print(time.perf_counter() - t)"
    assert min(float(fresh(code)) for _ in range(3)) < 0.15


def test_every_public_name_exists() -> None:
    assert all(getattr(lpir, name) is not None for name in dir(lpir))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lpir.nothing


def test_quantize_is_a_function_whatever_was_imported_first() -> None:
    for first in ("import lpir", "from lpir.quantize.dataset import Dataset", "from lpir import quantize"):
        assert fresh(f"{first}; import lpir; print(callable(lpir.quantize))").strip() == "True"
