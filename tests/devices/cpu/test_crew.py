"""Threads that compile: everything once, the longest first, errors reach the caller."""

from __future__ import annotations

import threading

import pytest

from lpir.devices.cpu.codegen.crew import Crew


def test_all_texts_are_compiled_once_with_any_number_of_threads() -> None:
    for size in (1, 2, 5):
        crew = Crew(lambda text: text.encode(), size)
        for number in range(20):
            crew.add(f"f{number}", "x" * number)
        assert crew.finish() == {f"f{n}": b"x" * n for n in range(20)}


def test_the_longest_waiting_text_comes_first() -> None:
    order: list[str] = []
    begun, may_go_on = threading.Event(), threading.Event()

    def compile(text: str) -> bytes:
        order.append(text)
        begun.set()
        may_go_on.wait()
        return b""

    crew = Crew(compile, 1)
    crew.add("first", "a")
    begun.wait()
    for text in ("bb", "dddd", "ccc"):
        crew.add(text, text)
    may_go_on.set()
    crew.finish()
    assert order == ["a", "dddd", "ccc", "bb"]


def test_errors_reach_the_caller_and_no_thread_stays() -> None:
    def compile(text: str) -> bytes:
        raise ValueError(text)

    crew = Crew(compile, 2)
    crew.add("f", "why")
    with pytest.raises(ValueError, match="why"):
        crew.finish()
    assert not [t for t in threading.enumerate() if t.name == "lpir-compile"]


def test_without_work_nothing_is_made() -> None:
    assert Crew(lambda text: b"", 2).finish() == {}
