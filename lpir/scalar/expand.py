"""Functions rewritten into primitive operations, so that NumPy and native code compute the same bits.

After `expand` an expression holds only `add sub mul div minimum maximum rint rint_i32 cast bitcast shl shr and or xor
not select neg abs floor sqrt`, comparisons, leaves and constants. Largest error in units of the last place of float32,
over all finite arguments unless a range is given; test_expand.py checks each number:

| function | ulp | function | ulp |
|---|---|---|---|
| exp | 3 | sin, cos (abs(x) < 2^31) | 2 |
| log | 1 | tan (abs(x) < 2^31) | 4 |
| tanh | 7 | asin, acos, atan | 4 |
| erf | 3 | sinh, cosh | 7 |
| pow | 1 | asinh, acosh, atanh | 3 |

Zero, infinities, NaN, overflow and denormal results are as IEEE 754 / C say. Float `mod` is exact while the quotient is
below 2^29. float16 and bfloat16 compute in float32 and round once; float64 functions stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lpir.ir.types import ElementType, f32, f64, i32, i64
from lpir.scalar.expr import Expr, apply, bitcast, cast, clamp, const, floor, lookup, rint, select, sqrt

INF = float("inf")
NAN = float("nan")
SIGN = -(2**31)
LN2 = 0.6931471805599453
# ln(2) as a sum: the first part has 15 bits, so that a product with an exponent is exact
LN2_HI, LN2_LO = 0.693145751953125, 1.428606765330187e-06


def expand(expr: Expr) -> Expr:
    """`expr` with every function replaced by primitives; bit-exact wherever the function is itself a primitive."""
    new: dict[int, Expr] = {}
    for node in expr.walk():
        args = tuple(new[id(a)] for a in node.args)
        kept = node if all(a is b for a, b in zip(args, node.args, strict=True)) else _with_args(node, args)
        new[id(node)] = _expand_one(kept)
    return new[id(expr)]


def _with_args(node: Expr, args: tuple[Expr, ...]) -> Expr:
    return Expr(node.fn, args, node.type, node.value)


def _expand_one(node: Expr) -> Expr:
    rule = EXACT.get(node.fn)
    if rule is not None:
        return rule(*node.args)
    rule = APPROXIMATE.get(node.fn)
    if rule is None or node.type == f64:
        return node
    if node.type == f32:
        return rule(*node.args)
    if node.type.is_float:
        return cast(rule(*(cast(a, f32) for a in node.args)), node.type)
    return node


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """`c0 + x * (c1 + x * (c2 + ...))`."""
    result = x * coefficients[-1] + coefficients[-2] if len(coefficients) > 1 else const(coefficients[0], x.type)
    for c in reversed(coefficients[:-2]):
        result = result * x + c
    return result


def copy_sign(magnitude: Expr, sign: Expr) -> Expr:
    """A non-negative `magnitude` with the sign bit of `sign` (both f32)."""
    return bitcast(apply("or", bitcast(magnitude, i32), apply("and", bitcast(sign, i32), SIGN)), f32)


def _exp(x: Expr) -> Expr:
    # 2^n * e^r; 2^n is two factors, so that the last product alone overflows or rounds to a denormal
    bounded = clamp(x, -104.0, 89.0)
    shifted = bounded * 1.4426950216293335 + MAGIC
    n = shifted - MAGIC
    r = bounded - n * LN2_HI - n * LN2_LO
    p = horner(r, (1.0, 1.0, 0.4999922811985016, 0.16667117178440094, 0.04189065471291542, 0.00831241998821497))
    bits = bitcast(shifted, i32)
    half = apply("shr", bits, 1)
    return p * bitcast(apply("shl", half, 23), f32) * bitcast(apply("shl", bits - half, 23), f32)


# adding it leaves round(x) + 2 * 127 in the low bits of the float: two exponent biases for two factors
MAGIC = float(1.5 * 2**23 + 254)


def _split(x: Expr) -> tuple[Expr, Expr]:
    """`m` in [sqrt(1/2), sqrt(2)) and the float `e` with `x == m * 2^e`, for positive finite `x` (denormal too)."""
    tiny = apply("lt", x, 1.1754943508222875e-38)
    bits = bitcast(select(tiny, x * 8388608.0, x), i32)
    exponent = apply("shr", bits - 0x3F3504F3, 23)
    m = bitcast(bits - apply("shl", exponent, 23), f32)
    return m, cast(exponent, f32) - select(tiny, const(23.0), const(0.0))


def _log(x: Expr) -> Expr:
    m, e = _split(x)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    square = f * f * 0.5
    tail = z * horner(z, (0.6666666269302368, 0.40000972151756287, 0.2849879562854767, 0.24278931319713593))
    value = e * LN2_HI - ((square - (s * (square + tail) + e * LN2_LO)) - f)
    # +inf and NaN are their own logarithms
    value = select(apply("lt", x, INF), value, x)
    return select(apply("gt", x, 0.0), value, select(apply("eq", x, 0.0), const(-INF), const(NAN) + x))


def _log1p(x: Expr) -> Expr:
    """For `x` > -1 or the limits -1 and +inf."""
    t = x + 1.0
    lost = select(apply("lt", t, INF), (x - (t - 1.0)) / t, const(0.0))
    small = apply("lt", abs_(x), 5e-8)
    at_limit = apply("eq", t, 0.0)
    return select(small, x, select(at_limit, const(-INF), _log(t) + lost))


def abs_(x: Expr) -> Expr:
    return apply("abs", x)


def _tanh(x: Expr) -> Expr:
    y = clamp(x, -9.02, 9.02)
    z = y * y
    p = horner(z, (1.0, 0.133797287940979, 0.003494047559797764, 2.05836786335567e-05, 1.3319316316540153e-08))
    q = horner(z, (1.0, 0.4671304523944855, 0.025871124118566513, 0.00032831134740263224, 7.76212573327939e-07))
    return clamp(y * p / q, -1.0, 1.0)


# erf at k / 4 + r / 4 for -1/2 <= r <= 1/2: coefficients of r^0 .. r^5, an entry for each k
_ERF = (
    (
        *(0.0, 0.27632638812065125, 0.5204998850822449, 0.7111556529998779, 0.8427007794380188, 0.9229001402854919),
        *(0.9661051630973816, 0.9866716861724854, 0.9953222870826721, 0.9985373020172119, 0.9995930194854736),
        *(0.9998993873596191, 0.9999778866767883, 0.9999957084655762, 0.9999992847442627, 0.9999998807907104),
    ),
    (
        *(0.2820947766304016, 0.2650035619735718, 0.21969565749168396, 0.16073277592658997, 0.10377687960863113),
        *(0.05913028120994568, 0.02973257191479206, 0.013193747960031033, 0.0051667457446455956, 0.001785579603165388),
        *(0.0005445711431093514, 0.00014656942221336067, 3.481333260424435e-05, 7.297287083929405e-06),
        *(1.349867147837358e-06, 2.583609841622092e-07),
    ),
    (
        *(0.0, -0.016562381759285927, -0.027461528778076172, -0.030137164518237114, -0.025944257155060768),
        *(-0.0184783935546875, -0.011149880476295948, -0.005772342439740896, -0.002583377296105027),
        *(-0.001004363875836134, -0.0003403329465072602, -0.00010075216414406896, -2.610358569654636e-05),
        *(-5.926742232986726e-06, -1.1804503401435795e-06, -2.0641796538711787e-07),
    ),
    (
        *(-0.005876917392015457, -0.004831112455576658, -0.002288724761456251, 0.00041843325016088784),
        *(0.002161955926567316, 0.002617743331938982, 0.0021680269856005907, 0.0014087361050769687),
        *(0.0007534986361861229, 0.00033944917959161103, 0.00013046771346125752, 4.3128155084559694e-05),
        *(1.2327926924626809e-05, 3.058753463847097e-06, 6.606017564081412e-07, 1.2445072172795335e-07),
    ),
    (
        *(0.0, 0.0004923526430502534, 0.000710595806594938, 0.0005861665704287589, 0.00027066460461355746),
        *(-2.2119007553556003e-05, -0.00017244873743038625, -0.0001870776031864807, -0.00013450696133077145),
        *(-7.480863860109821e-05, -3.393690349184908e-05, -1.2878876987088006e-05, -4.1474690988252405e-06),
        *(-1.1436728755143122e-06, -2.7169716076969053e-07, -5.58502968317498e-08),
    ),
    (
        *(0.00010958027269225568, 7.893732254160568e-05, 7.968456884555053e-06, -5.124720701132901e-05),
        *(-6.71213201712817e-05, -4.6005774493096396e-05, -1.4679791092930827e-05, 6.281115929596126e-06),
        *(1.2680535292020068e-05, 1.0387357178842649e-05, 5.9904004956479184e-06, 2.7108890208182856e-06),
        *(1.0046486522696796e-06, 3.1164685765361355e-07, 8.197768153195284e-08, 1.844119346117168e-08),
    ),
)


def _erf(x: Expr) -> Expr:
    # adding 1.5 * 2^23 leaves k in the low bits of the float; the largest argument gives 1
    quarters = _times_power_of_two(x, 4.0)
    t = apply("minimum", abs_(quarters), 15.4999992)
    shifted = t + 1.5 * 2.0**23
    k, r = bitcast(shifted, i32), t - (shifted - 1.5 * 2.0**23)
    value = lookup(k, _ERF[-1])
    for entries in reversed(_ERF[:-1]):
        value = value * r + lookup(k, entries)
    return copy_sign(value, quarters)


def _times_power_of_two(x: Expr, power: float) -> Expr:
    """`x * power`; exact, so that it may join a factor of `x`."""
    if x.fn == "mul" and x.args[1].fn == "const":
        return x.args[0] * (float(x.args[1].value or 0) * power)
    return x * power


def _quadrant(x: Expr) -> tuple[Expr, Expr]:
    """`r` in [-pi/4, pi/4] (f32) and the int32 `n` with `x == n * pi/2 + r`; reduced in float64."""
    wide = cast(x, f64)
    magic = 1.5 * 2.0**52
    shifted = wide * 0.6366197723675814 + magic
    n = shifted - magic
    # pi/2 in parts of 22 bits: n * part is exact for abs(n) < 2^31
    r = wide - n * 1.570796012878418 - n * 3.139164164167596e-07 - n * 6.223372171896613e-14
    return cast(clamp(r, -0.786, 0.786), f32), cast(bitcast(shifted, i64), i32)


def _sin_poly(r: Expr) -> Expr:
    z = r * r
    return r * (z * horner(z, (-0.16666655242443085, 0.008332188241183758, -0.0001951809972524643)) + 1.0)


def _cos_poly(r: Expr) -> Expr:
    z = r * r
    tail = horner(z, (0.04166664555668831, -0.0013887310633435845, 2.4432552891084924e-05))
    return 1.0 - (z * 0.5 - z * z * tail)


def _odd(n: Expr) -> Expr:
    return apply("ne", apply("and", n, 1), 0)


def _flip_sign(y: Expr, n: Expr) -> Expr:
    """`-y` where bit 1 of `n` is set."""
    return bitcast(apply("xor", bitcast(y, i32), apply("shl", apply("and", n, 2), 30)), f32)


def _sin(x: Expr) -> Expr:
    r, n = _quadrant(x)
    return _flip_sign(select(_odd(n), _cos_poly(r), _sin_poly(r)), n)


def _cos(x: Expr) -> Expr:
    r, n = _quadrant(x)
    return _flip_sign(select(_odd(n), _sin_poly(r), _cos_poly(r)), n + 1)


def _tan(x: Expr) -> Expr:
    r, n = _quadrant(x)
    s, c = _sin_poly(r), _cos_poly(r)
    odd = _odd(n)
    return select(odd, -c, s) / select(odd, s, c)


def _asin_parts(x: Expr) -> tuple[Expr, Expr]:
    """Whether abs(x) > 1/2, and asin(abs(x)) or else asin(sqrt((1 - abs(x)) / 2)), which is in [0, pi/6]."""
    a = abs_(x)
    big = apply("gt", a, 0.5)
    z = select(big, (1.0 - a) * 0.5, a * a)
    s = select(big, sqrt(z), a)
    tail = horner(
        z, (0.16666752099990845, 0.07495307177305222, 0.04546964168548584, 0.02418149821460247, 0.0421651192009449)
    )
    return big, s + s * z * tail


def _asin(x: Expr) -> Expr:
    big, p = _asin_parts(x)
    return copy_sign(select(big, (1.5707963705062866 - p * 2.0) - 4.371138828673793e-08, p), x)


def _acos(x: Expr) -> Expr:
    big, p = _asin_parts(x)
    negative = apply("lt", x, 0.0)
    signed = copy_sign(p, x)
    near = (1.5707963705062866 - signed) - 4.371138828673793e-08
    far = select(negative, (3.1415927410125732 - p * 2.0) - 8.742277657347586e-08, p * 2.0)
    return select(big, far, near)


def _atan(x: Expr) -> Expr:
    a = abs_(x)
    big = apply("gt", a, 1.0)
    y = select(big, 1.0 / a, a)
    z = y * y
    p = horner(z, (1.0, 0.898405134677887, 0.1376163214445114))
    q = horner(z, (1.0, 1.231736421585083, 0.34822842478752136, 0.012378212064504623))
    t = y * p / q
    return copy_sign(select(big, (1.5707963705062866 - t) - 4.371138828673793e-08, t), x)


def _sinh(x: Expr) -> Expr:
    a = abs_(x)
    z = x * x
    small = x * (
        z * horner(z, (0.1666666716337204, 0.00833331048488617, 0.00019842895762560732, 2.7822131869470e-06)) + 1.0
    )
    # half the argument, so that e^x may overflow where sinh does not yet
    h = _exp(a * 0.5)
    large = copy_sign(h * 0.5 * h - 0.5 / (h * h), x)
    return select(apply("lt", a, 1.0), small, large)


def _cosh(x: Expr) -> Expr:
    h = _exp(abs_(x) * 0.5)
    return h * 0.5 * h + 0.5 / (h * h)


def _asinh(x: Expr) -> Expr:
    a = abs_(x)
    big = apply("gt", a, 1e4)
    bounded = apply("minimum", a, 1e4)
    square = bounded * bounded
    u = bounded + square / (sqrt(square + 1.0) + 1.0)
    return copy_sign(select(big, _log(a) + LN2, _log1p(u)), x)


def _acosh(x: Expr) -> Expr:
    big = apply("gt", x, 1e4)
    t = apply("minimum", x, 1e4) - 1.0
    value = select(big, _log(x) + LN2, _log1p(t + sqrt(t * 2.0 + t * t)))
    return select(apply("lt", x, 1.0), const(NAN), value)


def _atanh(x: Expr) -> Expr:
    a = abs_(x)
    inside = copy_sign(_log1p(a * 2.0 / (1.0 - a)) * 0.5, x)
    return select(apply("le", a, 1.0), inside, const(NAN) + x)


def _wide_log2(a: Expr) -> Expr:
    """log2 of a non-negative f32, in float64; -inf of 0, inf of inf."""
    m, e = _split(a)
    f = cast(m, f64) - 1.0
    s = f / (f + 2.0)
    z = s * s
    series = horner(
        z,
        (
            2.8853900817779428,
            0.961796693901067,
            0.5770780247643816,
            0.41219744186907104,
            0.32067401415451025,
            0.25981325642104186,
            0.2604849820684681,
        ),
    )
    value = cast(e, f64) + s * series
    value = select(apply("lt", a, INF), value, cast(a, f64))
    return select(apply("eq", a, 0.0), const(-INF, f64), value)


def _wide_exp2(t: Expr) -> Expr:
    """2^t of a float64, rounded to f32 once."""
    bounded = clamp(t, -300.0, 300.0)
    magic = 1.5 * 2.0**52 + 1023
    shifted = bounded + magic
    r = bounded - (shifted - magic)
    p = horner(
        r,
        (
            0.9999999999616811,
            0.6931471807284535,
            0.24022651198164172,
            0.05550410353428723,
            0.009618027252768072,
            0.0013333922576369342,
            0.00015469291436151448,
            1.5201919259042644e-05,
        ),
    )
    return cast(p * bitcast(apply("shl", bitcast(shifted, i64), 52), f64), f32)


def _pow(x: Expr, y: Expr) -> Expr:
    if y.fn == "const" and float(y.value or 0.0) in CONSTANT_POWERS:
        return CONSTANT_POWERS[float(y.value or 0.0)](x)
    a = abs_(x)
    r = _wide_exp2(cast(y, f64) * _wide_log2(a))
    half = y * 0.5
    is_integer = apply("eq", rint(y), y)
    is_odd = apply("and", is_integer, apply("ne", rint(half), half))
    r = copy_sign(r, select(is_odd, x, const(0.0)))
    no_root = apply("and", apply("lt", x, 0.0), apply("and", apply("gt", x, -INF), apply("not", is_integer)))
    r = select(no_root, const(NAN) + x, r)
    r = select(apply("or", apply("ne", x, x), apply("ne", y, y)), x + y, r)
    minus_one = apply("and", apply("eq", a, 1.0), apply("eq", abs_(y), INF))
    one = apply("or", apply("or", apply("eq", y, 0.0), apply("eq", x, 1.0)), minus_one)
    return select(one, const(1.0), r)


def _square_root(x: Expr) -> Expr:
    # pow differs from sqrt in two points: -0 gives 0 and -inf gives inf
    return select(apply("eq", x, -INF), const(INF), sqrt(x + 0.0))


CONSTANT_POWERS: dict[float, Callable[[Expr], Expr]] = {
    0.5: _square_root,
    1.0: lambda x: x,
    -1.0: lambda x: 1.0 / x,
    2.0: lambda x: x * x,
}


def _trunc(x: Expr) -> Expr:
    return select(apply("lt", x, 0.0), -floor(-x), floor(x))


def _mod(a: Expr, b: Expr) -> Expr:
    """C's remainder: the sign of `a`."""
    if a.type.is_integer:
        return select(apply("eq", b, 0), const(0, a.type), a - a / b * b)
    return cast(_float_mod(cast(a, f64), cast(b, f64), a), a.type)


