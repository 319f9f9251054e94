"""From a public model to a lowered one of static shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpir.devices.cpu.grouping import group_channels
from lpir.devices.cpu.images import join_images
from lpir.devices.cpu.isa import Isa
from lpir.errors import ModelError
from lpir.ir.model import Model
from lpir.ops.boundary import Constant
from lpir.passes.compress import compress_weights
from lpir.passes.lowprec.lower import lower_model
from lpir.passes.manager import transform
from lpir.passes.unroll import unroll_loops

# bytes of a constant that are not worth the trouble
SMALL = 4096


def is_static(model: Model) -> bool:
    """Whether every value has a static shape."""
    return all(v.shape.is_static for n in model.nodes() for v in n.outputs)


def is_stateful(model: Model) -> bool:
    """Whether inferences depend on earlier ones."""
    return any(n.op.type_name in ("ReadValue", "Assign") for n in model.nodes())


def clean(model: Model) -> Model:
    """The standard clean-up in place, with short loops unrolled."""
    transform(model)
    while unroll_loops(model):
        transform(model)
    return model


def prepare(model: Model, low_precision: bool) -> Model:
    """A cleaned copy: constants and shape arithmetic folded, spelled-out operations composed.

    With `low_precision`, quantized weights become codes; without, FakeQuantize stays as it stands on weights too.
    """
    copy = clean(model.clone())
    if low_precision:
        compress_weights(copy)
    return copy


def specialize(model: Model, shapes: Sequence[tuple[int, ...]]) -> Model:
    """A cleaned copy for these input shapes. Raises ModelError when they do not fit."""
    copy = model.clone()
    copy.reshape(dict(enumerate(shapes)))
    return clean(copy)


def hollow(model: Model) -> None:
    """Leaves of a model's large constants only their types: the plan has packed what they held."""
    for node in model.nodes():
        if isinstance(node.op, Constant) and node.op.data.nbytes > SMALL:
            nothing = np.broadcast_to(np.zeros((), node.op.data.dtype), node.op.data.shape)
            node.op = Constant(nothing, node.op.element_type)


def lower(model: Model, low_precision: bool) -> Model:
    """The lowered form of a static model. Raises ModelError when a shape is dynamic."""
    if not is_static(model):
        raise ModelError("the model has shapes that depend on its values")
    return lower_model(model, low_precision=low_precision)


def lower_for(model: Model, low_precision: bool, isa: Isa) -> Model:
    """The lowered form as the kernels of `isa` like it best; to the same bits as `lower`."""
    lowered = lower(model, low_precision)
    group_channels(lowered, isa)
    join_images(lowered, isa)
    return lowered
