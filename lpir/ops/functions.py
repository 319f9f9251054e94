"""Mathematical functions, element by element (OpenVINO opset1 unless a class says otherwise).

Integers go through float64 and are rounded to the nearest, by Exp and Log toward zero, as OpenVINO's reference does.
"""

from __future__ import annotations

from typing import ClassVar

from lpir.ir.op import op
from lpir.ir.types import f64
from lpir.ops.bases import Unary
from lpir.scalar.expr import Expr, apply, cast, rint


class Function(Unary):
    """A function that `scalar` knows by name."""

    function: ClassVar[str] = ""

    def expr(self, x: Expr) -> Expr:
        if not x.type.is_integer:
            return apply(self.function, x)
        y = apply(self.function, cast(x, f64))
        return cast(y if self.function in ("exp", "log") else rint(y), x.type)


@op
class Sqrt(Function):
    """The square root; NaN below 0."""

    function: ClassVar[str] = "sqrt"
    domain: ClassVar[tuple[float, float]] = (0.0, 9.0)


@op
class Exp(Function):
    """`e ** x`."""

    function: ClassVar[str] = "exp"


@op
class Log(Function):
    """The natural logarithm; -inf at 0, NaN below."""

    function: ClassVar[str] = "log"
    domain: ClassVar[tuple[float, float]] = (0.01, 9.0)


@op
class Erf(Function):
    """`2 / sqrt(pi)` times the integral of `exp(-t^2)` from 0 to `x`."""

    function: ClassVar[str] = "erf"


@op
class Tanh(Function):
    """`(e^x - e^-x) / (e^x + e^-x)`."""

    function: ClassVar[str] = "tanh"


@op
class Sin(Function):
    """The sine of `x` radians."""

    function: ClassVar[str] = "sin"


@op
class Cos(Function):
    """The cosine of `x` radians."""

    function: ClassVar[str] = "cos"


@op
class Tan(Function):
    """The tangent of `x` radians."""

    function: ClassVar[str] = "tan"


@op
class Asin(Function):
    """The angle in [-pi/2, pi/2] whose sine is `x`."""

    function: ClassVar[str] = "asin"
    domain: ClassVar[tuple[float, float]] = (-1.0, 1.0)


@op
class Acos(Function):
    """The angle in [0, pi] whose cosine is `x`."""

    function: ClassVar[str] = "acos"
    domain: ClassVar[tuple[float, float]] = (-1.0, 1.0)


@op
class Atan(Function):
    """The angle in [-pi/2, pi/2] whose tangent is `x`."""

    function: ClassVar[str] = "atan"


@op
class Sinh(Function):
    """`(e^x - e^-x) / 2`."""

    function: ClassVar[str] = "sinh"


@op
class Cosh(Function):
    """`(e^x + e^-x) / 2`."""

    function: ClassVar[str] = "cosh"


@op
class Asinh(Function):
    """The inverse of Sinh (opset4)."""

    version: ClassVar[str] = "opset4"
    function: ClassVar[str] = "asinh"


@op
class Acosh(Function):
    """The inverse of Cosh for `x >= 1` (opset4)."""

    version: ClassVar[str] = "opset4"
    function: ClassVar[str] = "acosh"
    domain: ClassVar[tuple[float, float]] = (1.0, 9.0)


@op
class Atanh(Function):
    """The inverse of Tanh (opset4)."""

    version: ClassVar[str] = "opset4"
    function: ClassVar[str] = "atanh"
    domain: ClassVar[tuple[float, float]] = (-0.95, 0.95)
