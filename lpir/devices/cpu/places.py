"""Values that need no memory of their own, because they lie inside another one.

* An operation that only changes the shape gives its input another name.
* Parts of a Split along the outermost axis are read where they lie.
* Parts of a Concat are written where they belong. Along the outermost axis any kernel can do that, and any other
  operation may read the part too. Along the last axis the rows of a part are further apart than they are long: the
  kernel must say that it `spreads` rows, and nobody but the Concat may read them.

"Outermost" is an axis before which all axes are 1; parts must begin at aligned bytes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.move import Concat
from lpir.devices.cpu.select import choose
from lpir.ir.graph import Node, Value
from lpir.record import record
from lpir.runtime.memory import ALIGNMENT

# operations that only give their first input another shape
ALIASES = ("Reshape", "Squeeze", "Unsqueeze", "Identity")
SPLITS = ("Split", "VariadicSplit")


@record
class Place:
    """Where a value lies: `offset` bytes behind the start of `root`; `pitch`: bytes between rows, 0 for dense ones."""

    root: Value
    offset: int = 0
    pitch: int = 0


class Places:
    """The places of all values of `order`; `known`: whether a value is computed before the model runs."""

    def __init__(self, order: Sequence[Node], isa: Isa, known: Callable[[Value], bool]) -> None:
        self.isa, self.known = isa, known
        self._direct: dict[int, Place] = {}
        self._made = {id(v) for node in order for v in node.outputs}
        for node in order:
            if node.inputs and not known(node.inputs[0]):
                self._read_in_place(node)
        for node in order:
            if node.op.type_name == "Concat" and isinstance(choose(node, isa).kernel, Concat):
                self._write_in_place(node)

    def of(self, value: Value) -> Place:
        """Where a value lies; in itself, if nowhere else."""
        offset = pitch = 0
        while (place := self._direct.get(id(value))) is not None:
            value, offset, pitch = place.root, offset + place.offset, pitch or place.pitch
        return Place(value, offset, pitch)

    def is_alias(self, node: Node) -> bool:
        """Whether nothing has to run for a node."""
        if node.op.type_name == "Concat":
            parts = list(_parts(node))
            return len(parts) == len(node.inputs) and all(self._direct.get(id(self._maker(v))) == p for v, p in parts)
        return node.op.type_name in (*ALIASES, *SPLITS) and all(id(v) in self._direct for v in node.outputs)

    def _read_in_place(self, node: Node) -> None:
        if node.op.type_name in ALIASES:
            self._direct[id(node.outputs[0])] = Place(node.inputs[0])
        elif node.op.type_name in SPLITS:
            sizes = [_bytes(v) for v in node.outputs]
            offsets = [int(o) for o in np.cumsum([0, *sizes])]
            outer = all(_is_outer(node.inputs[0], v) for v in node.outputs)
            if outer and all(o % ALIGNMENT == 0 for o in offsets[:-1]):
                for value, offset in zip(node.outputs, offsets, strict=False):
                    self._direct[id(value)] = Place(node.inputs[0], offset)

    def _write_in_place(self, node: Node) -> None:
        for part, place in _parts(node):
            maker = self._maker(part)
            if id(maker) not in self._made or id(maker) in self._direct or self.known(maker):
                continue
            kind = maker.node.op.type_name
            if kind in (*ALIASES, *SPLITS, "Concat") or maker.index:
                continue
            if place.pitch:
                kernel = choose(maker.node, self.isa).kernel
                alone = maker is part and len(part.uses) == 1
                if kernel is None or not kernel.spreads or not alone:
                    continue
            self._direct[id(maker)] = place

    def _maker(self, value: Value) -> Value:
        """The value that `value` is another shape of."""
        while value.node.op.type_name in ALIASES and not self.known(value.node.inputs[0]):
            value = value.node.inputs[0]
        return value


def _parts(node: Node) -> Iterator[tuple[Value, Place]]:
    """Each part of a Concat that could be written in place, and where."""
    out = node.outputs[0]
    shape = out.shape.to_static()
    axis = int(node.op.attributes()["axis"]) % len(shape)
    size = out.element_type.dtype.itemsize
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :]) * size
    at = 0
    for value in node.inputs:
        if outer == 1 and at % ALIGNMENT == 0:
            yield value, Place(out, at)
        elif axis == len(shape) - 1:
            yield value, Place(out, at, shape[-1] * size)
        at += value.shape.to_static()[axis] * inner


def _is_outer(whole: Value, part: Value) -> bool:
    """Whether the axis along which `part` is shorter than `whole` has only ones before it."""
    for n, own in zip(whole.shape.to_static(), part.shape.to_static(), strict=True):
        if n != own:
            return True
        if n != 1:
            return whole.shape == part.shape
    return True


def _bytes(value: Value) -> int:
    return math.prod(value.shape.to_static()) * value.element_type.dtype.itemsize
