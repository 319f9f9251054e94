"""ImageConvolution in AMX's tile registers: floats become codes where the rows of the image are interleaved."""

from __future__ import annotations

import math

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.convolution_amx import refuse_wide, wide_step
from lpir.devices.cpu.kernels.convolution_int8 import weights_of
from lpir.devices.cpu.kernels.epilogue import Epilogue
from lpir.devices.cpu.kernels.interleaved_rows import FLOAT, Interleaving
from lpir.devices.cpu.kernels.product_int8 import Product
from lpir.devices.cpu.kernels.rows import refuse_epilogue, refuse_operands
from lpir.ir.graph import Node
from lpir.ir.types import i8
from lpir.ops.boundary import Constant
from lpir.ops.lowered import expanded
from lpir.ops.lowered_image import ImageConvolution
from lpir.scalar.evaluate import evaluate

# channels of which words are put in order in registers
MOST_CHANNELS = 4


class ConvolutionImage(Kernel):
    """One pass makes codes of the image, the other multiplies them by blocks of 64 channels."""

    name = "amx_image"
    ops = (ImageConvolution,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        op = node.op
        assert isinstance(op, ImageConvolution)
        if not isa.tiles:
            return f"{isa.name} has no tile registers"
        if node.inputs[1].element_type != i8 or not isinstance(node.inputs[1].node.op, Constant):
            return "the weights are not constant bytes"
        return (
            refuse_epilogue(expanded(op.codes))
            or refuse_epilogue(expanded(op.epilogue))
            or refuse_operands(node, 2)
            or _refuse_image(op, node.inputs[0].shape.to_static(), isa)
            or _interleaving(node).refuse()
            or refuse_wide(_product(node, Ref(0)))
        )

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, ImageConvolution)
        image = _interleaving(node)
        copy = ctx.scratch(image.nbytes) + image.lead
        codes = Epilogue(expanded(op.codes), [])
        pack = image.step_of_floats(codes, ctx.ref(node.inputs[0]), copy, isa, ctx)
        return [pack, wide_step(_product(node, copy), isa, ctx)]


def _refuse_image(op: ImageConvolution, shape: tuple[int, ...], isa: Isa) -> str | None:
    """Why the codes of an image cannot be made where its rows are interleaved, or None."""
    if not isinstance(op.convolution.x_zero_point, int):
        return "the channels have different zero points"
    if shape[1] > MOST_CHANNELS or shape[-1] < isa.lanes():
        return f"an image of {shape[1]} channels in rows of {shape[-1]} pixels"
    if math.prod(shape) * FLOAT >= 1 << 31:
        return "the image is larger than 2 GiB"
    if not Epilogue(expanded(op.codes), []).ends_in_bytes:
        return "codes are not the low bytes of integers"
    outside = int(evaluate(expanded(op.codes), [np.zeros((), np.float32)]))
    return None if outside == op.convolution.x_zero_point else "what lies outside is not the code of 0"


def _interleaving(node: Node) -> Interleaving:
    """The copy of the image's codes."""
    op = node.op
    assert isinstance(op, ImageConvolution)
    batch, channels, *spatial = node.inputs[0].shape.to_static()
    kernel = node.inputs[1].shape.to_static()[:-2]
    return Interleaving(op.convolution, (batch, *spatial, channels), kernel, node.outputs[0].shape.to_static())


def _product(node: Node, copy: Ref) -> Product:
    """The product of the image's copy."""
    image = _interleaving(node)
    return Product(node, image.zero, copy, image.offsets, (0,), image.weights(weights_of(node))[None, None], 0)


KERNELS: list[Kernel] = [ConvolutionImage()]
