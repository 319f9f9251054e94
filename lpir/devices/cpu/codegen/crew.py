"""Threads that compile texts while their caller prints more of them; at the end the caller compiles too.

Not `concurrent.futures`: importing it takes as long as compiling a kernel, and the longest text goes first here, so
that all threads end at nearly the same time.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from threading import Condition, Thread


class Crew:
    """`size` threads, started as there is work, that call `compile(text)`."""

    def __init__(self, compile: Callable[[str], bytes], size: int) -> None:
        self._compile, self._size = compile, size
        self._changed = Condition()
        self._waiting: dict[str, str] = {}
        self._ending = False
        self._threads: list[Thread] = []
        self._made: dict[str, bytes] = {}
        self._errors: list[BaseException] = []

    def add(self, symbol: str, text: str) -> None:
        """Has `text` compiled."""
        with self._changed:
            self._waiting[symbol] = text
            self._changed.notify()
        if len(self._threads) < self._size:
            # whoever gives up planning leaves threads behind, and the interpreter must not end under them
            atexit.register(self.finish)
            self._threads.append(Thread(target=self._serve, name="lpir-compile", daemon=True))
            self._threads[-1].start()

    def finish(self) -> dict[str, bytes]:
        """What was compiled, by symbol; the threads are gone then. Raises what `compile` raised."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._serve()
        for thread in self._threads:
            thread.join()
        atexit.unregister(self.finish)
        if self._errors:
            raise self._errors[0]
        return self._made

    def _serve(self) -> None:
        while (job := self._take()) is not None:
            symbol, text = job
            try:
                self._made[symbol] = self._compile(text)
            except BaseException as error:
                self._errors.append(error)

    def _take(self) -> tuple[str, str] | None:
        """The longest text that nobody has begun; None when there will be no more."""
        with self._changed:
            while not self._waiting and not self._ending:
                self._changed.wait()
            if not self._waiting:
                return None
            symbol = max(self._waiting, key=lambda s: len(self._waiting[s]))
            return symbol, self._waiting.pop(symbol)
