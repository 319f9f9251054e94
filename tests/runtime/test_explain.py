"""What explain() prints."""

from __future__ import annotations

import json

import pytest

from lpir.runtime.explain import WIDTH, Explanation, Row

ROWS = (
    Row("input/fq", "FakeQuantize", "INT8", "elementwise"),
    Row("conv1/weights", "Multiply", "-", "folded"),
    Row("conv1", "Convolution", "INT8", "igemm"),
    Row("conv1/bias", "Add", "FP32", "in epilogue of igemm", part_of="conv1"),
    Row("flat", "Reshape", "INT8", "alias"),
    Row("fc", "MatMul", "FP32", "fgemm", ("the weights have 1000 levels",)),
    Row("other", "MatMul", "FP32", "fgemm", ("the weights have 1000 levels", "the input is not quantized")),
    Row("ids", "ShapeOf", "I64", "eval"),
)
EXPLANATION = Explanation("CPU (avx2)", ROWS)


def test_summary_counts_what_computes() -> None:
    assert EXPLANATION.counts() == {"INT8": 1, "FP32": 2, "I64": 1}
    assert EXPLANATION.summary() == (
        "CPU (avx2): 1 of 4 operations run in INT8, 2 in FP32, 1 in I64; 2 refused; "
        "1 more inside their kernels; 1 folded"
    )
    assert Explanation("CPU (avx2)", ROWS[2:3]).summary() == "CPU (avx2): 1 of 1 operations run in INT8; none refused"
    assert Explanation("CPU (avx2)", ()).summary() == "CPU (avx2): nothing to run; none refused"
    assert Explanation("CPU (avx2)", ()).text() == Explanation("CPU (avx2)", ()).summary()


def test_reasons_are_grouped() -> None:
    assert {why: [r.name for r in rows] for why, rows in EXPLANATION.reasons().items()} == {
        "the weights have 1000 levels": ["fc", "other"],
        "the input is not quantized": ["other"],
    }
    lines = EXPLANATION.text().splitlines()
    assert lines[0] == EXPLANATION.summary()
    assert lines[2:4] == ["  [1] the weights have 1000 levels: 2 MatMul", "  [2] the input is not quantized: 1 MatMul"]
    assert next(line for line in lines if line.startswith("other")).split() == [
        "other",
        "MatMul",
        "FP32",
        "[1]",
        "[2]",
        "fgemm",
    ]


def test_what_runs_inside_is_indented_below() -> None:
    lines = EXPLANATION.text().splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith("conv1 "))
    assert lines[index + 1].split() == ["conv1/bias", "Add", "in", "epilogue", "of", "igemm"]
    assert lines[index + 1].startswith("  conv1/bias")


def test_folded_operations_are_shown_when_asked_for() -> None:
    assert "conv1/weights" not in str(EXPLANATION)
    assert "conv1/weights" in EXPLANATION.text(folded=True).partition("Computed once")[2]


@pytest.mark.parametrize("width", [70, 80, WIDTH])
def test_width(width: int) -> None:
    """A long name loses its middle; its end tells it from its neighbors."""
    name = "/".join(f"layer.{i}" for i in range(30))
    rows = (Row(name, "Convolution", "INT8", "igemm"), Row(f"{name}/bias", "Add", "FP32", "in epilogue of igemm"))
    table = Explanation("CPU", rows).text(width=width).splitlines()[1:]
    assert max(map(len, table)) <= width
    assert "…" in table[3]
    assert "layer.29/bias" in table[4]


def test_refused_alone() -> None:
    text = EXPLANATION.refused_text()
    assert text.splitlines()[0] == EXPLANATION.summary()
    assert "the weights have 1000 levels:" in text
    assert "conv1" not in text


def test_json() -> None:
    told = json.loads(json.dumps(EXPLANATION.to_dict()))
    assert told["counts"] == {"INT8": 1, "FP32": 2, "I64": 1}
    assert told["refused"] == 2
    assert told["rows"][3]["part_of"] == "conv1"
