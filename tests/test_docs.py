"""What the documents claim is run."""

from __future__ import annotations

import difflib
import re
import runpy
from pathlib import Path

import pytest

from lpir.cli import commands, main
from scripts import generate_docs

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
    names = re.findall(
        r"`((?:lpir|tests|benchmarks|docs|examples|scripts|passes|devices|ops|scalar|frontends)/[\w./*]+)`", text
    )
    for name in names:
        found = [*ROOT.glob(name.rstrip("/")), *(ROOT / "lpir").glob(name.rstrip("/"))]
        assert found, f"{path.name} names {name}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / link).exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize(
    "path", [p for p in ROOT.rglob("*") if p.suffix in (".py", ".md", ".toml")], ids=lambda p: p.name
)
def test_no_path_of_a_machine(path: Path) -> None:
    if ".venv" in path.parts:
        return
    assert not re.search(r"(?<![\w.])/(?:work|home|root)/\w+", path.read_text())


def command_lines() -> list[str]:
    """Every `lpir ...` that a document or an example of the help shows, without its explanation."""
    texts = [path.read_text() for path in DOCUMENTS] + [module.EXAMPLES for module in commands().values()]
    found = [line for text in texts for line in re.findall(r"(?:^|`|&& )(lpir [a-z][^`\n|]*)", text, re.MULTILINE)]
    return sorted({re.split(r"\s{3,}", line)[0].strip() for line in found})


@pytest.mark.parametrize("line", command_lines())
def test_shown_commands_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, name, *rest = line.split()
    assert name in commands(), line
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    for option in rest:
        assert not option.startswith("-") or re.search(rf"(?<!\S){option}\b", text), f"{name} has no {option}"


def test_operations_are_the_registered_ones(golden: bool) -> None:
    text = generate_docs.text()
    if golden:
        generate_docs.TARGET.write_text(text)
    written = generate_docs.TARGET.read_text().splitlines()
    changes = list(difflib.unified_diff(written, text.splitlines(), "written", "now", n=0, lineterm=""))
    assert not changes, "run `python -m scripts.generate_docs`:\n" + "\n".join(changes[:20])
