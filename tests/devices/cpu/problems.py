"""Problems for every kernel: ordinary and adversarial inputs, to be run on every instruction set.

A problem is an operation with its inputs. Every kernel that takes the operation runs it (`problems_for`), so a new
kernel for a known operation needs no new problem, and a public operation brings its own samples (`Op.cases`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import lpir.ops  # registers the operations  # noqa: F401
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import Kernel
from lpir.devices.cpu.select import choose
from lpir.ir.graph import Node
from lpir.ir.op import REGISTRY, Op
from lpir.ir.types import f32, from_dtype, i32, i64, u8
from lpir.ops.bases import ElementwiseOp
from lpir.ops.lowered import (
    Elementwise,
    LoweredConvolution,
    LoweredMatMul,
    LoweredNormalize,
    LoweredSoftmax,
    Pool,
    Reduce,
    Table,
)
from lpir.ops.lowered_attention import LoweredAttention
from lpir.ops.lowered_compressed import CompressedMatMul
from lpir.ops.lowered_detection import PaddedSuppression
from lpir.ops.lowered_image import ImageConvolution
from lpir.ops.lowered_recurrent import Recurrence
from lpir.ops.recurrent_cells import GATES
from lpir.ops.sorting import NonMaxSuppression, TopK
from lpir.scalar.expr import Expr, apply, cast, clamp, exp, input_, rint_i32
from tests.devices.cpu.harness import Array, make_node
from tests.devices.cpu.test_attention import ATTENTION
from tests.devices.cpu.test_compressed import layer
from tests.devices.cpu.test_recurrent import cell
from tests.devices.cpu.test_recurrent import layer as recurrent_layer
from tests.devices.cpu.test_suppression import inputs as boxes
from tests.devices.test_conformance import DEVICE_F32
from tests.tolerances import EXACT, F32_CHAIN, F32_SUM, Tolerance

ACC, FLOAT = input_(0, i32), input_(0)
REQUANT = cast(rint_i32(clamp((cast(ACC, f32) * input_(1) + input_(2)) * 0.37, -3.0, 252.0)) + 3, u8)
RELU6 = clamp(FLOAT + input_(1), 0.0, 6.0)
PRODUCT = CompressedMatMul(False, FLOAT)
LSTM = Recurrence(cell("lstm"), False, False)
# codes and weights
EXTREMES: dict[str, tuple[int, tuple[int, ...]]] = {
    "255 x 127": (255, (127,)),
    "255 x -128": (255, (-128,)),
    "255 x -127": (255, (-127,)),
    "255 x +-": (255, (127, -128)),
    "0 x -128": (0, (-128,)),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """An operation and its inputs, of which those numbered in `constants` are known when kernels are built."""

    name: str
    op: Op
    inputs: tuple[Array, ...]
    constants: tuple[int, ...] = ()
    tolerance: Tolerance = EXACT
    threads: int = 2

    @functools.cached_property
    def expected(self) -> tuple[Array, ...]:
        """What the reference computes."""
        with np.errstate(all="ignore"):
            return self.op.eval(*self.inputs)

    def node(self) -> Node:
        """The operation over parameters and constants."""
        return make_node(self.op, self.inputs, self.constants)


def problems_for(kernel: Kernel, isa: Isa, problems: Sequence[Problem] = ()) -> list[Problem]:
    """Those of `problems` (default: all) that `kernel` can run on `isa`."""
    found = []
    for problem in problems or all_problems():
        if isinstance(problem.op, kernel.ops):
            node = problem.node()
            # what the device never gives to any kernel, it does not give to this one
            if "native" not in choose(node, isa).refused and kernel.applies(node, isa) is None:
                found.append(problem)
    return found


@functools.cache
def all_problems() -> tuple[Problem, ...]:
    """Every problem."""
    makers = (
        _convolutions,
        _images,
        _depthwise,
        _products,
        _products_of_codes,
        _attention,
        _floats,
        _compressed,
        _recurrent,
        _boxes,
        _elements,
        _samples,
    )
    return tuple(problem for maker in makers for problem in maker())


def _codes(*shape: int, fill: int | None = None) -> Array:
    rng = np.random.default_rng(shape)
    return np.full(shape, fill, np.uint8) if fill is not None else rng.integers(0, 256, shape).astype(np.uint8)


def _weights(*shape: int, fill: Sequence[int] | None = None) -> Array:
    if fill is not None:
        return np.resize(np.asarray(fill, np.int8), shape)
    # all 8 bits are used, the limits too
    return np.clip(np.rint(np.random.default_rng(shape).standard_normal(shape) * 70), -128, 127).astype(np.int8)


def _normal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def _channels(n: int) -> tuple[Array, Array]:
    """A scale and a bias for each channel."""
    rng = np.random.default_rng(n)
    return rng.random(n, np.float32) * np.float32(0.02), rng.standard_normal(n).astype(np.float32) * np.float32(9)


def convolution(
    epilogue: Expr,
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (),
    pads: Sequence[int] = (),
    groups: int = 1,
    zero_point: int = 13,
) -> LoweredConvolution:
    """A convolution of as many axes as it has strides, padded by as much on both sides."""
    pads, dilations = tuple(pads or [0] * len(strides)), tuple(dilations or [1] * len(strides))
    return LoweredConvolution(tuple(strides), dilations, pads, pads, groups, zero_point, epilogue)


# x, w, and what else a convolution is told
GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], LoweredConvolution]] = {
    "ic13oc19kh1": ((1, 3, 5, 13), (1, 1, 13, 19), convolution(REQUANT)),
    "ic17oc1kh1": ((2, 3, 3, 17), (1, 1, 17, 1), convolution(REQUANT, zero_point=255)),
    "ic24oc144kh1": ((1, 5, 9, 24), (1, 1, 24, 144), convolution(REQUANT, zero_point=0)),
    "ic16oc32kh1sh2": ((1, 8, 8, 16), (1, 1, 16, 32), convolution(REQUANT, (2, 2))),
    "ic3oc32kh3sh2ph1": ((1, 17, 16, 3), (3, 3, 3, 32), convolution(REQUANT, (2, 2), pads=(1, 1))),
    "ic64oc64kh3ph1": ((1, 9, 7, 64), (3, 3, 64, 64), convolution(REQUANT, pads=(1, 1), zero_point=128)),
    "ic66oc37ih10iw13kh3ph1": ((1, 10, 13, 66), (3, 3, 66, 37), convolution(REQUANT, pads=(1, 1), zero_point=255)),
    "ic512oc21kh3": ((1, 4, 4, 512), (3, 3, 512, 21), convolution(REQUANT)),
    "g3ic24oc60kh3ph1": ((1, 6, 6, 24), (3, 3, 8, 60), convolution(REQUANT, pads=(1, 1), groups=3)),
    "ic6oc9kh3kw2dh2dw3ph2pw1": ((2, 10, 9, 6), (3, 2, 6, 9), convolution(REQUANT, (1, 1), (2, 3), (2, 1))),
    "ic5oc33kw4sw3pw2": ((2, 20, 5), (4, 5, 33), convolution(REQUANT, (3,), pads=(2,))),
    "ic4oc20kd2kh3kw3p1": ((1, 4, 5, 6, 4), (2, 3, 3, 4, 20), convolution(REQUANT, (1, 1, 1), pads=(1, 1, 1))),
}


def _convolutions() -> Iterator[Problem]:
    for name, (x, w, op) in GEOMETRIES.items():
        inputs = (_codes(*x), _weights(*w), *_channels(w[-1]))
        yield Problem(f"convolution {name}", op, inputs, (1, 2, 3))
    for name in ("ic13oc19kh1", "ic512oc21kh3", "ic64oc64kh3ph1", "ic66oc37ih10iw13kh3ph1"):
        x, w, op = GEOMETRIES[name]
        sums = dataclasses.replace(op, epilogue=ACC)
        for extreme, (code, fill) in EXTREMES.items():
            inputs = (_codes(*x, fill=code), _weights(*w, fill=fill))
            yield Problem(f"convolution {name}, {extreme}", sums, inputs, (1,))
    wide = np.random.default_rng(0).integers(-255, 256, (1, 1, 40, 24)).astype(np.int16)
    op = convolution(REQUANT)
    yield Problem(
        "convolution ic40oc24kh1, zero point of weights", op, (_codes(1, 7, 7, 40), wide, *_channels(24)), (1,)
    )
    residual = cast(rint_i32(clamp(cast(ACC, f32) * 0.01 + cast(cast(input_(1, u8), i32) - 7, f32), 0.0, 255.0)), u8)
    inputs = (_codes(1, 7, 6, 24), _weights(1, 1, 24, 40), _codes(1, 7, 6, 40))
    yield Problem("convolution ic24oc40kh1, residual", convolution(residual), inputs, (1,))


def _images() -> Iterator[Problem]:
    for zero_point in (0, 128, 255):
        op = _image_convolution(zero_point)
        inputs = (_normal(2, 3, 20, 32), _weights(3, 3, 3, 32), *_channels(32))
        yield Problem(f"image ic3oc32kh3sh2ph1, zero point {zero_point}", op, inputs, (1, 2, 3))
    for extreme, (code, fill) in EXTREMES.items():
        inputs = (np.full((1, 3, 32, 32), code, np.float32), _weights(3, 3, 3, 32, fill=fill), *_channels(32))
        yield Problem(f"image {extreme}", _image_convolution(0, 1.0), inputs, (1, 2, 3))


def _image_convolution(zero_point: int, scale: float = 50.0) -> ImageConvolution:
    code = cast(rint_i32(clamp(FLOAT * scale, float(-zero_point), float(255 - zero_point))) + zero_point, u8)
    return ImageConvolution(code, convolution(REQUANT, (2, 2), pads=(1, 1), zero_point=zero_point))


DEPTHWISE: dict[str, tuple[int, int, int, int]] = {
    # channels, size, kernel, stride
    "g1ih9kh3": (1, 9, 3, 1),
    "g19ih12kh3": (19, 12, 3, 1),
    "g64ih13kh3sh2": (64, 13, 3, 2),
    "g144ih14kh5": (144, 14, 5, 1),
    "g32ih11kh5sh2": (32, 11, 5, 2),
    "g48ih10kh7": (48, 10, 7, 1),
    "g144ih7kh5": (144, 7, 5, 1),
}


def _depthwise() -> Iterator[Problem]:
    for name, (channels, size, kernel, stride) in DEPTHWISE.items():
        op = convolution(REQUANT, (stride, stride), pads=(kernel // 2, kernel // 2), groups=channels)
        x, w = (1, size, size, channels), (kernel, kernel, 1, channels)
        inputs: tuple[Array, ...] = (_codes(*x), _weights(*w), *_channels(channels))
        yield Problem(f"depthwise {name}", op, inputs, (1, 2, 3))
        apart = dataclasses.replace(op, x_zero_point=tuple(int(z) for z in np.arange(channels) * 37 % 256))
        yield Problem(f"depthwise {name}, zero points of channels", apart, inputs, (1, 2, 3))
        for extreme, (code, fill) in EXTREMES.items():
            inputs = (_codes(*x, fill=code), _weights(*w, fill=fill))
            yield Problem(f"depthwise {name}, {extreme}", dataclasses.replace(op, epilogue=ACC), inputs, (1,))


def _products() -> Iterator[Problem]:
    for m, k, n in [(1, 36, 1), (5, 65, 10), (49, 100, 33), (100, 36, 64), (3, 4608, 21), (1, 1280, 1000)]:
        for transpose in (False, True):
            b = _weights(n, k) if transpose else _weights(k, n)
            op = LoweredMatMul(transpose, 101, 0, REQUANT)
            yield Problem(f"matmul {m}x{k}x{n}", op, (_codes(m, k), b, *_channels(n)), (1, 2, 3))
    # few products a sum, many rows: channels are one or more blocks of 64, and up to two tiles of 16
    for m, k, n in [(256, 16, 96), (67, 24, 144), (64, 61, 16), (131, 32, 32), (49, 160, 112), (33, 192, 100)]:
        op = LoweredMatMul(False, 101, 0, REQUANT)
        yield Problem(f"matmul {m}x{k}x{n}", op, (_codes(m, k), _weights(k, n), *_channels(n)), (1, 2, 3))
    for extreme, (code, fill) in EXTREMES.items():
        inputs = (_codes(70, 64, fill=code), _weights(64, 80, fill=fill), *_channels(80))
        yield Problem(f"matmul 70x64x80, {extreme}", LoweredMatMul(False, 0, 0, REQUANT), inputs, (1, 2, 3))
    for extreme, (code, fill) in EXTREMES.items():
        inputs = (_codes(3, 4608, fill=code), _weights(4608, 21, fill=fill))
        yield Problem(f"matmul 3x4608x21, {extreme}", LoweredMatMul(False, 0, 0, ACC), inputs, (1,))


def _products_of_codes() -> Iterator[Problem]:
    for zeros in [(0, 128), (3, 131), (128, 0), (255, 255)]:
        for m, k, n in [(1, 1, 1), (7, 33, 16), (33, 64, 33)]:
            for transpose in (False, True):
                op = LoweredMatMul(transpose, *zeros, ACC)
                for fill in (None, 255):
                    a, b = _codes(2, m, k, fill=fill), _codes(2, *((n, k) if transpose else (k, n)), fill=fill)
                    yield Problem(f"codes 2x{m}x{k}x{n} za{zeros[0]} zb{zeros[1]}", op, (a, b))
    signed = _weights(2, 33, 16)
    yield Problem("codes 2x7x33x16 u8s8", LoweredMatMul(False, 5, -3, ACC), (_codes(2, 7, 33), signed))


def _attention() -> Iterator[Problem]:
    for zeros in [(0, 128), (255, 0), (128, 128)]:
        for shift in (0, 8, 16):
            # a score that shows 8 bits of the int32 sum; the unit matrix gives the weights themselves
            score = cast(apply("and", apply("shr", ACC, shift), 255), f32) * 0.02
            op = LoweredAttention((1, 1, 1, 1), *zeros, 0, score, FLOAT)
            q, k = _codes(1, 2, 9, 64, fill=255), _codes(1, 2, 17, 64, fill=255)
            k[:, :, ::3] = 0
            v = np.broadcast_to(np.eye(17, dtype=np.float32), (1, 2, 17, 17))
            name = f"attention 2x9x17 d64 za{zeros[0]} zb{zeros[1]} bits {shift}"
            yield Problem(name, op, (q, k, np.ascontiguousarray(v)), (), ATTENTION)
    floats = LoweredAttention((1, 1, 1, 1), 0, 0, 1, FLOAT * 0.2 + input_(1), FLOAT)
    inputs = (_normal(1, 3, 37, 24), _normal(1, 3, 70, 24), _normal(1, 3, 70, 40), _normal(1, 1, 1, 70))
    yield Problem("attention 3x37x70 d24 f32", floats, inputs, (), ATTENTION)


def _floats() -> Iterator[Problem]:
    for name, (x, w, op) in GEOMETRIES.items():
        float_op = dataclasses.replace(op, epilogue=RELU6, x_zero_point=0)
        inputs = (_normal(*x), _normal(*w), _normal(w[-1]))
        yield Problem(f"convolution {name} f32", float_op, inputs, (1, 2), F32_SUM.per(int(np.prod(w[:-1]))))
    for name, (channels, size, kernel, stride) in DEPTHWISE.items():
        pads = (kernel // 2, kernel // 2)
        op = convolution(RELU6, (stride, stride), pads=pads, groups=channels, zero_point=0)
        inputs = (_normal(1, size, size, channels), _normal(kernel, kernel, 1, channels), _normal(channels))
        yield Problem(f"depthwise {name} f32", op, inputs, (1, 2), F32_SUM.per(kernel**2))
        yield Problem(f"depthwise {name} f32, computed weights", op, inputs, (2,), F32_SUM.per(kernel**2))
    for m, k, n in [(1, 1, 1), (7, 33, 16), (49, 100, 33), (1, 1280, 1000)]:
        matmul = LoweredMatMul(False, 0, 0, FLOAT)
        for constants in ((), (1,)):
            yield Problem(f"matmul {m}x{k}x{n} f32", matmul, (_normal(m, k), _normal(k, n)), constants, F32_SUM.per(k))
    for length in (1, 7, 77, 130):
        x = _normal(5, length) * np.float32(9)
        yield Problem(f"softmax 5x{length}", LoweredSoftmax(FLOAT), (x,), (), F32_SUM.per(length))
        norm = LoweredNormalize(1, True, 1e-5, "INSIDE_SQRT", FLOAT * input_(1) + input_(2))
        inputs = (_normal(12, length) + np.float32(3), _normal(length), _normal(length + 1)[:length])
        # a deviation of one number is the root of eps: what its mean's rounding leaves is enlarged
        yield Problem(f"normalize 12x{length}", norm, inputs, (), F32_SUM.per(9 * length + 1000))


def _compressed() -> Iterator[Problem]:
    for type in ("i8", "u8", "i4", "u4"):
        for m, k, n, groups in [(1, 96, 1, 1), (1, 256, 33, 2), (2, 300, 64, 1), (9, 192, 100, 3)]:
            inputs = layer(type, m, k, n, groups)
            yield Problem(f"{type} {m}x{k}x{n}g{groups}", PRODUCT, tuple(inputs), (1, 2, 3), F32_SUM.per(k))


def _recurrent() -> Iterator[Problem]:
    for kind in GATES:
        for batch, units, lengths in [(1, 1, None), (2, 33, np.array([3, 1])), (4, 16, None), (1, 200, None)]:
            op = Recurrence(cell(kind, 0.9), lengths is not None, lengths is not None)
            inputs = recurrent_layer(op, batch, 3, units, lengths)
            yield Problem(f"{kind} {batch}x3x{units}", op, tuple(inputs), (1,), F32_SUM.per(50 * units))


def _boxes() -> Iterator[Problem]:
    for n in (1, 17, 200):
        for sort in (False, True):
            op = PaddedSuppression(NonMaxSuppression("corner", sort), 2 * 3 * min(n, 40))
            yield Problem(f"boxes 2x3x{n}", op, tuple(boxes(2, n, 3, (40, 0.5, 0.2))), (2, 3, 4))


def _elements() -> Iterator[Problem]:
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.float32, np.int64):
        table = rng.integers(0, 256, 256).astype(dtype)
        for length in (1, 63, 1000):
            yield Problem(f"table {length} to {np.dtype(dtype)}", Table(), (_codes(length), table), (1,))
    awkward = np.asarray([np.nan, np.inf, -np.inf, -0.0, 0.5, 1.5, 2.5, -2.5, 3e9, -3e9] * 7, np.float32)
    quantize = cast(rint_i32(clamp(FLOAT * 3.7, -12.0, 243.0)) + 12, u8)
    yield Problem("quantize 70", Elementwise(quantize), (awkward,))
    yield Problem("round 70", Elementwise(rint_i32(FLOAT)), (awkward,))
    yield Problem("exp 3x70", Elementwise(exp(FLOAT) + input_(1)), (_normal(3, 70) * np.float32(20), _normal(70)))
    two = cast(rint_i32(clamp(cast(cast(input_(0, u8), i32) - 3, f32) + cast(input_(1, u8), f32), 0.0, 255.0)), u8)
    yield Problem("add 2x5x33", Elementwise(two), (_codes(2, 5, 33), _codes(5, 1)))
    mean = cast(rint_i32(clamp(cast(ACC, f32) / input_(1) + 5.0, 0.0, 255.0)), u8)
    for channels in (1, 19, 96):
        x = _codes(1, 13, 13, channels)
        window = ((1, 1), (1, 1), (1, 1), (1, 1))
        yield Problem(f"pool max {channels}", Pool(*window, "max", (3, 3), False, 0, cast(ACC, u8)), (x,))
        yield Problem(f"pool avg {channels}", Pool(*window, "avg", (3, 3), True, 5, mean), (x,))
        floats = _normal(1, 13, 13, channels)
        pool = Pool(*window, "avg", (2, 3), False, 0, FLOAT / input_(1))
        yield Problem(f"pool avg {channels} f32", pool, (floats,), (), F32_CHAIN)
        for kind in ("sum", "max"):
            yield Problem(f"reduce {kind} {channels}", Reduce(kind, (1, 2), True, 7, ACC), (x,))
            far = np.random.default_rng(channels).integers(-(2**62), 2**62, (1, 13, 13, channels))
            yield Problem(f"reduce {kind} {channels} i64", Reduce(kind, (1, 2), True, 0, input_(0, i64)), (far,))
        yield Problem(f"reduce max {channels} f32", Reduce("max", (1, 2), False, 0, FLOAT), (floats,))


def _samples() -> Iterator[Problem]:
    """The samples of public operations: elementwise ones lowered, others for kernels that run them as they are."""
    for name, op in sorted(REGISTRY.items()):
        for case in op.cases():
            inputs, label = tuple(np.asarray(x) for x in case.inputs), f"{name} {case.name}".strip()
            if isinstance(case.op, ElementwiseOp):
                shapes = case.op.leaf_shapes([x.shape for x in inputs])
                expr = case.op.expression([from_dtype(x.dtype) for x in inputs])
                leaves = tuple(x.reshape(shape) for x, shape in zip(inputs, shapes, strict=True))
                yield Problem(label, Elementwise(expr), leaves)
            elif inputs:
                yield Problem(label, case.op, inputs, tuple(range(1, len(inputs))), DEVICE_F32)


@functools.cache
def timed_problems() -> tuple[Problem, ...]:
    """Problems of middle size, to measure speed: the sizes are those of image networks and of a small transformer."""
    x, kh3, pads = (1, 28, 28, 128), (3, 3, 128, 128), (1, 1)
    codes = convolution(REQUANT, pads=pads)
    floats = convolution(RELU6, pads=pads, zero_point=0)
    channels, head = (*_channels(128),), (1, 12, 128, 32)
    score, window = cast(ACC, f32) * 1e-4, ((2, 2), (1, 1), (1, 1), (1, 1))
    return (
        Problem("convolution", codes, (_codes(*x), _weights(*kh3), *channels), (1, 2, 3)),
        Problem(
            "image",
            _image_convolution(128),
            (_normal(1, 3, 224, 224), _weights(3, 3, 3, 32), *_channels(32)),
            (1, 2, 3),
        ),
        Problem("convolution f32", floats, (_normal(*x), _normal(*kh3), _normal(128)), (1, 2)),
        Problem(
            "depthwise",
            dataclasses.replace(codes, groups=128),
            (_codes(*x), _weights(3, 3, 1, 128), *channels),
            (1, 2, 3),
        ),
        Problem(
            "depthwise f32",
            dataclasses.replace(floats, groups=128),
            (_normal(*x), _normal(3, 3, 1, 128), _normal(128)),
            (1, 2),
        ),
        Problem(
            "matmul",
            LoweredMatMul(False, 101, 0, REQUANT),
            (_codes(128, 384), _weights(384, 1536), *_channels(1536)),
            (1, 2, 3),
        ),
        Problem("matmul f32", LoweredMatMul(False, 0, 0, FLOAT), (_normal(128, 384), _normal(384, 1536)), (1,)),
        *(Problem(f"u4 {m}", PRODUCT, tuple(layer("u4", m, 1024, 4096, 8)), (1, 2, 3)) for m in (64, 1)),
        Problem("codes", LoweredMatMul(True, 3, 131, score), (_codes(*head), _codes(*head))),
        Problem(
            "attention",
            LoweredAttention((1,) * 4, 3, 131, 0, score, FLOAT),
            (_codes(*head), _codes(*head), _normal(*head)),
        ),
        Problem("lstm", LSTM, tuple(recurrent_layer(LSTM, 1, 20, 256)), (1,)),
        Problem("softmax", LoweredSoftmax(FLOAT), (_normal(1, 12, 128, 128),)),
        Problem(
            "normalize",
            LoweredNormalize(1, True, 1e-5, "INSIDE_SQRT", FLOAT * input_(1)),
            (_normal(128, 384), _normal(384)),
        ),
        Problem("pool", Pool(*window, "max", (3, 3), False, 0, cast(ACC, u8)), (_codes(1, 112, 112, 64),)),
        Problem("reduce", Reduce("sum", (1, 2), True, 7, ACC), (_codes(1, 28, 28, 128),)),
        Problem("table", Table(), (_codes(100_000), _codes(256)), (1,)),
        Problem("elementwise", Elementwise(exp(FLOAT)), (_normal(100_000),)),
        Problem("topk", TopK(-1, "max", "value"), (_normal(8, 10_000), np.asarray(100)), (1,)),
        Problem("boxes", PaddedSuppression(NonMaxSuppression(), 400), tuple(boxes(1, 2000, 4, (100, 0.5, 0.3)))),
        *(Problem(name, op, inputs, constants) for name, op, inputs, constants in _moves()),
    )


def _moves() -> Iterator[tuple[str, Op, tuple[Array, ...], tuple[int, ...]]]:
    x = _codes(1, 64, 56, 56)
    yield "move", REGISTRY["Transpose"](), (x, np.asarray([0, 2, 3, 1])), (1,)
    yield "concat", REGISTRY["Concat"](axis=1), (x, x), ()
    yield "tile", REGISTRY["Tile"](), (x, np.asarray([2, 1, 1, 1])), (1,)
    around = np.asarray([0, 0, 1, 1])
    yield "pad", REGISTRY["Pad"](pad_mode="constant"), (x, around, around, np.uint8(3)), (1, 2, 3)
    yield "cumsum", REGISTRY["CumSum"](), (_normal(64, 2000), np.asarray(1)), (1,)
    indices = np.random.default_rng(0).integers(0, 1000, (128,))
    yield "positions", REGISTRY["GatherND"](), (_normal(1000, 384), indices[:, None]), ()
    yield "elements", REGISTRY["GatherElements"](axis=0), (_normal(1000, 384), np.tile(indices[:, None], (1, 384))), ()
    yield "gather", REGISTRY["Gather"](), (_normal(1000, 384), indices, np.asarray(0)), (2,)
