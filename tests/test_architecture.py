"""The arrows, the sizes and the names: what keeps the house a house."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "lpir"
MODULES = sorted(ROOT.rglob("*.py"))
OUTSIDE = {"api", "cli", "viz", "demo"}
CORE = {"errors", "record"}

# which unit may import which; every unit may import itself and CORE
MAY_IMPORT = {
    "errors": set(),
    "record": set(),
    "ir": set(),
    "scalar": {"ir"},
    "ops": {"ir", "scalar"},
    "runtime": {"ir"},
    "serialize": {"ir", "ops"},
    "frontends": {"ir", "ops", "passes"},
    "passes": {"ir", "ops", "scalar"},
    "quantize": {"ir", "ops", "passes", "runtime"},
    "devices": {"ir", "ops", "scalar", "passes", "runtime"},
}
# scalar needs the element types and nothing else of ir
NARROW = {("scalar", "ir"): {"lpir.ir.types"}}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_FILE, MAX_FUNCTION = 500, 60


def unit_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Every lpir module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "lpir"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.split(".")[0] == "lpir":
                found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    unit = parts[0].removesuffix(".py")
    if unit in OUTSIDE or unit in ("__init__", "__main__"):
        return
    allowed = MAY_IMPORT[unit] | CORE | {unit}
    for module in imports(path):
        target = unit_of(module)
        assert target in allowed, f"{path.relative_to(ROOT)} imports {module}: {unit} may import {sorted(allowed)}"
        narrow = NARROW.get((unit, target))
        assert narrow is None or module in narrow, f"{path.relative_to(ROOT)} imports {module}, not one of {narrow}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes_and_names(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE, "which two things are in this file?"
    assert path.stem not in BANNED_NAMES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"


def test_devices_are_imported_by_nobody() -> None:
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] != "devices":
            assert not [m for m in imports(path) if m.startswith("lpir.devices")], path


def test_import_is_light() -> None:
    """`import lpir` brings in no heavy library."""
    code = "import sys, lpir; print(' '.join(m for m in sys.modules if '.' not in m))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"llvmlite", "onnx", "rich", "typer", "PIL", "openvino", "torch", "scipy", "google"}
