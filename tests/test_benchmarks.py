"""What the comparison with peers counts and prints, without a clock."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.report import Contender, Setting, best, speed_table, summary_row
from benchmarks.rounds import Times, measure, one_by_one, side_by_side

ENGINES = [
    Contender("lpir FP32", "lpir", "FP32", False),
    Contender("lpir INT8", "lpir", "INT8", False),
    Contender("lpir, own quantizer, INT8", "lpir, own quantizer,", "INT8", False),
    Contender("Fast INT8", "Fast", "INT8", True),
    Contender("Right INT8", "Right", "INT8", False),
    Contender("Fast FP32", "Fast", "FP32", False),
]


def setting(threads: int = 1, streams: int = 1) -> Setting:
    times = {e.name: Times([ms, ms], ms) for e, ms in zip(ENGINES, (8.0, 2.0, 1.0, 3.0, 5.0, 6.0), strict=True)}
    return Setting(threads, streams, times)


def test_the_summary_names_the_best_peers_and_the_best_exact_one() -> None:
    row = summary_row("Net", ENGINES, setting(2))
    assert row[:4] == ["Net", "2 threads", "2.00 (2.00)", "8.00 (8.00)"]
    assert row[4].startswith("1.50x Fast ")
    assert row[5].startswith("2.50x Right ")
    assert row[6].startswith("0.75x Fast ")
    assert row[7] == "4.00x"
    assert best(ENGINES, setting()).name == "lpir, own quantizer, INT8"
    saturating = [e for e in ENGINES if e.name != "Right INT8"]
    assert summary_row("Net", saturating, setting())[5] == ""


def test_streams_are_shown_as_inferences_a_second() -> None:
    table = speed_table(ENGINES, [setting(), setting(2, 2)])
    assert "| lpir INT8 | 2.00 (2.00) |  | 500/s |  |" in table
    assert "| Right INT8 | 5.00 (5.00) | 2.50x | 200/s | 2.50x |" in table


def test_every_engine_runs_in_every_round() -> None:
    calls: list[str] = []
    runs: dict[str, Callable[[], None]] = {name: lambda name=name: calls.append(name) for name in "ab"}  # type: ignore[misc]
    times = measure(runs, one_by_one, rounds=3, burst_ms=0.1)
    assert [len(times[name].rounds) for name in "ab"] == [3, 3]
    assert all(times[name].best <= times[name].median for name in "ab")
    order = [a for a, b in zip(calls, ["", *calls], strict=False) if a != b]
    assert order == ["a", "b", "a", "b"]


def test_streams_run_side_by_side() -> None:
    counts = [0, 0]

    def work(me: int) -> None:
        counts[me] += 1

    times = measure({"engine": [lambda: work(0), lambda: work(1)]}, side_by_side, rounds=2, burst_ms=1)
    assert len(times["engine"].rounds) == 2
    assert min(counts) > 2
    assert times["engine"].best > 0
