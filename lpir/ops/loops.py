"""Loops: TensorIterator and Loop run a model, their body, again and again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.errors import ModelError, UnsupportedError
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape, as_dimension
from lpir.ir.types import boolean, f32, from_dtype, i64
from lpir.ops.bases import normalize_axis
from lpir.ops.boundary import Parameter, Result, constant, constant_data, parameter
from lpir.ops.builder import make
from lpir.record import record

# a state whose shape still changes after this many rounds of inference may have any
ROUNDS = 3
# the outputs of a body for the arrays of its parameters
Run = Callable[[Sequence[Array]], Sequence[Array]]


@record
class Part:
    """What an iteration reads or writes of a tensor: `part_size` elements along `axis`, in steps of as many.

    start, end: the first and the last element; negative ones count from the back. stride: negative from end to start.
    """

    axis: int
    start: int = 0
    end: int = -1
    stride: int = 1
    part_size: int = 1

    def check(self) -> None:
        """Raises UnsupportedError where parts overlap or leave something out."""
        if self.part_size < 1 or abs(self.stride) != self.part_size:
            raise UnsupportedError(f"parts of {self.part_size} in steps of {self.stride} are not supported")

    def count(self, length: int) -> int:
        """How many parts an axis of `length` has. Raises ModelError where they do not fit."""
        start, end = (x + length if x < 0 else x for x in (self.start, self.end))
        forward = self.stride > 0
        if not (0 <= start < length and 0 <= end < length) or (start > end if forward else start < end):
            raise ModelError(f"parts from {self.start} to {self.end} do not lie in an axis of {length}")
        return (abs(end - start) + 1) // self.part_size

    def bounds(self, length: int, iteration: int) -> tuple[int, int]:
        """Where a part begins, and where it ends (exclusive)."""
        start = self.start + length if self.start < 0 else self.start
        if self.stride > 0:
            return start + iteration * self.part_size, start + (iteration + 1) * self.part_size
        return start + 1 - (iteration + 1) * self.part_size, start + 1 - iteration * self.part_size


@record
class Port:
    """Input (output) `outer` of a loop is parameter (result) `inner` of its body; or each time a part of it."""

    outer: int
    inner: int
    part: Part | None = None


def hidden(default: Any = dataclasses.MISSING) -> Any:
    """A field that is no XML attribute."""
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"xml": None})
    return dataclasses.field(default=default, metadata={"xml": None})


@record(eq=False)
class Iteration(Op):
    """Base of the loops. `reads`: what the parameters of the body are given; `writes`: what becomes of its results.

    carried: pairs (result, parameter): the parameter is that result of the iteration before. run: how the body, which
    nobody changes, is executed; None: by its operations' `eval`.
    """

    arity: ClassVar[tuple[int, int | None]] = (1, None)
    body: Model = hidden()
    reads: tuple[Port, ...] = hidden()
    writes: tuple[Port, ...] = hidden()
    carried: tuple[tuple[int, int], ...] = hidden(())
    run: Run | None = hidden(None)

    def known_count(self, inputs: Sequence[Arg]) -> int | None:
        """How many iterations there will be, if that is known before the model runs."""
        raise ModelError(f"{self.type_name} does not say how many iterations it has")

    def limit(self, inputs: Sequence[Array]) -> int | None:
        """The largest number of iterations; None for any."""
        raise ModelError(f"{self.type_name} does not say how many iterations it has")

    def begins(self, inputs: Sequence[Array]) -> bool:
        """Whether there is a first iteration."""
        return True

    def goes_on(self, results: Sequence[Array]) -> bool:
        """Whether there is an iteration behind one with these results."""
        return True

    def counter(self, iteration: int) -> dict[int, Array]:
        """Parameters of the body that depend on the number of the iteration."""
        return {}

    def part_count(self, shapes: Sequence[PartialShape]) -> int | None:
        """The number of parts of the inputs, if there are parts and it is known. Raises ModelError where it differs."""
        found = set()
        for port in self.reads:
            shape = shapes[port.outer]
            if port.part is None or shape.dims is None:
                continue
            length = shape[normalize_axis(port.part.axis, len(shape))]
            if length.is_static:
                found.add(port.part.count(length.length))
        if len(found) > 1:
            raise ModelError(f"the inputs have different numbers of parts: {sorted(found)}")
        return found.pop() if found else None

    def typed_body(self, inputs: Sequence[Arg]) -> Model:
        """A copy of the body for inputs of these types: shapes that change from iteration to iteration are dynamic."""
        body = self.body.clone()
        for port in self.reads:
            shape = inputs[port.outer].shape
            if port.part is not None:
                shape = with_length(shape, port.part.axis, as_dimension(port.part.part_size))
            body.parameters[port.inner].op = Parameter(shape, inputs[port.outer].type)
        for left in reversed(range(ROUNDS)):
            body.validate()
            if not self._widen(body, left == 0):
                return body
        body.validate()
        return body

    def _widen(self, body: Model, last: bool) -> bool:
        """Lets parameters have the shapes of results that they are given too; whether one changed."""
        changed = False
        for result, number in self.carried:
            node, found = body.parameters[number], body.results[result].outputs[0]
            if found.element_type != node.outputs[0].element_type:
                raise ModelError(f"a state is {node.outputs[0].element_type} first and {found.element_type} later")
            wide = either(node.outputs[0].shape, found.shape, last)
            if wide != node.outputs[0].shape:
                node.op, changed = Parameter(wide, found.element_type), True
        return changed

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        for port in (*self.reads, *self.writes):
            if port.part is not None:
                port.part.check()
        body, count = self.typed_body(inputs), self.known_count(inputs)
        first = {result: inputs[p.outer].shape for result, n in self.carried for p in self.reads if p.inner == n}
        types: dict[int, TensorType] = {}
        for port in self.writes:
            found = body.results[port.inner].outputs[0].type
            shape = found.shape
            if port.part is not None:
                check_length(shape, port.part)
                total = ANY if count is None else as_dimension(count * port.part.part_size)
                shape = with_length(shape, port.part.axis, total)
            elif not count:
                # the state may stay what it was
                shape = either(shape, first.get(port.inner, shape), False)
            types[port.outer] = TensorType(found.element_type, shape)
        if sorted(types) != list(range(len(types))):
            raise ModelError(f"outputs {sorted(types)} are given, not 0 to {len(types) - 1}")
        return [types[i] for i in range(len(types))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        run, limit = self.run or body_runner(self.body), self.limit(inputs)
        given = {p.inner: inputs[p.outer] for p in self.reads if p.part is None}
        steps: list[Sequence[Array]] = []
        goes_on = self.begins(inputs)
        while goes_on and (limit is None or len(steps) < limit):
            for port in self.reads:
                if port.part is not None:
                    given[port.inner] = part_of(inputs[port.outer], port.part, len(steps))
            given |= self.counter(len(steps))
            results = [np.asarray(r) for r in run([given[i] for i in range(len(self.body.parameters))])]
            given |= {number: results[result] for result, number in self.carried}
            goes_on = self.goes_on(results)
            # of what only the last iteration counts for, the others are let go
            steps.append(results if any(p.part for p in self.writes) else ())
        last = results if steps else self._nothing(given, inputs)
        return tuple(self._written(port, steps, last) for port in sorted(self.writes, key=lambda p: p.outer))

    def _written(self, port: Port, steps: Sequence[Sequence[Array]], last: Sequence[Array]) -> Array:
        if port.part is None:
            return last[port.inner]
        parts = [results[port.inner] for results in steps] or [last[port.inner]]
        return np.concatenate(parts[:: -1 if port.part.stride < 0 else 1], port.part.axis)

    def _nothing(self, given: dict[int, Array], inputs: Sequence[Array]) -> list[Array]:
        """What the results count as where no iteration took place: states as they were, and nothing of parts."""
        body = self.typed_body([Arg(from_dtype(x.dtype), PartialShape.of(x.shape)) for x in inputs])
        axes = {p.inner: p.part.axis for p in self.writes if p.part is not None}
        states = {result: given[number] for result, number in self.carried}
        found = []
        for i, result in enumerate(body.results):
            type = result.outputs[0].type
            lengths = [d.lo for d in type.shape.dims or (ANY,)]
            if i in axes:
                lengths[axes[i]] = 0
            empty = np.zeros(lengths, type.element_type.dtype)
            found.append(empty if i in axes else states.get(i, empty))
        return found


def with_length(shape: PartialShape, axis: int, length: Dimension) -> PartialShape:
    """A shape with another length along an axis."""
    if shape.dims is None:
        return shape
    place = normalize_axis(axis, len(shape))
    return PartialShape(length if i == place else d for i, d in enumerate(shape))


def check_length(shape: PartialShape, part: Part) -> None:
    """Raises ModelError where a result is not as long as its part of an output."""
    if shape.dims is not None and not shape[normalize_axis(part.axis, len(shape))].allows(part.part_size):
        raise ModelError(f"a result {shape} is no part of {part.part_size} along axis {part.axis}")


def either(a: PartialShape, b: PartialShape, any_length: bool) -> PartialShape:
    """The shapes that one of two allows; `any_length`: lengths that differ may be any."""
    if a == b or a.dims is None:
        return a
    if b.dims is None or len(a) != len(b):
        return PartialShape(None)
    return PartialShape(x if x == y else ANY if any_length else x.union(y) for x, y in zip(a, b, strict=True))


def part_of(x: Array, part: Part, iteration: int) -> Array:
    """What one iteration reads of an array."""
    axis = normalize_axis(part.axis, x.ndim)
    first, last = part.bounds(x.shape[axis], iteration)
    if first < 0 or last > x.shape[axis]:
        raise ModelError(f"iteration {iteration} reads {first} to {last} of an axis of {x.shape[axis]}")
    return x[(slice(None),) * axis + (slice(first, last),)]


def body_runner(body: Model) -> Run:
    """Executes a body operation by operation."""
    order = [n for n in body.nodes() if n.op.type_name != "Parameter"]

    def run(arrays: Sequence[Array]) -> list[Array]:
        values: dict[int, tuple[Array, ...]] = {id(p): (x,) for p, x in zip(body.parameters, arrays, strict=True)}
        for node in order:
            values[id(node)] = node.op.eval(*(values[id(v.node)][v.index] for v in node.inputs))
        return [values[id(r)][0] for r in body.results]

    return run


@op
class TensorIterator(Iteration):
    """A body for each part of the inputs, with states from one to the next (OpenVINO opset1)."""

    def known_count(self, inputs: Sequence[Arg]) -> int | None:
        return self.part_count([x.shape for x in inputs])

    def limit(self, inputs: Sequence[Array]) -> int | None:
        count = self.part_count([PartialShape.of(x.shape) for x in inputs])
        if count is None:
            raise ModelError("no input is read in parts, so nothing says when to stop")
        return count

    @classmethod
    def cases(cls) -> list[Case]:
        rng = np.random.default_rng(12)
        x, s = rng.normal(size=(2, 6, 3)).astype(np.float32), rng.normal(size=(2, 1, 3)).astype(np.float32)
        ports = (Port(0, 0, Part(1)), Port(1, 1))
        back = Part(1, -1, 0, -1)
        pairs = (Port(0, 0, Part(1, 0, -1, 2, 2)), Port(1, 1))
        return [
            Case(cls(sample_body(1), ports, (Port(0, 0, Part(1)), Port(1, 0)), ((0, 1),)), (x, s), "forward"),
            Case(
                cls(sample_body(1), (Port(0, 0, back), Port(1, 1)), (Port(0, 0, back),), ((0, 1),)), (x, s), "reverse"
            ),
            Case(cls(sample_body(2), pairs, (Port(0, 0, Part(1, 0, -1, 2, 2)),)), (x, s), "pairs"),
        ]


def sample_body(rows: int) -> Model:
    """`tanh(x / 2 + s)` of x `[2, rows, 3]` and s `[2, 1, 3]`."""
    x, s = parameter((2, rows, 3), f32, "x"), parameter((2, 1, 3), f32, "s")
    half = make("Multiply", x.output, constant(np.float32(0.5)))
    y = make("Tanh", make("Add", half, s.output))
    return Model([Node(Result(), [y], "y")], [x, s], "body")


@op
@record(eq=False)
class Loop(Iteration):
    """A body as often as input 0 says (negative: without a limit) while input 1 and then a result are true (opset5).

    condition: the number of that result. iteration: the parameter that is the number of the iteration, or None.
    """

    version: ClassVar[str] = "opset5"
    arity: ClassVar[tuple[int, int | None]] = (2, None)
    condition: int = hidden(0)
    iteration: int | None = hidden(None)

    def known_count(self, inputs: Sequence[Arg]) -> int | None:
        most, first = (None if x.value is None else int(np.asarray(x.value).reshape(-1)[0]) for x in inputs[:2])
        if first == 0 or most == 0:
            return 0
        return most if most is not None and most > 0 and first and self._stays_true() else None

    def _stays_true(self) -> bool:
        """Whether a condition that is true first is true for good."""
        source = self.body.results[self.condition].inputs[0].node
        if source.op.type_name == "Parameter":
            number = self.body.parameters.index(source)
            return Port(1, number) in self.reads and (self.condition, number) in self.carried
        data = constant_data(source.outputs[0])
        return data is not None and bool(data.all())

    def limit(self, inputs: Sequence[Array]) -> int | None:
        most = int(inputs[0].reshape(-1)[0])
        return None if most < 0 else most

    def begins(self, inputs: Sequence[Array]) -> bool:
        return bool(inputs[1].reshape(-1)[0])

    def goes_on(self, results: Sequence[Array]) -> bool:
        return bool(results[self.condition].reshape(-1)[0])

    def counter(self, iteration: int) -> dict[int, Array]:
        if self.iteration is None:
            return {}
        value = self.body.parameters[self.iteration].outputs[0]
        shape = [d.lo for d in value.shape.dims or ()]
        return {self.iteration: np.full(shape, iteration, value.element_type.dtype)}

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.random.default_rng(13).uniform(0.5, 1, (1, 3)).astype(np.float32)
        true, writes = np.array(True), (Port(0, 1), Port(1, 1, Part(0)))
        always = cls(sample_loop(None), (Port(2, 1),), writes, ((1, 1),), None, 0, 0)
        until = cls(sample_loop(12.0), (Port(2, 1),), writes, ((1, 1),), None, 0, 0)
        return [
            Case(always, (np.array(4), true, x), "count"),
            Case(until, (np.array(-1), true, x), "condition"),
            Case(until, (np.array(2), true, x), "both"),
        ]


def sample_loop(most: float | None) -> Model:
    """`x * 1.5 + i`, until the sum of its elements is `most` or more."""
    i, x = parameter((), i64, "i"), parameter((1, 3), f32, "x")
    number = make("Convert", i.output, destination_type=f32)
    y = make("Add", make("Multiply", x.output, constant(np.float32(1.5))), number)
    going: Value = constant(np.array(True), boolean)
    if most is not None:
        total = make("ReduceSum", y, constant(np.array([0, 1])), keep_dims=False)
        going = make("Less", total, constant(np.float32(most)))
    return Model([Node(Result(), [v], f"r{k}") for k, v in enumerate((going, y))], [i, x], "body")
