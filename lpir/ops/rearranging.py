"""Moving elements between the channel, batch and spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lpir.errors import ModelError
from lpir.ir.op import Arg, Array, Case, Op, TensorType, op
from lpir.ir.shape import ANY, Dimension, PartialShape
from lpir.ops.bases import integers, normalize_axis
from lpir.ops.windows import LARGEST, checked
from lpir.record import record


def divided(dim: Dimension, by: int, what: str) -> Dimension:
    """`dim / by`. Raises ModelError when that is never whole."""
    if by <= 0:
        raise ModelError(f"{what} cannot be divided by {by}")
    lo, hi = -(-dim.lo // by), None if dim.hi is None else dim.hi // by
    if hi is not None and hi < lo:
        raise ModelError(f"{what} is {dim}, which {by} does not divide")
    return Dimension(lo, hi)


def times(dim: Dimension, by: int) -> Dimension:
    """`dim * by`."""
    return dim * Dimension(by, by)


def _check_block(x: Arg, mode: str, block_size: int) -> int:
    if mode not in ("blocks_first", "depth_first"):
        raise ModelError(f"mode must be blocks_first or depth_first, not {mode!r}")
    if not 1 <= block_size <= 2**15:
        raise ModelError(f"block_size must be between 1 and 32768, not {block_size}")
    if x.shape.dims is None:
        return 0
    if not 3 <= len(x.shape) <= 5:
        raise ModelError(f"the input must have rank 3 to 5, not {x.shape}")
    return len(x.shape) - 2


@op
@record
class DepthToSpace(Op):
    """Channels in blocks of `block_size ** K` become blocks of K spatial axes (OpenVINO opset1 DepthToSpace).

    mode: where the block is in the channels: "blocks_first" `[b, ..., b, C']`, "depth_first" `[C', b, ..., b]`.
    """

    mode: str
    block_size: int = 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        (x,) = inputs
        spatial = _check_block(x, self.mode, self.block_size)
        if x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        channels = divided(x.shape[1], self.block_size**spatial, "the number of channels")
        lengths = [times(d, self.block_size) for d in x.shape.dims[2:]]
        return [TensorType(x.type, checked([x.shape[0], channels, *lengths]))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        (x,) = inputs
        k, b = x.ndim - 2, self.block_size
        channels = x.shape[1] // b**k
        blocks = (b,) * k
        if self.mode == "blocks_first":
            y = x.reshape(x.shape[0], *blocks, channels, *x.shape[2:])
            order = [0, k + 1, *(a for i in range(k) for a in (k + 2 + i, 1 + i))]
        else:
            y = x.reshape(x.shape[0], channels, *blocks, *x.shape[2:])
            order = [0, 1, *(a for i in range(k) for a in (k + 2 + i, 2 + i))]
        return (y.transpose(order).reshape(x.shape[0], channels, *(n * b for n in x.shape[2:])),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(96, dtype=np.float32).reshape(1, 8, 3, 4)
        cube = np.arange(192, dtype=np.float32).reshape(1, 16, 2, 3, 2)
        return [
            Case(cls("blocks_first", 2), (x,), "blocks_first"),
            Case(cls("depth_first", 2), (x,), "depth_first"),
            Case(cls("blocks_first", 1), (x,), "one"),
            Case(cls("depth_first", 2), (cube,), "3d"),
        ]


@op
@record
class SpaceToDepth(Op):
    """Blocks of `block_size` along every spatial axis become channels; undoes DepthToSpace (OpenVINO opset1)."""

    mode: str
    block_size: int = 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        (x,) = inputs
        spatial = _check_block(x, self.mode, self.block_size)
        if x.shape.dims is None:
            return [TensorType(x.type, PartialShape(None))]
        lengths = [divided(d, self.block_size, "a spatial length") for d in x.shape.dims[2:]]
        return [TensorType(x.type, checked([x.shape[0], times(x.shape[1], self.block_size**spatial), *lengths]))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        (x,) = inputs
        k, b = x.ndim - 2, self.block_size
        lengths = [n // b for n in x.shape[2:]]
        y = x.reshape(*x.shape[:2], *(v for n in lengths for v in (n, b)))
        inner = [3 + 2 * i for i in range(k)]
        outer = [2 + 2 * i for i in range(k)]
        order = [0, *inner, 1, *outer] if self.mode == "blocks_first" else [0, 1, *inner, *outer]
        return (y.transpose(order).reshape(x.shape[0], x.shape[1] * b**k, *lengths),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(96, dtype=np.float32).reshape(1, 2, 6, 8)
        cube = np.arange(192, dtype=np.float32).reshape(1, 2, 4, 6, 4)
        return [
            Case(cls("blocks_first", 2), (x,), "blocks_first"),
            Case(cls("depth_first", 2), (x,), "depth_first"),
            Case(cls("blocks_first", 2), (cube,), "3d"),
        ]


@op
@record
class ShuffleChannels(Op):
    """Axis `axis` seen as `[group, n]`, transposed and flattened again (OpenVINO opset1 ShuffleChannels)."""

    axis: int = 1
    group: int = 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        (x,) = inputs
        if not 1 <= self.group <= LARGEST:
            raise ModelError(f"group must be at least 1, not {self.group}")
        if x.shape.dims is not None:
            axis = normalize_axis(self.axis, len(x.shape))
            divided(x.shape[axis], self.group, f"axis {axis}")
        return [TensorType(x.type, x.shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        (x,) = inputs
        axis = normalize_axis(self.axis, x.ndim)
        y = x.reshape(*x.shape[:axis], self.group, -1, *x.shape[axis + 1 :])
        return (y.swapaxes(axis, axis + 1).reshape(x.shape),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(96, dtype=np.float32).reshape(2, 12, 2, 2)
        return [Case(cls(1, 3), (x,), "three"), Case(cls(-3, 2), (x,), "negative_axis"), Case(cls(0, 1), (x,), "one")]


@op
class Roll(Op):
    """Elements moved by `shift` along `axes`, those that leave come in again (OpenVINO opset7 Roll).

    Inputs: x, shift (one for all axes or one each), axes.
    """

    version: ClassVar[str] = "opset7"
    arity: ClassVar[tuple[int, int | None]] = (3, 3)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, shift, axes = inputs
        if axes.value is not None and x.shape.dims is not None:
            wanted = [normalize_axis(a, len(x.shape)) for a in integers(axes, "the axes")]
            if shift.value is not None and np.asarray(shift.value).size not in (1, len(wanted)):
                raise ModelError(f"{np.asarray(shift.value).size} shifts for {len(wanted)} axes")
        return [TensorType(x.type, x.shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, shift, axes = inputs
        wanted = [int(a) for a in axes.reshape(-1)]
        amounts = [int(v) for v in shift.reshape(-1)]
        return (np.roll(x, amounts * len(wanted) if len(amounts) == 1 else amounts, wanted),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        return [
            Case(cls(), (x, np.array([1]), np.array([2])), "one"),
            Case(cls(), (x, np.array([-2, 1]), np.array([1, -1])), "two"),
            Case(cls(), (x, np.array([7, 2]), np.array([2, 2])), "same_axis_twice"),
        ]


def _vectors(inputs: Sequence[Arg]) -> list[list[int]] | None:
    if any(a.value is None for a in inputs[1:]):
        return None
    return [integers(a, "block shape, pads and crops") for a in inputs[1:]]


def _unknown(x: Arg) -> list[TensorType]:
    return [TensorType(x.type, PartialShape(None if x.shape.dims is None else (ANY,) * len(x.shape)))]


@op
class BatchToSpace(Op):
    """Blocks of the batch axis become blocks of the other axes, then both ends are cropped (OpenVINO opset2).

    Inputs: x, block_shape, crops_begin, crops_end (one value an axis; the first block is 1).
    """

    version: ClassVar[str] = "opset2"
    arity: ClassVar[tuple[int, int | None]] = (4, 4)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, vectors = inputs[0], _vectors(inputs)
        if x.shape.dims is None or vectors is None:
            return _unknown(x)
        block, begin, end = vectors
        _check_vectors(x, block, begin, end)
        dims = [divided(x.shape[0], math.prod(block), "the batch")]
        for d, k, b, e in zip(x.shape.dims[1:], block[1:], begin[1:], end[1:], strict=True):
            full = times(d, k)
            if full.hi is not None and full.hi < b + e:
                raise ModelError(f"crops {b} and {e} take more than the length {full}")
            dims.append(Dimension(max(full.lo - b - e, 0), None if full.hi is None else full.hi - b - e))
        return [TensorType(x.type, checked(dims))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        block, begin, end = ([int(v) for v in a.reshape(-1)] for a in inputs[1:])
        k = x.ndim - 1
        y = x.reshape(*block[1:], -1, *x.shape[1:])
        order = [k, *(a for i in range(k) for a in (k + 1 + i, i))]
        y = y.transpose(order).reshape(-1, *(n * b for n, b in zip(x.shape[1:], block[1:], strict=True)))
        inside = tuple(slice(b, n - e) for n, b, e in zip(y.shape, begin, end, strict=True))
        return (y[inside].copy(),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(96, dtype=np.float32).reshape(8, 1, 3, 4)
        zero = np.array([0, 0, 0, 0])
        return [
            Case(cls(), (x, np.array([1, 1, 2, 2]), zero, zero), "plain"),
            Case(cls(), (x, np.array([1, 1, 2, 4]), np.array([0, 0, 1, 0]), np.array([0, 0, 0, 2])), "crops"),
        ]


@op
class SpaceToBatch(Op):
    """Zero padding, then blocks of the axes become batch entries (OpenVINO opset2 SpaceToBatch).

    Inputs: x, block_shape, pads_begin, pads_end (one value an axis; the first block is 1).
    """

    version: ClassVar[str] = "opset2"
    arity: ClassVar[tuple[int, int | None]] = (4, 4)

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, vectors = inputs[0], _vectors(inputs)
        if x.shape.dims is None or vectors is None:
            return _unknown(x)
        block, begin, end = vectors
        _check_vectors(x, block, begin, end)
        dims = [times(x.shape[0], math.prod(block))]
        for d, k, b, e in zip(x.shape.dims[1:], block[1:], begin[1:], end[1:], strict=True):
            dims.append(divided(d + Dimension(b + e, b + e), k, "a padded length"))
        return [TensorType(x.type, checked(dims))]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x = inputs[0]
        block, begin, end = ([int(v) for v in a.reshape(-1)] for a in inputs[1:])
        x = np.pad(x, list(zip(begin, end, strict=True)))
        k = x.ndim - 1
        lengths = [n // b for n, b in zip(x.shape[1:], block[1:], strict=True)]
        y = x.reshape(x.shape[0], *(v for n, b in zip(lengths, block[1:], strict=True) for v in (n, b)))
        order = [*(2 + 2 * i for i in range(k)), 0, *(1 + 2 * i for i in range(k))]
        return (y.transpose(order).reshape(-1, *lengths),)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(48, dtype=np.float32).reshape(2, 1, 4, 6)
        zero = np.array([0, 0, 0, 0])
        return [
            Case(cls(), (x, np.array([1, 1, 2, 3]), zero, zero), "plain"),
            Case(cls(), (x, np.array([1, 1, 3, 2]), np.array([0, 0, 1, 0]), np.array([0, 0, 1, 2])), "pads"),
        ]


def _check_vectors(x: Arg, block: list[int], begin: list[int], end: list[int]) -> None:
    if len(x.shape) < 2 or any(len(v) != len(x.shape) for v in (block, begin, end)):
        raise ModelError(f"{x.shape} needs one block length and two pads or crops for each axis, and two axes or more")
    if block[0] != 1 or any(not 1 <= b <= LARGEST for b in block):
        raise ModelError(f"the block shape {block} must start with 1 and hold positive lengths")
    if any(not 0 <= v <= LARGEST for v in (*begin, *end)) or begin[0] or end[0]:
        raise ModelError(f"pads and crops {begin}, {end} cannot be negative, and are 0 for the batch")


@op
@record
class ReverseSequence(Op):
    """The first `seq_lengths[b]` elements along seq_axis in reverse order (OpenVINO opset1 ReverseSequence).

    Inputs: x and seq_lengths `[x.shape[batch_axis]]`.
    """

    arity: ClassVar[tuple[int, int | None]] = (2, 2)
    batch_axis: int = 0
    seq_axis: int = 1

    def infer(self, inputs: Sequence[Arg]) -> list[TensorType]:
        x, lengths = inputs
        if lengths.shape.rank not in (None, 1):
            raise ModelError(f"the sequence lengths must be a vector, not of shape {lengths.shape}")
        if x.shape.dims is not None:
            if len(x.shape) < 2:
                raise ModelError(f"the input must have rank 2 or more, not {x.shape}")
            batch = normalize_axis(self.batch_axis, len(x.shape))
            normalize_axis(self.seq_axis, len(x.shape))
            if lengths.shape.dims is not None and x.shape[batch].merge(lengths.shape[0]) is None:
                raise ModelError(f"{lengths.shape[0]} sequence lengths for a batch of {x.shape[batch]}")
        return [TensorType(x.type, x.shape)]

    def eval(self, *inputs: Array) -> tuple[Array, ...]:
        x, lengths = inputs
        y = x.copy()
        source = np.moveaxis(x, (self.batch_axis, self.seq_axis), (0, 1))
        target = np.moveaxis(y, (self.batch_axis, self.seq_axis), (0, 1))
        for b, n in enumerate(lengths.reshape(-1)):
            target[b, : int(n)] = source[b, : int(n)][::-1]
        return (y,)

    @classmethod
    def cases(cls) -> list[Case]:
        x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        return [
            Case(cls(0, 1), (x, np.array([1, 3, 4], np.int32)), "rows"),
            Case(cls(1, 2), (x, np.array([5, 2, 1, 4], np.int32)), "inner"),
        ]
