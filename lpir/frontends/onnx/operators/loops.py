"""Loop and Scan: the graph inside becomes a model of its own, which reads the tensors around it through inputs."""

from __future__ import annotations

from collections.abc import Sequence

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call, front, outside, rank_of
from lpir.frontends.onnx.records import Graph
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Node, Value, known_value
from lpir.ir.model import Model
from lpir.ir.op import TensorType
from lpir.ir.shape import ONE, PartialShape
from lpir.ir.types import boolean, i64
from lpir.ops.boundary import Parameter, Result, constant
from lpir.ops.loops import ROUNDS, Part, Port, either, with_length
from lpir.record import record

SCALAR = PartialShape(())


@record
class Entry:
    """What a body is given for one of its inputs; `axis`: a part of length 1 along it, which the body does not see."""

    type: TensorType
    axis: int | None = None


@operator("Loop")
def loop(c: Call) -> list[Value]:
    """Trip count, condition, states; the body gives the condition, states, and what is stacked up."""
    most = c.maybe(0) or c.const(-1)
    going = c.maybe(1) or c.const(True, boolean)
    states = [c[i] for i in range(2, len(c.inputs))]
    entries = [Entry(TensorType(i64, SCALAR)), Entry(going.type), *(Entry(s.type) for s in states)]
    carried = tuple((i, i + 1) for i in range(len(states) + 1))
    body, around = converted(c, entries, carried, [0] * (len(graph_of(c).outputs) - len(states) - 1))
    count = len(body.results) - 1
    reads = [Port(1, 1), *(Port(2 + i, 2 + i) for i in range(len(states)))]
    reads += [Port(2 + len(states) + i, 2 + len(states) + i) for i in range(len(around))]
    writes = [Port(i, 1 + i, Part(0) if i >= len(states) else None) for i in range(count)]
    ports = {"reads": tuple(reads), "writes": tuple(writes), "carried": carried}
    return c.make_all("Loop", most, going, *states, *around, body=body, condition=0, iteration=0, **ports)


@operator("Scan", since=9)
def scan(c: Call) -> list[Value]:
    """States, then tensors of which the body is given one element along an axis after the other."""
    graph, count = graph_of(c), c.integer("num_scan_inputs")
    split = len(c.inputs) - count
    values = [c[i] for i in range(len(c.inputs))]
    outputs = len(graph.outputs) - split
    if count < 1 or split < 0 or outputs < 0:
        raise ModelError(f"num_scan_inputs={count} does not fit {len(c.inputs)} inputs")
    axes = [front(a, rank_of(v)) for a, v in zip(numbers(c, "scan_input_axes", count), values[split:], strict=True)]
    parts = [part(a, d) for a, d in zip(axes, numbers(c, "scan_input_directions", count), strict=True)]
    entries = [Entry(v.type) for v in values[:split]]
    for v, a in zip(values[split:], axes, strict=True):
        entries.append(Entry(TensorType(v.element_type, with_length(v.shape, a, ONE)), a))
    carried = tuple((i, i) for i in range(split))
    stacked = numbers(c, "scan_output_axes", outputs)
    body, around = converted(c, entries, carried, stacked)
    directions = numbers(c, "scan_output_directions", outputs)
    reads = [Port(i, i, parts[i - split] if i >= split else None) for i in range(len(values))]
    reads += [Port(len(values) + i, len(values) + i) for i in range(len(around))]
    writes = [Port(i, i) for i in range(split)]
    writes += [Port(split + i, split + i, part(a, d)) for i, (a, d) in enumerate(zip(stacked, directions, strict=True))]
    ports = {"reads": tuple(reads), "writes": tuple(writes), "carried": carried}
    return c.make_all("TensorIterator", *values, *around, body=body, **ports)


def numbers(c: Call, name: str, count: int) -> tuple[int, ...]:
    """An attribute of one number for each of `count` tensors; zeros where the file leaves it out."""
    found = c.integers(name, (0,) * count)
    if len(found) != count:
        raise ModelError(f"{name} has {len(found)} numbers for {count} tensors")
    return found


def part(axis: int, backward: int) -> Part:
    """One element along an axis at a time, from the front or from the back."""
    return Part(axis, -1, 0, -1) if backward else Part(axis)


def graph_of(c: Call) -> Graph:
    body = c.get("body", Graph, None)
    assert isinstance(body, Graph)
    return body


def converted(
    c: Call, entries: Sequence[Entry], carried: Sequence[tuple[int, int]], stacked: Sequence[int]
) -> tuple[Model, list[Value]]:
    """The body, and the values around it that its last parameters stand for.

    stacked: along which axis the last results are stacked. A state whose shape changes from one iteration to the next
    has dynamic dimensions.
    """
    entries = list(entries)
    for left in reversed(range(ROUNDS + 1)):
        body, around = once(c, entries, stacked)
        changed = False
        for result, number in carried:
            before, after = entries[number].type, body.results[result].outputs[0].type
            if before.element_type != after.element_type:
                raise ModelError(f"a state is {before.element_type} first and {after.element_type} later")
            shape = either(before.shape, after.shape, left <= 1)
            if shape != before.shape:
                entries[number], changed = Entry(TensorType(before.element_type, shape)), True
        if not changed:
            break
    return body, around


def once(c: Call, entries: Sequence[Entry], stacked: Sequence[int]) -> tuple[Model, list[Value]]:
    """The body for inputs of these types."""
    graph = graph_of(c)
    if len(graph.inputs) != len(entries):
        raise ModelError(f"the body has {len(graph.inputs)} inputs, not {len(entries)}")
    scope: dict[str, Value] = {}
    parameters: list[Node] = []
    around: list[Value] = []
    for info, entry in zip(graph.inputs, entries, strict=True):
        node = Node(Parameter(entry.type.shape, entry.type.element_type), (), info.name)
        parameters.append(node)
        value = node.output
        scope[info.name] = value if entry.axis is None else c.make("Squeeze", value, c.const([entry.axis]))
    for name in sorted(outside(graph)):
        value, known = c.converter.scope[name], known_value(c.converter.scope[name])
        if known is not None:
            scope[name] = constant(known, value.element_type, name)
            continue
        parameters.append(Node(Parameter(value.shape, value.element_type), (), name))
        scope[name] = parameters[-1].output
        around.append(value)
    outputs = c.converter.inline(graph, scope)
    plain = len(outputs) - len(stacked)
    for i, axis in enumerate(stacked, plain):
        rank = outputs[i].shape.rank
        if axis < 0 and rank is None:
            raise UnsupportedError(f"the rank of output {i} of the body must be known")
        outputs[i] = c.make("Unsqueeze", outputs[i], c.const([front(axis, (rank or axis) + 1)]))
    return Model([Node(Result(), [v], f"result{i}") for i, v in enumerate(outputs)], parameters, graph.name), around
