"""Pooling over windows and over whole feature maps."""

from __future__ import annotations

from lpir.errors import ModelError, UnsupportedError
from lpir.frontends.onnx.conversion import Call
from lpir.frontends.onnx.operators.convolution import window
from lpir.frontends.onnx.operators.quantization import moves_codes
from lpir.frontends.onnx.table import operator
from lpir.ir.graph import Value
from lpir.ir.types import i64


def kernel(c: Call) -> tuple[int, ...]:
    shape = c.integers("kernel_shape")
    if len(shape) != c.rank() - 2 or min(shape, default=1) < 1:
        raise ModelError(f"kernel_shape {shape} does not fit an input of rank {c.rank()}")
    return shape


def rounding(c: Call) -> str:
    """ceil_mode; a last window that would start in the padding is left out, as in PyTorch."""
    return "ceil_torch" if c.integer("ceil_mode", 0) else "floor"


@operator("MaxPool")
@moves_codes
def max_pool(c: Call) -> list[Value]:
    if c.integer("storage_order", 0) and len(c.operator.outputs) > 1:
        raise UnsupportedError("column-major indices (storage_order=1) are not supported")
    shape = kernel(c)
    return c.make_all(
        "MaxPool",
        c[0],
        kernel=shape,
        rounding_type=rounding(c),
        index_element_type=i64,
        axis=0,
        **window(c, len(shape)),
    )


@operator("AveragePool")
def average_pool(c: Call) -> Value:
    shape = kernel(c)
    attributes = window(c, len(shape))
    dilations = attributes.pop("dilations")
    if dilations != (1,) * len(shape):
        raise UnsupportedError(f"dilations {dilations} are not supported")
    exclude = not c.integer("count_include_pad", 0)
    return c.make("AvgPool", c[0], kernel=shape, rounding_type=rounding(c), exclude_pad=exclude, **attributes)


GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


@operator(*GLOBAL)
def global_pool(c: Call) -> Value:
    return c.make(GLOBAL[c.operator.type], c[0], c.const(list(range(2, c.rank()))), keep_dims=True)
