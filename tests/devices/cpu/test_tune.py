"""TUNE: options are measured, the answers are remembered, and no choice changes a bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import lpir
from lpir.devices.cpu import tune
from lpir.devices.cpu.isa import Isa, all_isas, by_name
from lpir.devices.cpu.tune import Trial, Tuning, float_twin
from tests.passes.networks import mobile_block
from tests.tolerances import EXACT, assert_close

# those whose products have a choice of tiles
ISAS = [isa.name for isa in all_isas() if isa.available() and isa.exact and not isa.tiles and isa.pair_dot is None]
X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def last_is_best(trials: Sequence[Trial], isa: Isa) -> list[float]:
    return [1.0 / (1 + i) for i in range(len(trials))]


def symbols(compiled: lpir.CompiledModel) -> list[str]:
    plan = compiled.executable.plan  # type: ignore[attr-defined]
    return [step.code.symbol for segment in plan.segments for step in segment.steps]


@pytest.mark.parametrize("isa", ISAS)
def test_another_tile_gives_the_same_bits(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "race", last_is_best)
    plain, tuned = (lpir.compile_model(mobile_block(), "CPU", {"ISA": isa, "TUNE": on}) for on in (False, True))
    assert symbols(tuned) != symbols(plain)
    assert_close(tuned([X])[0], plain([X])[0], EXACT)


@pytest.mark.parametrize("threads", [1, 2])
def test_options_are_measured(threads: int) -> None:
    tuning = Tuning(by_name(ISAS[-1]), threads)
    plan = lpir.compile_model(mobile_block(), "CPU", {"ISA": ISAS[-1]}).executable.plan  # type: ignore[attr-defined]
    node, choice = next((n, c) for n, c in plan.choices.values() if c.name == "igemm_convolution")
    trial = Trial(node, choice.kernel, tuning.isa, threads, {})
    ((question, options),) = trial.asked.items()
    assert len(options) > 1
    times = tune.race([trial, Trial(node, choice.kernel, tuning.isa, threads, {question: options[1]})], tuning.isa)
    assert len(times) == 2
    assert all(0 < t < 1 for t in times)
    tuning.learn(node, choice.kernel)
    assert tuning.answers[question] in options


def test_answers_outlive_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "race", last_is_best)
    config = {"ISA": ISAS[-1], "INFERENCE_NUM_THREADS": 1, "TUNE": True, "CACHE_DIR": str(tmp_path)}
    lpir.compile_model(mobile_block(), "CPU", config)
    (file,) = tmp_path.glob("tuned-*.json")
    assert file.name == f"tuned-{ISAS[-1]}-1.json"
    answers = json.loads(file.read_text())
    assert answers

    def refuse(trials: Sequence[Trial], isa: Isa) -> list[float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(tune, "race", refuse)
    for model in tmp_path.glob("*.so"):
        model.unlink()
    again = lpir.compile_model(mobile_block(), "CPU", config)
    assert not again.get_property("LOADED_FROM_CACHE")
    assert json.loads(file.read_text()) == answers
    # a compiled model with other tiles is another entry
    assert not lpir.compile_model(mobile_block(), "CPU", config | {"TUNE": False}).get_property("LOADED_FROM_CACHE")


def test_explain_says_where_float_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "race", last_is_best)
    found = {r.name: r for r in lpir.compile_model(mobile_block(), "CPU", {"TUNE": True}).explain()}
    for name in ("conv2", "depthwise", "fc"):
        assert found[name].kernel.endswith("(1000000 us, FP32 takes 500000)")
        assert found[name].precision == "INT8"
    monkeypatch.setattr(tune, "race", lambda trials, isa: [1.0] * len(trials))
    explanation = lpir.compile_model(mobile_block(), "CPU", {"TUNE": True}).explain()
    assert "FP32 takes" not in str(explanation)


def test_a_product_of_codes_has_a_twin_in_float() -> None:
    lowered = lpir.compile_model(mobile_block(), "CPU").get_runtime_model()
    twins = {n.name: float_twin(n) for n in lowered.nodes()}
    twin = twins["conv2"]
    assert twin is not None
    assert [v.shape.to_static() for v in (*twin.inputs, *twin.outputs)] == [
        (1, 8, 8, 16), (3, 3, 16, 16), (1, 8, 8, 16)
    ]  # fmt: skip
    assert {str(v.element_type) for v in (*twin.inputs, *twin.outputs)} == {"f32"}
    assert twins["x"] is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"igemm": "Tile(rows=99, vectors=99)"}'])
def test_what_is_no_answer_is_ignored(content: str, tmp_path: Path) -> None:
    isa = by_name(ISAS[-1])
    (tmp_path / f"tuned-{isa.name}-1.json").write_text(content)
    tuning = Tuning(isa, 1, tmp_path)
    assert tuning.pick("igemm", ["first", "second"]) == "first"
    tuning.answers["igemm"] = "second"
    assert tuning.pick("igemm", ["first", "second"]) == "second"
    assert tuning.pick("other", ["first", "second"]) == "first"
