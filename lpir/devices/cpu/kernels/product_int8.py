"""A product of u8 activations and constant weights: what convolutions and MatMul come to, and its step by vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels import igemm, igemm_int16, igemm_pairs
from lpir.devices.cpu.kernels.base import BuildContext, Step
from lpir.devices.cpu.kernels.epilogue import Bound, Epilogue, Rows
from lpir.devices.cpu.kernels.igemm import IntGemm
from lpir.devices.cpu.kernels.ranges import largest_code, sums_range
from lpir.devices.cpu.kernels.rows import Rewrite, bind_operand, epilogue_of, operand_of
from lpir.devices.cpu.kernels.tiling import Tile
from lpir.ir.graph import Node
from lpir.ops.lowered import LoweredConvolution, LoweredMatMul, expanded
from lpir.ops.lowered_image import ImageConvolution
from lpir.record import record
from lpir.scalar.expr import Expr

Array = np.ndarray[Any, np.dtype[Any]]


@record
class Product:
    """What a convolution or MatMul comes to: for group `g`, the pixel at byte `offsets[m]` behind `g * group_bytes` of
    `x`, and each run of `length` channels at byte `runs[r]` of a pixel, times `w` [G, runs, length, N]."""

    node: Node
    zero_point: int
    x: Ref
    offsets: Array
    runs: tuple[int, ...]
    w: Array
    group_bytes: int

    @property
    def epilogue(self) -> Expr:
        """What becomes of a sum."""
        op = self.node.op
        assert isinstance(op, LoweredConvolution | LoweredMatMul | ImageConvolution)
        return expanded(op.epilogue)

    @property
    def out(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.node.outputs[0].shape.to_static()

    @property
    def top(self) -> int:
        """The largest activation, padding included."""
        return max(largest_code(self.node.inputs[0]), min(255, self.zero_point))

    def finish(self, rewrite: Rewrite | None = None) -> Epilogue:
        """The epilogue as a kernel prints it; `rewrite`: see `epilogue_of`."""
        operands = self.node.inputs[2:]
        low, high = zip(*[sums_range(part, self.zero_point) for part in self.w], strict=True)
        sums = np.concatenate(low), np.concatenate(high)
        return epilogue_of(self.epilogue, [operand_of(v, self.out) for v in operands], operands, sums, rewrite)

    def bound(self, ctx: BuildContext) -> list[Bound]:
        """The epilogue's operands."""
        return [bind_operand(v, self.out, ctx) for v in self.node.inputs[2:]]


def igemm_step(product: Product, isa: Isa, ctx: BuildContext) -> Step:
    """The product by vectors' dot products."""
    w = product.w
    rows = _rows(product.offsets, ctx)
    finish = product.finish()
    gemm = gemm_builder(isa)(
        isa,
        m=len(product.offsets),
        n=w.shape[-1],
        channels=w.shape[2],
        taps=product.runs,
        epilogue=finish,
        groups=w.shape[0],
        x_table=rows.table is not None,
        tile=_tile(product, finish, isa, ctx),
    )
    packed = gemm.pack(w, product.top)
    call = igemm.Call(
        x=product.x,
        x_rows=rows,
        weights=ctx.constant(packed.weights),
        init=ctx.constant(igemm.init_vector(isa, packed, product.zero_point)),
        out=ctx.ref(product.node.outputs[0]),
        out_rows=Rows(ctx.pitch(product.node.outputs[0])),
        operands=product.bound(ctx),
        offsets=ctx.constant(packed.offsets) if gemm.needs_offsets else 0,
        ranges=ctx.constant(packed.ranges) if gemm.needs_ranges else 0,
        x_group=product.group_bytes,
    )
    return Step(gemm.kernel, tuple(gemm.params(call, ctx.threads)))


def _tile(product: Product, finish: Epilogue, isa: Isa, ctx: BuildContext) -> Tile | None:
    """The tile; None where there is no choice."""
    if gemm_builder(isa) is not igemm.build:
        return None
    groups, runs, length, n = product.w.shape
    m, steps = len(product.offsets), runs * -(-length // 4)
    return ctx.pick(f"igemm {groups} x {m} x {n} x {runs} x {length}", igemm.tiles(isa, m, n, steps, finish))


def gemm_builder(isa: Isa) -> Callable[..., IntGemm]:
    """What builds kernels for `isa`: its dot product is exact by instruction, or by what the packer proves."""
    if isa.pair_dot is not None:
        return igemm_pairs.build
    return igemm.build if isa.exact else igemm_int16.build


def as_bytes(runs: tuple[int, ...], w: Array) -> tuple[tuple[int, ...], Array]:
    """`runs` and weights [G, runs, length, N] as int8; see `byte_parts`."""
    parts = byte_parts(w)
    return runs * len(parts), np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def byte_parts(w: Array) -> list[Array]:
    """int8 arrays that add up to `w`: asymmetric weights take two or three passes over the same activations."""
    if w.dtype == np.int8:
        return [w]
    parts: list[Array] = []
    rest = w.astype(np.int32)
    while not parts or rest.any():
        parts.append(np.clip(rest, -128, 127).astype(np.int8))
        rest = rest - parts[-1]
    return parts


def _rows(offsets: Array, ctx: BuildContext) -> Rows:
    """A stride where pixels follow each other at one distance in the input, a table otherwise."""
    stride = int(offsets[1]) if len(offsets) > 1 else 0
    if np.array_equal(offsets, np.arange(len(offsets)) * stride):
        return Rows(stride)
    return Rows(table=ctx.constant(offsets.astype(np.int32)))
