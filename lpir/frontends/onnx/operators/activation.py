"""Activation functions and softmax."""

from __future__ import annotations

from lpir.errors import ModelError
from lpir.frontends.onnx.conversion import Call, rank_of
from lpir.frontends.onnx.table import MICROSOFT, operator
from lpir.ir.graph import Value
from lpir.ir.types import i64

PLAIN = {
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "HardSwish": "HSwish",
    "Mish": "Mish",
    "Softplus": "SoftPlus",
    "Softsign": "SoftSign",
}


@operator(*PLAIN)
def plain(c: Call) -> Value:
    return c.make(PLAIN[c.operator.type], c[0])


@operator("LeakyRelu")
def leaky_relu(c: Call) -> Value:
    return c.make("PRelu", c[0], c.like(c[0], c.real("alpha", 0.01)))


@operator("PRelu")
def prelu(c: Call) -> Value:
    """PRelu; a slope of full rank, so that OpenVINO's rule for 1-D slopes (axis 1) cannot change its meaning."""
    x, slope = c[0], c[1]
    missing = rank_of(x) - rank_of(slope)
    if missing > 0 and rank_of(slope) > 0:
        slope = c.make("Unsqueeze", slope, c.const(list(range(missing))))
    return c.make("PRelu", x, slope)


@operator("Elu")
def elu(c: Call) -> Value:
    return c.make("Elu", c[0], alpha=c.real("alpha", 1.0))


@operator("Selu")
def selu(c: Call) -> Value:
    alpha, gamma = c.real("alpha", 1.67326319217681884765625), c.real("gamma", 1.05070102214813232421875)
    return c.make("Selu", c[0], c.like(c[0], alpha), c.like(c[0], gamma))


@operator("Celu")
def celu(c: Call) -> Value:
    """`max(0, x) + min(0, alpha * (exp(x / alpha) - 1))` = alpha * Elu(x / alpha)."""
    alpha = c.like(c[0], c.real("alpha", 1.0))
    return c.make("Multiply", c.make("Elu", c.make("Divide", c[0], alpha), alpha=1.0), alpha)


@operator("HardSigmoid")
def hard_sigmoid(c: Call) -> Value:
    alpha, beta = c.like(c[0], c.real("alpha", 0.2)), c.like(c[0], c.real("beta", 0.5))
    return c.make("HardSigmoid", c[0], alpha, beta)


@operator("ThresholdedRelu")
def thresholded_relu(c: Call) -> Value:
    above = c.make("Greater", c[0], c.like(c[0], c.real("alpha", 1.0)))
    return c.make("Select", above, c[0], c.like(c[0], 0))


@operator("Shrink")
def shrink(c: Call) -> Value:
    x, lambd, bias = c[0], c.real("lambd", 0.5), c.real("bias", 0.0)
    low = c.make("Select", c.make("Less", x, c.like(x, -lambd)), c.make("Add", x, c.like(x, bias)), c.like(x, 0))
    return c.make("Select", c.make("Greater", x, c.like(x, lambd)), c.make("Subtract", x, c.like(x, bias)), low)


@operator("Swish", since=24)
def swish(c: Call) -> Value:
    alpha = c.real("alpha", 1.0)
    return c.make("Swish", c[0]) if alpha == 1 else c.make("Swish", c[0], c.like(c[0], alpha))


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(c: Call) -> Value:
    return c.make("Swish", c[0], c.like(c[0], c.real("alpha", 1.702)))


@operator("Gelu", since=20)
def gelu(c: Call) -> Value:
    mode = c.text("approximate", "none")
    if mode not in ("none", "tanh"):
        raise ModelError(f"approximate must be none or tanh, not {mode!r}")
    return c.make("Gelu", c[0], approximation_mode="ERF" if mode == "none" else "TANH")


@operator("Gelu", "BiasGelu", domain=MICROSOFT)
def gelu_bias(c: Call) -> Value:
    return c.make("Gelu", biased(c), approximation_mode="ERF")


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(c: Call) -> Value:
    return c.make("Gelu", biased(c), approximation_mode="TANH")


def biased(c: Call) -> Value:
    bias = c.maybe(1)
    return c[0] if bias is None else c.make("Add", c[0], bias)


SOFTMAX = {"Softmax": "Softmax", "LogSoftmax": "LogSoftmax"}


@operator(*SOFTMAX, since=13)
def softmax(c: Call) -> Value:
    return c.make(SOFTMAX[c.operator.type], c[0], axis=c.axis(-1))


@operator(*SOFTMAX)
def softmax_flattened(c: Call) -> Value:
    """Before operator set 13: softmax over all dimensions from `axis` (default 1) on, taken as one."""
    x, axis = c[0], c.axis(1)
    kind = SOFTMAX[c.operator.type]
    if axis == c.rank() - 1:
        return c.make(kind, x, axis=axis)
    flat = c.make("Reshape", x, c.const([0] * axis + [-1]), special_zero=True)
    shape = c.make("ShapeOf", x, output_type=i64)
    return c.make("Reshape", c.make(kind, flat, axis=axis), shape, special_zero=False)


@operator("Hardmax", since=13)
def hardmax(c: Call) -> Value:
    """1 where the (first) largest element along `axis` is, else 0."""
    x, axis = c[0], c.axis(-1)
    top = c.make_all("TopK", x, c.const(1), axis=axis, mode="max", sort="value", index_element_type=i64, stable=True)
    index = c.make("Squeeze", top[1], c.const([axis]))
    depth = c.make("Gather", c.make("ShapeOf", x, output_type=i64), c.const(axis), c.const(0), batch_dims=0)
    return c.make("OneHot", index, depth, c.like(x, 1), c.like(x, 0), axis=axis)
