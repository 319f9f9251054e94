"""Every command on real files."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import lpir
from lpir.cli import commands
from lpir.demo.networks import NETWORKS
from tests.cli.conftest import Call, Files, float_network
from tests.tolerances import EXACT, assert_close

NAMES = sorted(commands())
FOLDER = Path(lpir.__file__).parent / "cli"


def test_every_module_is_a_command() -> None:
    modules = {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")}
    assert modules == set(NAMES) == {"bench", "compile", "convert", "demo", "explain", "quantize", "run"}
    for module in commands().values():
        assert callable(module.command)
        assert module.command.__doc__
        assert module.EXAMPLES.strip()


def test_help_lists_all_commands(call: Call) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        outcome = call(*arguments)
        assert outcome.code == 0
        assert not outcome.err
        for name in NAMES:
            assert f"\n  {name} " in outcome.out
        assert outcome.out.count("...") == 1, "a command's first sentence is too long for the list"


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command(name: str, call: Call) -> None:
    outcome = call(name, "--help")
    assert outcome.code == 0
    assert "Examples:" in outcome.out
    examples = [line for line in outcome.out.splitlines() if line.startswith("    lpir ")]
    assert examples
    assert all(line.startswith(f"    lpir {name}") for line in examples)
    assert max(map(len, outcome.out.splitlines())) <= 88


def test_help_knows_all_isas_and_networks(call: Call) -> None:
    isa = importlib.import_module("lpir.devices.cpu.isa")
    text = " ".join(call("run", "--help").out.split())
    assert all(record.name in text for record in isa.all_isas())
    text = " ".join(call("demo", "--help").out.split())
    for name, (module, function) in NETWORKS.items():
        assert name in text
        assert callable(getattr(importlib.import_module(module), function))


def test_version(call: Call) -> None:
    assert call("--version").out == f"lpir {lpir.__version__}\n"


def test_convert(call: Call, files: Files, tmp_path: Path) -> None:
    target = tmp_path / "model.xml"
    outcome = call("convert", files.model, "-o", target)
    assert outcome.code == 0
    assert str(target) in outcome.out
    x = np.load(files.one)
    read = [lpir.compile_model(p, "CPU")(x)[0] for p in (files.model, target)]
    assert_close(read[0], read[1], EXACT)


def test_convert_with_a_shape(call: Call, files: Files, tmp_path: Path) -> None:
    target = tmp_path / "model.xml"
    for shape in ("image=4,3,8,8", "4,3,8,8"):
        assert call("convert", files.folder / "dynamic.onnx", "-o", target, "--shape", shape).code == 0
        assert str(lpir.read_model(target).inputs[0].shape) == "[4,3,8,8]"


def test_convert_to_fp16(call: Call, files: Files, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.xml", tmp_path / "half.xml"
    call("convert", files.model, "-o", whole)
    call("convert", files.model, "-o", half, "--compress-to-fp16")
    assert half.with_suffix(".bin").stat().st_size < 0.7 * whole.with_suffix(".bin").stat().st_size


@pytest.mark.parametrize("kind", ["one", "batch", "named", "picture", "folder"])
def test_quantize(kind: str, call: Call, files: Files, tmp_path: Path) -> None:
    source = getattr(files, kind)
    if kind == "folder":
        (source := tmp_path / "data").mkdir()
        for path in (files.one, files.named, files.picture):
            (source / path.name).write_bytes(path.read_bytes())
    target = tmp_path / "int8.xml"
    outcome = call("quantize", files.model, "--data", source, "-o", target)
    assert outcome.code == 0, outcome.err
    count = {"batch": 6, "folder": 3}.get(kind, 1)
    assert f"from {count} items" in outcome.out
    explanation = lpir.compile_model(target, "CPU").explain()
    assert explanation.counts() == {"INT8": 3}


def test_quantize_leaves_out_what_is_ignored(call: Call, files: Files, tmp_path: Path) -> None:
    target = tmp_path / "int8.xml"
    common = ["quantize", files.model, "--data", files.batch, "-o", target]
    for option in (["--ignore", "conv2"], ["--ignore-pattern", "conv[2-9]"]):
        assert call(*common, *option).code == 0
        rows = {r.name: r.precision for r in lpir.compile_model(target, "CPU").explain()}
        assert (rows["conv1"], rows["conv2"]) == ("INT8", "FP32")
    assert call(*common, "--ignore-type", "Convolution").code == 0
    assert "INT8" not in {r.precision for r in lpir.compile_model(target, "CPU").explain() if r.type == "Convolution"}


def test_run_gives_what_python_gives(call: Call, files: Files, tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    expected = lpir.compile_model(files.int8, "CPU")(np.load(files.one))[0]
    for given in (files.one, f"image={files.one}", files.named):
        outcome = call("run", files.int8, "-i", given, "-o", target)
        assert outcome.code == 0, outcome.err
        assert "scores: float32[1, 5]" in outcome.out
        assert_close(np.load(target)["scores"], expected, EXACT)
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


def test_run_shows_the_largest(call: Call, files: Files) -> None:
    outcome = call("run", files.int8, "-i", files.picture, "--top", 2)
    lines = outcome.out.splitlines()
    assert len(lines) == 3
    assert float(lines[1].split()[1]) >= float(lines[2].split()[1])


def test_run_with_random_inputs_repeats(call: Call, files: Files) -> None:
    first, second = (call("run", files.int8, "--random", "--device", d).out for d in ("CPU", "CPU"))
    assert first == second
    assert call("run", files.int8, "--random", "--device", "REFERENCE", "--as-is").code == 0


def test_run_binds_unnamed_inputs_in_order(call: Call, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Sub", ["a", "b"], ["c"])
    info = {n: onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in "abc"}
    graph = onnx.helper.make_graph([node], "g", [info["a"], info["b"]], [info["c"]])
    onnx.save(onnx.helper.make_model(graph, ir_version=9), tmp_path / "m.onnx")
    for name, value in (("a", 5.0), ("b", 3.0)):
        np.save(tmp_path / f"{name}.npy", np.full(2, value, np.float32))
    common = ["run", tmp_path / "m.onnx", "-i"]
    assert "[2. 2.]" in call(*common, tmp_path / "a.npy", "-i", tmp_path / "b.npy").out
    assert "[-2. -2.]" in call(*common, f"b={tmp_path}/a.npy", "-i", f"a={tmp_path}/b.npy").out


def test_explain(call: Call, files: Files) -> None:
    outcome = call("explain", files.int8)
    first, *rest = outcome.out.splitlines()
    assert first.startswith("CPU (")
    assert "3 of 3 operations run in INT8; none refused" in first
    assert max(map(len, rest)) <= 120
    assert any(line.startswith("  relu") and "in epilogue of" in line for line in rest)
    assert "Computed once" not in outcome.out
    assert "Computed once" in call("explain", files.int8, "--all").out


def test_explain_as_it_stands(call: Call, files: Files) -> None:
    assert "0 of 3 operations run in INT8, 3 in FP32" in call("explain", files.int8, "--as-is").out


def test_explain_as_json(call: Call, files: Files) -> None:
    told = json.loads(call("explain", files.int8, "--json").out)
    assert told["counts"] == {"INT8": 3}
    relu = next(r for r in told["rows"] if r["name"] == "relu")
    assert relu["part_of"] == "conv1"


def test_explain_says_why_not(call: Call, tmp_path: Path) -> None:
    """A FakeQuantize with 1000 levels cannot become codes."""
    model = lpir.convert_model(save(float_network(), tmp_path / "m.onnx"))
    quantized = lpir.quantize(model, [np.ones((1, 3, 8, 8), np.float32)], compress_weights=False)
    lpir.save_model(quantized, tmp_path / "m.xml")
    text = (tmp_path / "m.xml").read_text()
    (tmp_path / "m.xml").write_text(text.replace('levels="256"', 'levels="1000"'))
    outcome = call("explain", tmp_path / "m.xml", "--refused")
    assert outcome.code == 0
    assert "1000" in outcome.out
    assert "refused" in outcome.out.splitlines()[0]
    assert "[1]" in call("explain", tmp_path / "m.xml").out


def test_explain_of_a_dynamic_model(call: Call, files: Files) -> None:
    outcome = call("explain", files.folder / "dynamic.onnx")
    assert outcome.code == 2
    assert "--shape" in outcome.err
    assert call("explain", files.folder / "dynamic.onnx", "-s", "2,3,8,8").code == 0


def test_bench(call: Call, files: Files) -> None:
    outcome = call("bench", files.int8, "--seconds", "0.02", "--threads", "1", "--layers", "--isa", "generic")
    assert outcome.code == 0, outcome.err
    for word in (
        "device      CPU: ",
        "ISA generic, threads 1",
        "3 of 3 run in INT8",
        "compile",
        "median",
        "inferences/s",
    ):
        assert word in outcome.out
    assert "conv1" in outcome.out.partition("share")[2]


def test_bench_in_batches(call: Call, files: Files) -> None:
    outcome = call("bench", files.folder / "dynamic.onnx", "-s", "4,3,8,8", "--seconds", "0.02", "-c", "NUM_STREAMS=2")
    assert "items/s in batches of 4" in outcome.out
    assert "streams 2" in outcome.out
    assert "inferences/s" in outcome.out
    assert call("bench", files.folder / "dynamic.onnx", "--seconds", "0.02").code == 0
    assert call("bench", files.int8, "--seconds", "0.02", "--device", "REFERENCE").code == 0


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path
