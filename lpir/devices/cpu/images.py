"""Joins the first convolution of a network to what makes codes of an image, where a kernel does both in one pass."""

from __future__ import annotations

from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.select import choose
from lpir.ir.graph import Node, Value
from lpir.ir.model import Model
from lpir.ir.types import f32, u8
from lpir.ops.boundary import constant_data
from lpir.ops.lowered import Elementwise, LoweredConvolution
from lpir.ops.lowered_image import ImageConvolution


def join_images(model: Model, isa: Isa) -> int:
    """Joins convolutions of a lowered model to the quantization of the images that they read; says how many."""
    if not isa.tiles:
        return 0
    found = [made for image in model.inputs if (made := _convolution_of(image)) is not None]
    return sum(_join(*nodes, isa) for nodes in found)


def _convolution_of(image: Value) -> tuple[Node, Node, Node] | None:
    """The quantization, the transposition and the convolution that alone read an image of floats one behind another."""
    if image.element_type != f32:
        return None
    quantization = _only_reader(image)
    transposition = quantization and _only_reader(quantization.outputs[0])
    convolution = transposition and _only_reader(transposition.outputs[0])
    if not quantization or not transposition or not convolution:
        return None
    rank = len(image.shape.to_static())
    order = constant_data(transposition.inputs[1]) if transposition.op.type_name == "Transpose" else None
    is_moved = order is not None and order.tolist() == [0, *range(2, rank), 1]
    makes_codes = isinstance(quantization.op, Elementwise) and quantization.outputs[0].element_type == u8
    alone = len(quantization.inputs) == 1
    fits = isinstance(convolution.op, LoweredConvolution) and is_moved and makes_codes and alone
    return (quantization, transposition, convolution) if fits else None


def _only_reader(value: Value) -> Node | None:
    """The node that reads a value first, if nobody else does."""
    uses = value.uses
    return uses[0].node if len(uses) == 1 and uses[0].index == 0 else None


def _join(quantization: Node, transposition: Node, convolution: Node, isa: Isa) -> bool:
    """Puts one node in the place of three, if there is a kernel for it."""
    codes, op = quantization.op, convolution.op
    assert isinstance(codes, Elementwise)
    assert isinstance(op, LoweredConvolution)
    joined = Node(ImageConvolution(codes.expr, op), [*quantization.inputs, *convolution.inputs[1:]], convolution.name)
    if choose(joined, isa).kernel is None:
        joined.detach()
        return False
    nodes = (convolution, quantization, transposition)
    joined.source = list(dict.fromkeys(name for node in nodes for name in node.source))
    joined.output.quant = convolution.output.quant
    convolution.output.replace_all_uses_with(joined.output)
    for node in (convolution, transposition, quantization):
        node.detach()
    return True
