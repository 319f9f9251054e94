"""Rewrites: one function each, from a node to the value that replaces its output.

A rewrite is registered with the operations at its root and an example, a function that builds a model on which it must
fire; one test proves for all of them that they fire, keep the answer, and then rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32
from lpir.ops.boundary import constant_data, parameter
from lpir.ops.builder import make_node
from lpir.record import record

Function = Callable[[Node], Value | None]

# more rounds than this mean that two rewrites undo each other
MAX_ROUNDS = 50


@record
class Rewrite:
    """`function(node)` gives the value that replaces the only output of a node whose type is in `roots`, or None."""

    name: str
    roots: frozenset[str]
    function: Function
    example: Callable[[], Model]
    exact: bool


REWRITES: dict[str, Rewrite] = {}


def rewrite(*roots: str, example: Callable[[], Model], exact: bool = True) -> Callable[[Function], Rewrite]:
    """Function decorator: makes a Rewrite of it. `exact`: the results keep every bit."""

    def register(function: Function) -> Rewrite:
        made = Rewrite(getattr(function, "__name__", ""), frozenset(roots), function, example, exact)
        if made.name in REWRITES:
            raise TypeError(f"two rewrites are called {made.name}")
        REWRITES[made.name] = made
        return made

    return register


def apply_rewrites(model: Model, rewrites: Iterable[Rewrite]) -> int:
    """Applies all rewrites until none fires; returns how often one did."""
    rewrites = tuple(rewrites)
    fired = 0
    for _ in range(MAX_ROUNDS):
        changed = sum(_visit(node, rewrites) for node in model.nodes())
        fired += changed
        if not changed:
            break
    return fired


def _visit(node: Node, rewrites: tuple[Rewrite, ...]) -> int:
    if len(node.outputs) != 1 or not node.outputs[0].uses:
        return 0
    for rule in rewrites:
        if node.op.type_name in rule.roots:
            new = rule.function(node)
            if new is not None and new is not node.outputs[0]:
                replace(node.outputs[0], new)
                return 1
    return 0


def replace(old: Value, new: Value) -> None:
    """Readers of `old` read `new`, and the old node lets go of its inputs.

    A node made for it takes its notes and, if it has no name, its name.
    """
    made = new.node is not old.node and not new.uses
    old.replace_all_uses_with(new)
    if made:
        if new.node.name == new.node.op.type_name:
            new.node.name = old.node.name
        new.node.rt_info = {**old.node.rt_info, **new.node.rt_info}
    release(old.node)


def release(node: Node) -> None:
    """Lets go of the inputs of a node that nobody reads, and of nodes that only it read."""
    stack = [node]
    while stack:
        dead = stack.pop()
        if dead.op.type_name in ("Parameter", "Result", "Assign") or any(v.uses for v in dead.outputs):
            continue
        sources = {id(v.node): v.node for v in dead.inputs}
        dead.detach()
        stack.extend(sources.values())


def is_op(value: Value, *types: str) -> bool:
    """Whether one of the operations `types` makes `value`."""
    return value.node.op.type_name in types


def single_use(value: Value) -> bool:
    """Whether exactly one input reads `value`."""
    return len(value.uses) == 1


def scalar(value: Value) -> float | None:
    """The number in a Constant of one element, whatever its shape."""
    data = constant_data(value)
    return float(data.reshape(-1)[0]) if data is not None and data.size == 1 else None


def with_scalar(node: Node) -> tuple[Value, float] | None:
    """The other input and the number, when one input of a two-input node is a constant of one element."""
    a, b = node.inputs
    for x, y in ((a, b), (b, a)):
        number = scalar(y)
        if number is not None and not is_op(x, "Constant"):
            return x, number
    return None


def close(a: float | None, b: float, tolerance: float = 1e-4) -> bool:
    """Whether a constant of the file is meant to be `b`; files round to float32 or float16."""
    return a is not None and abs(a - b) <= tolerance * max(abs(b), 1e-12)


def sample(body: Callable[..., Value], *shapes: tuple[int, ...]) -> Model:
    """A model with float32 inputs of `shapes` that computes `body(*inputs)`: the example of a rewrite."""
    parameters = [parameter(shape, f32, f"x{i}") for i, shape in enumerate(shapes)]
    return Model([make_node("Result", body(*[p.output for p in parameters]))], parameters)
