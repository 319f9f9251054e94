"""`lpir compile`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import lpir
from tests.cli.conftest import Call
from tests.passes.networks import mobile_block
from tests.tolerances import EXACT, assert_close


def test_a_library_and_its_header(call: Call, tmp_path: Path) -> None:
    lpir.save_model(mobile_block(), tmp_path / "block.xml")
    outcome = call("compile", str(tmp_path / "block.xml"), "-o", str(tmp_path / "2 nets.so"))
    assert outcome.code == 0, outcome.err
    assert "functions model_2_nets_*" in outcome.out
    assert "model_2_nets_run(" in (tmp_path / "2 nets.h").read_text()
    x = np.ones((1, 3, 8, 8), np.float32)
    expected = lpir.compile_model(tmp_path / "block.xml", "CPU")([x])[0]
    assert_close(lpir.Core().import_model(tmp_path / "2 nets.so")([x])[0], expected, EXACT)


def test_a_prefix_and_an_instruction_set(call: Call, tmp_path: Path) -> None:
    lpir.save_model(mobile_block(), tmp_path / "block.xml")
    options = ("--prefix", "my-net", "--isa", "generic", "-o", str(tmp_path / "a.so"))
    outcome = call("compile", str(tmp_path / "block.xml"), *options)
    assert outcome.code == 0, outcome.err
    assert b"my_net_create\0" in (tmp_path / "a.so").read_bytes()
    assert lpir.Core().import_model(tmp_path / "a.so").get_property("ISA") == "generic"


def test_a_library_for_another_machine(call: Call, tmp_path: Path) -> None:
    lpir.save_model(mobile_block(), tmp_path / "block.xml")
    outcome = call("compile", str(tmp_path / "block.xml"), "--isa", "neon_i8mm", "-o", str(tmp_path / "arm.so"))
    assert outcome.code == 0, outcome.err
    assert "for neon_i8mm, functions arm_*" in outcome.out
    assert "arm_run(" in (tmp_path / "arm.h").read_text()


def test_what_cannot_be_written_is_said_first(call: Call, tmp_path: Path) -> None:
    lpir.save_model(mobile_block(), tmp_path / "block.xml")
    for name in ("a.dll", "missing/a.so"):
        outcome = call("compile", str(tmp_path / "block.xml"), "-o", str(tmp_path / name))
        assert outcome.code == 2
        assert "--output" in outcome.err
