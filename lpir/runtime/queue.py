"""A pool of requests that run side by side."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any

from lpir.errors import InputError
from lpir.ir.op import Array
from lpir.runtime.session import CompiledModel, InferRequest

# inferences of a request: one that runs, and one that waits behind it, so that no core waits for the caller
DEPTH = 2
Callback = Callable[[InferRequest, Any], Any]


class AsyncInferQueue:
    """`jobs` requests of a model (0: as many as the device advises), each with a thread that runs its inferences.

    `start_async` takes the request with the fewest, and waits while each has one that runs and one behind it. Raises
    InputError for a negative number.
    """

    def __init__(self, model: CompiledModel, jobs: int = 0) -> None:
        if jobs < 0:
            raise InputError(
                f"a queue of {jobs} requests cannot run anything; 0 takes the number that suits the device"
            )
        count = jobs or int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.requests = [model.create_infer_request() for _ in range(count)]
        self._lanes = [_Lane(request) for request in self.requests]
        self._state = _State()
        self._started = 0
        for number, lane in enumerate(self._lanes):
            Thread(target=_serve, args=(lane, self._state), name=f"lpir-queue-{number}", daemon=True).start()
        weakref.finalize(self, _close, self._lanes).atexit = False

    def set_callback(self, callback: Callback) -> None:
        """`callback(request, userdata)` is called after each inference, before its request is used again."""
        self._state.callback = callback

    def start_async(self, inputs: Any = None, userdata: Any = None, share_inputs: bool = False) -> None:
        """Starts an inference. Raises InputError when the inputs do not fit.

        `inputs` are copied, unless `share_inputs` promises that they stay as they are until the inference is done.
        """
        changed = self._state.changed
        with changed:
            changed.wait_for(lambda: any(lane.count < DEPTH for lane in self._lanes))
            lane = min(self._lanes, key=lambda lane: (lane.count, lane.turn))
            arrays = lane.request.collect(inputs)
            self._started += 1
            lane.turn = self._started
            lane.count += 1
        lane.jobs.put((arrays if share_inputs else [array.copy() for array in arrays], userdata))

    def wait_all(self) -> None:
        """Returns when all requests are idle. Raises the first error of a callback or an inference."""
        with self._state.changed:
            self._state.changed.wait_for(lambda: not any(lane.count for lane in self._lanes))
            errors, self._state.errors = self._state.errors, []
        if errors:
            raise errors[0]

    def is_ready(self) -> bool:
        """Whether a request is idle."""
        with self._state.changed:
            return any(not lane.count for lane in self._lanes)

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[InferRequest]:
        return iter(self.requests)

    def __getitem__(self, index: int) -> InferRequest:
        return self.requests[index]


@dataclass
class _Lane:
    """A request, its inferences that run or wait, and the number of the last one."""

    request: InferRequest
    jobs: SimpleQueue[tuple[list[Array], Any] | None] = field(default_factory=SimpleQueue)
    count: int = 0
    turn: int = 0


@dataclass
class _State:
    """What the threads share with the queue, which they do not keep alive."""

    changed: Condition = field(default_factory=Condition)
    callback: Callback | None = None
    errors: list[BaseException] = field(default_factory=list)


def _serve(lane: _Lane, state: _State) -> None:
    """Runs the inferences of a lane until None comes."""
    while (job := lane.jobs.get()) is not None:
        arrays, userdata = job
        try:
            lane.request.userdata = userdata
            lane.request.infer(arrays)
            if state.callback is not None:
                state.callback(lane.request, userdata)
        except BaseException as error:
            with state.changed:
                state.errors.append(error)
        del job, arrays, userdata
        with state.changed:
            lane.count -= 1
            state.changed.notify_all()


def _close(lanes: list[_Lane]) -> None:
    for lane in lanes:
        lane.jobs.put(None)
