"""Brings a float model into the form that placement expects: weights are constants, batch normalization is folded."""

from __future__ import annotations

import numpy as np

from lpir.ir.graph import Node
from lpir.ir.model import Model
from lpir.ops.boundary import Constant, constant_data
from lpir.passes.batchnorm import fold_batch_normalization
from lpir.passes.dce import remove_unused
from lpir.passes.fold import fold_constants


def prepare(model: Model) -> Model:
    """A copy of `model` with the same outputs, ready for quantizers. Layer names stay."""
    copy = model.clone()
    decompress(copy)
    fold_constants(copy)
    fold_batch_normalization(copy)
    fold_constants(copy)
    remove_unused(copy)
    return copy


def decompress(model: Model) -> int:
    """Float weights stored in half precision become what their Convert makes of them; how many."""
    count = 0
    for node in model.nodes():
        data = constant_data(node.inputs[0]) if node.op.type_name == "Convert" else None
        if data is None or not node.inputs[0].element_type.is_float or not node.output.element_type.is_float:
            continue
        target = node.output.element_type
        made = Node(Constant(np.asarray(data).astype(target.dtype), target), (), node.inputs[0].node.name)
        node.output.replace_all_uses_with(made.output)
        node.detach()
        count += 1
    return count
