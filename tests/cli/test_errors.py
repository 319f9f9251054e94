"""Wrong input ends in exit code 2 and one line that names the cause."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import lpir
from tests.cli.conftest import Call, Files, Outcome

PYTHON = [sys.executable, "-m", "lpir"]


def check(outcome: Outcome, *words: object) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("lpir: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    for word in words:
        assert str(word) in outcome.err


USAGE = {
    "no such command": (["frobnicate"], ["No such command 'frobnicate'", "lpir --help"]),
    "no such option": (["run", "m.xml", "--frob"], ["--frob", "lpir run --help"]),
    "no model": (["run"], ["MODEL"]),
    "no output": (["convert", "m.onnx"], ["--output"]),
    "no data": (["quantize", "m.onnx", "-o", "q.xml"], ["--data"]),
    "threads below 0": (["run", "m.xml", "--threads", "-1"], ["--threads"]),
    "threads in words": (["run", "m.xml", "--threads", "many"], ["--threads"]),
    "no time": (["bench", "m.xml", "--seconds", "0"], ["--seconds"]),
    "subset of none": (["quantize", "m.onnx", "--data", "d", "-o", "q.xml", "--subset-size", "0"], ["--subset-size"]),
    "one argument too many": (["explain", "m.xml", "n.xml"], ["n.xml"]),
    "unknown network": (["demo", "--network", "alexnet"], ["alexnet", "mobilenet_v2", "efficientnet_lite0"]),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE)
def test_usage(arguments: list[str], words: list[str], call: Call) -> None:
    check(call(*arguments), *words)


@pytest.mark.parametrize("command", ["run", "explain", "bench"])
def test_model_files(command: str, call: Call, tmp_path: Path) -> None:
    contents = {"a.xml": b"<net", "b.onnx": b"garbage" * 9, "c.tflite": b"", "d": b"", "e.xml": b"", "f.onnx": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in contents:
        check(call(command, tmp_path / name), name)
    check(call(command, tmp_path / "gone.xml"), "gone.xml", "no such file")
    check(call(command, tmp_path / "gone.onnx"), "gone.onnx", "no such file")
    check(call(command, tmp_path), tmp_path, "folder")


RUN = {
    "no input": ([], ["image=f32[1,3,8,8]", "--input", "--random"]),
    "wrong name": (["-i", "picture={one}"], ["'picture'", "'image'"]),
    "wrong shape": (["-i", "{folder}/tall.npy"], ["image", "[1, 3, 9, 8]"]),
    "wrong type": (["-i", "{folder}/text.npy"], ["image", "<U1", "float32"]),
    "no batch dimension": (["-i", "{folder}/flat.npy"], ["batch dimension", "array[None]"]),
    "too many inputs": (["-i", "{one}", "-i", "{one}"], ["only 1 inputs"]),
    "input given twice": (["-i", "image={one}", "-i", "image={one}"], ["'image'", "twice"]),
    "no such data": (["-i", "gone.npy"], ["gone.npy", "no such file"]),
    "a folder as data": (["-i", "{folder}"], ["not a file"]),
    "no such picture": (["-i", "gone.png"], ["gone.png", "no such file"]),
    "unknown data": (["-i", "{folder}/notes.txt"], ["notes.txt", ".npy"]),
    "damaged npy": (["-i", "{folder}/bad.npy"], ["bad.npy", "NumPy"]),
    "damaged npz": (["-i", "{folder}/bad.npz"], ["bad.npz", "NumPy"]),
    "objects": (["-i", "{folder}/objects.npy"], ["objects.npy", "NumPy"]),
    "damaged picture": (["-i", "{folder}/bad.png"], ["bad.png", "picture"]),
    "unknown device": (["--random", "--device", "TPU"], ["'TPU'", "CPU", "REFERENCE"]),
    "absent device": (["--random", "--device", "GPU"], ["GPU", "not available"]),
    "unknown ISA": (["--random", "--isa", "mmx"], ["'mmx'", "avx2"]),
    "unknown property": (["--random", "-c", "SPEED=9"], ["'SPEED'", "NUM_STREAMS"]),
    "wrong value of a property": (["--random", "-c", "NUM_STREAMS=many"], ["NUM_STREAMS", "'many'", "integer"]),
    "property without value": (["--random", "-c", "NUM_STREAMS"], ["NAME=VALUE"]),
    "shape in words": (["--random", "-s", "1,3,tall,8"], ["'tall'"]),
    "shape of nothing": (["--random", "-s", "picture=1,3,8,8"], ["'picture'", "image"]),
    "shape that does not fit": (["--random", "-s", "1,4,8,8"], ["conv1", "4", "3"]),
    "output of another type": (["--random", "-o", "out.txt"], ["out.txt", ".npz"]),
    "output nowhere": (["--random", "-o", "gone/out.npz"], ["gone", "does not exist"]),
    "output below a file": (["--random", "-o", "{one}/out.npz"], ["one.npy", "not a folder"]),
}


@pytest.fixture(scope="module")
def bad(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    np.save(folder / "tall.npy", np.zeros((1, 3, 9, 8), np.float32))
    np.save(folder / "flat.npy", np.zeros((3, 8, 8), np.float32))
    np.save(folder / "text.npy", np.array(["a", "b"]))
    np.save(folder / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save(folder / "nan.npy", np.full((1, 3, 8, 8), np.nan, np.float32))
    np.savez(folder / "wrong.npz", picture=np.zeros((1, 3, 8, 8), np.float32))
    (folder / "notes.txt").write_text("1 2 3")
    (folder / "bad.npy").write_bytes(files.one.read_bytes()[:200])
    (folder / "bad.npz").write_bytes(files.named.read_bytes()[:200])
    (folder / "bad.png").write_bytes(files.picture.read_bytes()[:40])
    return folder


@pytest.mark.parametrize(("arguments", "words"), RUN.values(), ids=RUN)
def test_run(arguments: list[str], words: list[str], call: Call, files: Files, bad: Path) -> None:
    filled = [a.format(one=files.one, folder=bad) for a in arguments]
    check(call("run", files.int8, *filled), *words)


QUANTIZE = {
    "NaN": (["{folder}/nan.npy"], ["item 0", "image", "192 values are NaN"]),
    "wrong shape": (["{folder}/tall.npy"], ["item 0", "image", "[1, 3, 9, 8]"]),
    "wrong type": (["{folder}/text.npy"], ["item 0", "<U1"]),
    "wrong name": (["{folder}/wrong.npz"], ["item 0", "'image'", "'picture'"]),
    "empty folder": (["{folder}/empty"], ["--data", "empty"]),
    "nothing there": (["{folder}/gone"], ["gone", "no such file"]),
    "unknown preset": (["{one}", "--preset", "wild"], ["'wild'", "performance", "mixed"]),
    "unknown kind of model": (["{one}", "--model-type", "forest"], ["forest"]),
    "nothing to ignore": (["{one}", "--ignore", "conv9"], ["conv9"]),
    "bad pattern": (["{one}", "--ignore-pattern", "("], ["regular expression"]),
}


@pytest.mark.parametrize(("arguments", "words"), QUANTIZE.values(), ids=QUANTIZE)
def test_quantize(arguments: list[str], words: list[str], call: Call, files: Files, bad: Path, tmp_path: Path) -> None:
    (bad / "empty").mkdir(exist_ok=True)
    filled = [a.format(one=files.one, folder=bad) for a in arguments]
    target = tmp_path / "q.xml"
    target.write_text("old")
    check(call("quantize", files.model, "-o", target, "--data", *filled), *words)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("q.xml", "old")]


def test_quantize_twice(call: Call, files: Files, tmp_path: Path) -> None:
    check(call("quantize", files.int8, "--data", files.one, "-o", tmp_path / "q.xml"), "quantized already")


@pytest.mark.parametrize(
    ("output", "word"),
    [("out.bin", ".xml"), ("gone/out.xml", "does not exist"), ("file/out.xml", "not a folder"), ("dir.xml", "folder")],
)
def test_targets_are_checked_before_the_work(output: str, word: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir.xml").mkdir()
    for command in (["convert", "gone.onnx"], ["quantize", "gone.onnx", "--data", "gone"]):
        check(call(*command, "-o", tmp_path / output), output.partition("/")[0], word)


def refuse(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("step", ["replace", "open"])
def test_read_only_targets(
    step: str, call: Call, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who can write everywhere: the system's answer is imitated."""
    for name in ("m.xml", "m.bin", "out.npz"):
        (tmp_path / name).write_text("old")
    real: Callable[..., object] = open

    def no_new_files(path: object, mode: str = "r", *rest: object, **more: object) -> object:
        return refuse() if "x" in mode else real(path, mode, *rest, **more)

    if step == "replace":
        monkeypatch.setattr(os, "replace", refuse)
    else:
        monkeypatch.setattr("builtins.open", no_new_files)
    check(call("convert", files.model, "-o", tmp_path / "m.xml"), "m.xml", "Read-only")
    outcome = call("run", files.int8, "--random", "-o", tmp_path / "out.npz")
    assert outcome.code == 2
    assert "out.npz" in outcome.err
    assert "Read-only" in outcome.err
    monkeypatch.undo()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(("m.xml", "m.bin", "out.npz"), "old")