def _float_mod(a: Expr, b: Expr, original: Expr) -> Expr:
    size, step = abs_(a), abs_(b)
    r = size - floor(size / step) * step
    # the quotient may have been rounded up to the next integer
    r = select(apply("lt", r, 0.0), r + step, r)
    r = select(apply("eq", step, INF), size, r)
    r = select(apply("lt", size, INF), r, const(NAN, f64) + a)
    return select(apply("lt", cast(original, f64), 0.0), -r, select(apply("eq", a, 0.0), a + r, r))


def _floor_mod(a: Expr, b: Expr) -> Expr:
    """Python's remainder: the sign of `b`."""
    r = _mod(a, b)
    zero = const(0, a.type)
    if a.type.is_integer and not a.type.is_signed:
        return r
    differs = apply("ne", apply("lt", r, zero), apply("lt", b, zero))
    moved = select(apply("and", apply("ne", r, zero), differs), r + b, r)
    if a.type.is_integer:
        return moved
    return select(apply("eq", r, zero), select(apply("lt", b, zero), const(-0.0, a.type), zero), moved)


def _sign(x: Expr) -> Expr:
    one, zero = const(1, x.type), const(0, x.type)
    rest = x + zero
    if x.type.is_signed:
        rest = select(apply("lt", x, zero), const(-1, x.type), rest)
    return select(apply("gt", x, zero), one, rest)


def _ceil(x: Expr) -> Expr:
    return -floor(-x) if x.type.is_float else x


# rules that keep every bit, for all types
EXACT: dict[str, Callable[..., Expr]] = {
    "sign": _sign,
    "ceil": _ceil,
    "mod": _mod,
    "floor_mod": _floor_mod,
}
# approximations in f32
APPROXIMATE: dict[str, Callable[..., Expr]] = {
    "exp": _exp,
    "log": _log,
    "erf": _erf,
    "tanh": _tanh,
    "sin": _sin,
    "cos": _cos,
    "tan": _tan,
    "asin": _asin,
    "acos": _acos,
    "atan": _atan,
    "sinh": _sinh,
    "cosh": _cosh,
    "asinh": _asinh,
    "acosh": _acosh,
    "atanh": _atanh,
    "pow": _pow,
}


def is_expanded(expr: Expr, types: Sequence[ElementType] = ()) -> bool:
    """Whether only primitives are left (and only of `types`, when given)."""
    return all(e.fn not in EXACT and e.fn not in APPROXIMATE and (not types or e.type in types) for e in expr.walk())
