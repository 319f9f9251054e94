"""A pool of requests that run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Condition
from typing import Any

from lpir.errors import InputError
from lpir.runtime.session import CompiledModel, InferRequest


class AsyncInferQueue:
    """`jobs` requests of a model (0: as many as the device advises); `start_async` takes the next idle one, and waits
    while there is none. Raises InputError for a negative number.
    """

    def __init__(self, model: CompiledModel, jobs: int = 0) -> None:
        if jobs < 0:
            raise InputError(
                f"a queue of {jobs} requests cannot run anything; 0 takes the number that suits the device"
            )
        count = jobs or int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.requests = [model.create_infer_request() for _ in range(count)]
        self._idle = list(range(count))
        self._done = Condition()
        self._callback: Callable[[InferRequest, Any], Any] | None = None
        self._errors: list[BaseException] = []
        for index, request in enumerate(self.requests):
            request.set_callback(self._finish, index)

    def set_callback(self, callback: Callable[[InferRequest, Any], Any]) -> None:
        """`callback(request, userdata)` is called after each inference, before its request is used again."""
        self._callback = callback

    def start_async(self, inputs: Any = None, userdata: Any = None) -> None:
        """Starts an inference in an idle request. Raises InputError when the inputs do not fit."""
        with self._done:
            self._done.wait_for(lambda: bool(self._idle))
            index = self._idle.pop(0)
        try:
            self.requests[index].start_async(inputs, (index, userdata))
        except BaseException:
            self._release(index)
            raise

    def wait_all(self) -> None:
        """Returns when all requests are idle. Raises the first error of a callback or an inference."""
        with self._done:
            self._done.wait_for(lambda: len(self._idle) == len(self.requests))
        if self._errors:
            error, self._errors = self._errors[0], []
            raise error

    def is_ready(self) -> bool:
        """Whether a request is idle."""
        with self._done:
            return bool(self._idle)

    def _finish(self, userdata: Any) -> None:
        index, own = userdata
        self.requests[index].userdata = own
        try:
            error = self.requests[index].failure()
            if error is not None:
                raise error
            if self._callback is not None:
                self._callback(self.requests[index], own)
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._release(index)

    def _release(self, index: int) -> None:
        with self._done:
            self._idle.append(index)
            self._done.notify_all()

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[InferRequest]:
        return iter(self.requests)

    def __getitem__(self, index: int) -> InferRequest:
        return self.requests[index]