def test_folder_without_permission(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    check(call("convert", "gone.onnx", "-o", tmp_path / "m.xml"), "not writable")


def test_demo_into_a_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    check(call("demo", "-o", tmp_path / "file"), "file", "folder")


def test_several_lines_become_one(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise lpir.UnsupportedError("2 operators are not supported:\n  Foo\n  Bar")

    monkeypatch.setattr(lpir, "convert_model", fail)
    assert call("explain", "m.onnx").err == "lpir: 2 operators are not supported: Foo Bar\n"


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("for [1,2]"), 2, "memory"),
        (OSError(28, "full"), 2, "full"),
    ],
    ids=["interrupt", "memory", "disk"],
)
def test_other_ends(error: BaseException, code: int, word: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(lpir, "convert_model", fail)
    outcome = call("explain", "m.onnx")
    assert outcome.code == code
    assert outcome.err.startswith("lpir: ")
    assert word in outcome.err


def test_a_bug_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what lpir knows about becomes one line."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lpir, "convert_model", fail)
    with pytest.raises(ZeroDivisionError):
        lpir.cli.main(["explain", "m.onnx"])


def test_reader_that_goes_away(files: Files) -> None:
    """As in `lpir explain ... | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PYTHON, "explain", str(files.int8)], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGPIPE


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Processes started meanwhile do not ignore SIGINT, as they would in a job that a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_interrupt_of_a_process(files: Files) -> None:
    command = [*PYTHON, "bench", str(files.int8), "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "first run" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "lpir: interrupted\n")


def test_help_is_light() -> None:
    """Help needs neither NumPy nor LLVM: it comes at once."""
    code = (
        "import sys, lpir.cli\n"
        "try: lpir.cli.main(['--help'])\n"
        "finally: print(' '.join(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & {"numpy", "llvmlite", "onnx", "rich", "PIL"}
    assert "explain" in done.stdout
