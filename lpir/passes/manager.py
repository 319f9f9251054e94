"""Passes in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lpir.ir.model import Model

Pass = Callable[[Model], int]


def run(model: Model, passes: Iterable[Pass]) -> dict[str, int]:
    """Applies `passes` to `model` in place, one after the other; returns how much each changed, by its name."""
    changed: dict[str, int] = {}
    for function in passes:
        name = getattr(function, "__name__", "pass")
        changed[name] = changed.get(name, 0) + function(model)
    return changed


def transform(model: Model) -> Model:
    """The standard clean-up of an imported model, in place: every frontend's result goes through it.

    Shape computations and constants are folded, batch normalization moves into weights, and operations that an exporter
    spelled out (GELU, Swish, LayerNorm, softmax) become one. Compressed weights and FakeQuantize stay.
    """
    from lpir.passes.batchnorm import fold_batch_normalization
    from lpir.passes.compose import compose
    from lpir.passes.cse import merge_equal_nodes
    from lpir.passes.dce import remove_unused
    from lpir.passes.fold import fold_constants
    from lpir.passes.reshapes import resolve_reshapes
    from lpir.passes.simplify import simplify

    merge_equal_nodes(model)
    clean: tuple[Pass, ...] = (fold_constants, resolve_reshapes, simplify, merge_equal_nodes, compose)
    changed = run(model, (*clean, fold_batch_normalization))
    if any(changed.values()):
        run(model, clean)
    remove_unused(model)
    if not all(value.shape.is_static for node in model.nodes() for value in node.outputs):
        # what was unknown may follow from what was folded
        model.validate()
    return model
