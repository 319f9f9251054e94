"""Short loops become what they do, iteration after iteration: then nothing of them is left to run them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpir.ir.graph import Node, Value, arg_of
from lpir.ir.model import Model, copy_node
from lpir.ops.bases import normalize_axis
from lpir.ops.boundary import constant
from lpir.ops.builder import make, make_node
from lpir.ops.loops import Iteration, Loop, Part

# a loop of more nodes than this stays a loop: planning each takes longer than running its body as a whole
MOST_NODES = 2000


def unroll_loops(model: Model) -> int:
    """Replaces loops with a known, small number of iterations by their nodes, which have the loop's name."""
    unrolled = 0
    for node in model.nodes():
        if not isinstance(node.op, Iteration):
            continue
        count = node.op.known_count([arg_of(v) for v in node.inputs])
        if count and count * len(node.op.body.nodes()) <= MOST_NODES and _has_known_parts(node):
            _unroll(node, node.op, count)
            unrolled += 1
    return unrolled


def _has_known_parts(node: Node) -> bool:
    assert isinstance(node.op, Iteration)
    shapes = [(node.inputs[p.outer].shape, p.part) for p in node.op.reads if p.part is not None]
    return all(s.dims is not None and s[normalize_axis(p.axis, len(s))].is_static for s, p in shapes)


def _unroll(node: Node, op: Iteration, count: int) -> None:
    given: dict[int, Value] = {p.inner: node.inputs[p.outer] for p in op.reads if p.part is None}
    parts = {p.inner: _parts(node.inputs[p.outer], p.part, count, node.name) for p in op.reads if p.part is not None}
    # constants of the body are the same each time
    shared: dict[int, list[Value]] = {}
    steps: list[list[Value]] = []
    for i in range(count):
        given |= {inner: values[i] for inner, values in parts.items()}
        if isinstance(op, Loop) and op.iteration is not None:
            kind = op.body.parameters[op.iteration].outputs[0]
            given[op.iteration] = constant(np.full([d.lo for d in kind.shape], i), kind.element_type, node.name)
        steps.append(_inlined(op.body, [given[k] for k in range(len(op.body.parameters))], node.name, shared))
        given |= {number: steps[-1][result] for result, number in op.carried}
    for port in op.writes:
        value = steps[-1][port.inner]
        if port.part is not None and count > 1:
            order = [results[port.inner] for results in steps][:: -1 if port.part.stride < 0 else 1]
            value = make("Concat", *order, axis=port.part.axis, name=node.name)
        node.outputs[port.outer].replace_all_uses_with(value)
    node.detach()


def _inlined(body: Model, inputs: Sequence[Value], name: str, shared: dict[int, list[Value]]) -> list[Value]:
    """The results of a copy of `body` for these inputs."""
    values = {id(p): [x] for p, x in zip(body.parameters, inputs, strict=True)} | shared
    for node in body.nodes():
        if id(node) in values:
            continue
        sources = [values[id(v.node)][v.index] for v in node.inputs]
        if node.op.type_name == "Result":
            values[id(node)] = sources
            continue
        copy = copy_node(node, sources)
        copy.name = name
        for value in copy.outputs:
            value.names = set()
        values[id(node)] = copy.outputs
        if node.op.type_name == "Constant":
            shared[id(node)] = copy.outputs
    return [values[id(r)][0] for r in body.results]


def _parts(x: Value, part: Part, count: int, name: str) -> list[Value]:
    """What each iteration reads of `x`."""
    axis = normalize_axis(part.axis, len(x.shape))
    length = x.shape[axis].length
    if count * part.part_size == length:
        if count == 1:
            return [x]
        found = make_node("Split", x, constant(axis, np.int64), num_splits=count, name=name).outputs
        return found[:: -1 if part.stride < 0 else 1]
    bounds = [part.bounds(length, i) for i in range(count)]
    return [make("Slice", x, *(constant([n], np.int64) for n in (a, b, 1, axis)), name=name) for a, b in bounds]
