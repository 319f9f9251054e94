"""Operations that only move elements, each as one or more strided copies (`copy.py`).

Where the reference, run on the numbers of the elements instead of their values, gives an affine map, those are the
strides: so the reference itself says what Transpose, Slice, StridedSlice, Split, Broadcast and the rest mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.copy import View, copy
from lpir.devices.cpu.kernels.elements import element_size, not_movable, registered, shape_of
from lpir.devices.cpu.kernels.gather import gather_step
from lpir.devices.cpu.kernels.geometry import broadcast_strides, dense_strides
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ops.boundary import constant_data
from lpir.record import record

Array = np.ndarray[Any, np.dtype[Any]]


def other_inputs(node: Node) -> list[Array] | str:
    """The constant inputs behind the first, or the reason why they are not known."""
    found = []
    for i, value in enumerate(node.inputs[1:], 1):
        data = constant_data(value)
        if data is None:
            return f"input {i} is not constant"
        found.append(data)
    return found


def affine(numbers: Array) -> tuple[int, tuple[int, ...]] | None:
    """`(offset, strides)` with `numbers[i, j, ...] == offset + i * strides[0] + ...`, or None."""
    if numbers.size == 0:
        return 0, (0,) * numbers.ndim
    offset = int(numbers[(0,) * numbers.ndim])
    strides = []
    expected = np.asarray(offset, numbers.dtype)
    for d, n in enumerate(numbers.shape):
        stride = int(numbers[tuple(int(d == e) for e in range(numbers.ndim))]) - offset if n > 1 else 0
        strides.append(stride)
        along = np.arange(n, dtype=numbers.dtype) * numbers.dtype.type(stride)
        expected = expected + along.reshape((n,) + (1,) * (numbers.ndim - d - 1))
    return (offset, tuple(strides)) if np.array_equal(np.broadcast_to(expected, numbers.shape), numbers) else None


class Move(Kernel):
    """Operations each of whose outputs holds elements of input 0: a strided view of it, or else blocks by a table."""

    name: ClassVar[str] = "move"
    ops: ClassVar[tuple[type[Op], ...]] = registered(
        *(
            "Transpose",
            "Slice",
            "StridedSlice",
            "Split",
            "VariadicSplit",
            "Broadcast",
            "Squeeze",
            "Unsqueeze",
            "Reshape",
        ),
        *("DepthToSpace", "SpaceToDepth", "ShuffleChannels", "BatchToSpace", "Roll", "ReverseSequence"),
    )

    def applies(self, node: Node, isa: Isa) -> str | None:
        others = other_inputs(node)
        return not_movable(node) or (others if isinstance(others, str) else None)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        others = other_inputs(node)
        assert not isinstance(others, str)
        x = node.inputs[0]
        size = element_size(x.element_type) or 1
        count = math.prod(shape_of(x))
        numbers = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64).reshape(shape_of(x))
        steps: list[Step] = []
        for out, chosen in zip(node.outputs, node.op.eval(numbers, *others), strict=True):
            found = affine(np.asarray(chosen))
            if found is None:
                steps.append(gather_blocks(np.asarray(chosen), size, ctx.ref(x), ctx.ref(out), ctx))
                continue
            offset, strides = found
            to = View(ctx.ref(out), dense_strides(chosen.shape))
            steps += copy(isa, size, chosen.shape, View(ctx.ref(x) + offset * size, strides), to, ctx.threads)
        return steps


def gather_blocks(numbers: Array, size: int, x: Ref, out: Ref, ctx: BuildContext) -> Step:
    """The step that writes element `numbers[i]` of `x` to element `i` of `out`, in blocks as large as can be."""
    flat = numbers.reshape(-1)
    # where the element is not the one after its predecessor a block begins, on both sides
    starts = np.flatnonzero(np.diff(flat) != 1) + 1
    run = math.gcd(
        *(int(v) for v in np.unique(starts)), *(int(v) for v in np.unique(flat[starts])), int(flat[0]), flat.size
    )
    blocks = (flat[::run] // run).astype(np.int32)
    return gather_step(x, int(flat.max()) // run + 1, ctx.constant(blocks), "i32", out, blocks.size, run * size)


class Concat(Kernel):
    """Joins arrays along an axis."""

    name: ClassVar[str] = "concat"
    ops: ClassVar[tuple[type[Op], ...]] = registered("Concat")

    def applies(self, node: Node, isa: Isa) -> str | None:
        return not_movable(node)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        shape = shape_of(node.output)
        axis = int(node.op.attributes()["axis"]) % len(shape)
        strides, size = dense_strides(shape), element_size(node.output.element_type) or 1
        steps, at = [], 0
        for value in node.inputs:
            part, source = shape_of(value), ctx.ref(value)
            to = View(ctx.ref(node.output) + at * strides[axis] * size, strides)
            # a part may have been written where it belongs
            if source != to.at:
                steps += copy(isa, size, part, View(source, dense_strides(part)), to, ctx.threads)
            at += part[axis]
        return steps


class Tile(Kernel):
    """Repeats an array along each axis: a broadcast over twice as many axes."""

    name: ClassVar[str] = "tile"
    ops: ClassVar[tuple[type[Op], ...]] = registered("Tile")

    def applies(self, node: Node, isa: Isa) -> str | None:
        return not_movable(node)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        x, out = node.inputs[0], node.output
        rank = len(shape_of(out))
        shape = (1,) * (rank - len(shape_of(x))) + shape_of(x)
        sizes: list[int] = []
        source: list[int] = []
        for n, total, stride in zip(shape, shape_of(out), dense_strides(shape), strict=True):
            sizes += [total // n if n else 0, n]
            source += [0, stride]
        size = element_size(x.element_type) or 1
        to = View(ctx.ref(out), dense_strides(sizes))
        return copy(isa, size, sizes, View(ctx.ref(x), tuple(source)), to, ctx.threads)


@record
class Segment:
    """Positions `at ... at + count` of an axis: source elements `source, source + step, ...`, or outside (None)."""

    at: int
    count: int
    source: int | None
    step: int = 0


def segments(places: Sequence[int | None]) -> list[Segment]:
    """The source element of every position of an axis (None: outside), cut where its step changes."""
    out: list[Segment] = []
    for at, place in enumerate(places):
        last = out[-1] if out else None
        if last is not None and (place is None) == (last.source is None):
            step = 0 if place is None or last.source is None else place - last.source - last.step * (last.count - 1)
            if last.count == 1 or step == last.step:
                out[-1] = Segment(last.at, last.count + 1, last.source, step)
                continue
        out.append(Segment(at, 1, place))
    return out


class Pad(Kernel):
    """Constant, edge, reflect and symmetric padding, and cropping: a copy for each piece of the border."""

    name: ClassVar[str] = "pad"
    ops: ClassVar[tuple[type[Op], ...]] = registered("Pad")

    def applies(self, node: Node, isa: Isa) -> str | None:
        for i in (1, 2):
            if constant_data(node.inputs[i]) is None:
                return f"input {i} is not constant"
        return not_movable(node)

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        x, out = node.inputs[0], node.output
        begins, ends = ([int(v) for v in np.asarray(constant_data(v)).reshape(-1)] for v in node.inputs[1:3])
        mode = str(node.op.attributes()["pad_mode"])
        size = element_size(x.element_type) or 1
        value = ctx.constant(np.zeros(8, np.uint8)) if len(node.inputs) < 4 else ctx.ref(node.inputs[3])
        axes = [segments(padded_places(n, b, e, mode)) for n, b, e in zip(shape_of(x), begins, ends, strict=True)]
        return gather_segments(isa, size, ctx.ref(x), shape_of(x), ctx.ref(out), axes, value, ctx.threads)


def padded_places(n: int, begin: int, end: int, mode: str) -> list[int | None]:
    """The source element of every position of an axis of length `n` that is padded: None where the pad value goes."""
    places: list[int | None] = []
    for i in range(-begin, n + end):
        if 0 <= i < n:
            places.append(i)
        elif mode == "constant":
            places.append(None)
        elif mode == "edge":
            places.append(min(max(i, 0), n - 1))
        elif mode == "reflect":
            places.append(-i if i < 0 else 2 * (n - 1) - i)
        else:
            places.append(-i - 1 if i < 0 else 2 * n - 1 - i)
    return places


def gather_segments(
    isa: Isa,
    size: int,
    x: Ref,
    shape: Sequence[int],
    out: Ref,
    axes: Sequence[Sequence[Segment]],
    value: Ref,
    threads: int,
) -> list[Step]:
    """The steps that fill dense `out` piece by piece from dense `x`, or from one element at `value` outside of `x`."""
    whole = [sum(s.count for s in axis) for axis in axes]
    source, to = dense_strides(shape), dense_strides(whole)
    steps: list[Step] = []
    for piece in _pieces(axes):
        at = View(out + sum(s.at * t for s, t in zip(piece, to, strict=True)) * size, to)
        sizes = [s.count for s in piece]
        if any(s.source is None for s in piece):
            steps += copy(isa, size, sizes, View(value, (0,) * len(sizes)), at, threads)
            continue
        first = sum((s.source or 0) * t for s, t in zip(piece, source, strict=True))
        strides = tuple(s.step * t for s, t in zip(piece, source, strict=True))
        steps += copy(isa, size, sizes, View(x + first * size, strides), at, threads)
    return steps


def _pieces(axes: Sequence[Sequence[Segment]]) -> list[tuple[Segment, ...]]:
    """Boxes that cover the output; where an axis is outside, later axes need not be cut."""
    if not axes:
        return [()]
    rest = _pieces(axes[1:])
    whole = tuple(Segment(0, sum(s.count for s in axis), 0) for axis in axes[1:])
    return [(first, *later) for first in axes[0] for later in (rest if first.source is not None else [whole])]


def materialize(
    isa: Isa, size: int, x: Ref, shape: Sequence[int], to: Sequence[int], out: Ref, threads: int
) -> list[Step]:
    """The steps that broadcast dense `x` of `shape` to the dense `out` of shape `to`."""
    return copy(isa, size, to, View(x, broadcast_strides(shape, to)), View(out, dense_strides(to)), threads)


KERNELS: list[Kernel] = [Move(), Concat(), Tile(), Pad()]
