"""Removal of what nothing reads."""

from __future__ import annotations

from lpir.ir.model import Model


def remove_unused(model: Model) -> int:
    """Detaches nodes that no result or sink needs from the values that they read; returns how many."""
    return model.detach_unused()
