"""Removal of what nothing reads."""

from __future__ import annotations

from lpir.ir.model import Model


def remove_unused(model: Model) -> int:
    """Detaches nodes that no result or sink needs from the values they read; returns how many.

    Such nodes are not part of `model.nodes()`, but would still count as readers.
    """
    alive = {id(n) for n in model.nodes()}
    removed: set[int] = set()
    for node in model.nodes():
        for value in node.outputs:
            for use in value.uses:
                if id(use.node) not in alive:
                    use.node.detach()
                    removed.add(id(use.node))
    return len(removed)
