"""What the documents claim is run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_readme_is_short() -> None:
    assert README.count("\n") <= 150


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0][:40])
def test_readme_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "example.py"
    script.write_text(code)
    runpy.run_path(str(script))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_named_files_exist(path: Path) -> None:
    """Every file of the project that a document names in backticks or links is there."""
    text = path.read_text()
    names = re.findall(r"`((?:lpir|tests|benchmarks|docs|passes|devices|ops|scalar|frontends)/[\w./*]+)`", text)
    for name in names:
        found = [*ROOT.glob(name.rstrip("/")), *(ROOT / "lpir").glob(name.rstrip("/"))]
        assert found, f"{path.name} names {name}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / link).exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", [p for p in ROOT.rglob("*") if p.suffix in (".py", ".md", ".toml")], ids=lambda p: p.name)
def test_no_path_of_a_machine(path: Path) -> None:
    if ".venv" in path.parts:
        return
    assert not re.search(r"(?<![\w.])/(?:work|home|root)/\w+", path.read_text())
