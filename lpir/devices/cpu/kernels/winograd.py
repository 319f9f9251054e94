"""Winograd's F(4x4, 3x3) in integers, without rounding: 36 products a channel for 16 outputs, where there were 144.

A 3x3 convolution with stride 1 is cut into *tiles* of 4 x 4 outputs; each sees a *patch* of 6 x 6 inputs. Along one
axis, with patch `d`, weights `g` and outputs `y` (Lavin and Gray, 2016, at the points 0, 1, -1, 2, -2 and infinity):

    m = (B d) * (G g)          six products of what `transform_patch` and `transform_weights` give
    24 y = A m                 `transform_sums`

In the plane, each is done along both axes, and `m` are sums over channels. The usual fractions in `G` are multiplied
away, so everything is an integer:

* a patch's elements are at most 68 times the largest code, and fit int16 (`PATCH_GAIN`);
* a weight is at most 49 times the largest weight, and fits int16 (`WEIGHT_GAIN`). Memory holds the nine bytes, a
  seventh of that: they are transformed each time, which takes less than fetching 36 words from beyond the second cache;
* sums are taken modulo 2**32, and so is what follows: `576 y` modulo 2**32. Multiplied by the inverse of 9 it is `64 y`
  modulo 2**32, which is `64 y` itself where `|y| < 2**25`; a shift gives `y`. The weights prove that (`refuse_sums`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.emitter import Function, Value
from lpir.devices.cpu.kernels.pack import PackedWeights, channel_index, with_slack
from lpir.devices.cpu.kernels.ranges import sums_range

Array = np.ndarray[Any, np.dtype[Any]]

TAPS = 9
TILE = 4
PATCH = TILE + 2
POSITIONS = PATCH * PATCH

# of the row of G that has the largest parts, 1, 2 and 4, whose fractions are multiplied away
WEIGHT_GAIN = (1 + 2 + 4) ** 2
# of the row of B that has the largest positive and negative parts: 2 and -8
PATCH_GAIN = 8 * 8 + 2 * 2

# what `transform_sums` multiplies an output by, along one axis: 3 times a power of two
SHIFT = 3
INVERSE_OF_9 = pow(9, -1, 1 << 32)
LARGEST_SUM = 1 << (31 - 2 * SHIFT)


def refuse_sums(w: Array) -> str | None:
    """Why sums of u8 activations times `w` [3, 3, C, N] may not come out of arithmetic modulo 2**32, or None."""
    low, high = sums_range(w, 0)
    largest = max(-low.min(), high.max())
    return None if largest < LARGEST_SUM else f"sums may reach {largest:.0f}, which 64 times does not fit int32"


def transform_patch(f: Function, d: Sequence[Value]) -> list[Value]:
    """`B d` of six vectors along one axis."""
    inner, outer = f.sub(d[4], d[2]), f.sub(d[3], d[1])
    even, odd = f.sub(d[4], _times(f, d[2], 2)), f.sub(d[3], _times(f, d[1], 2))
    twice = f.add(outer, outer)
    return [
        f.add(_times(f, f.sub(d[0], d[2]), 2), inner),
        f.add(even, odd),
        f.sub(even, odd),
        f.add(inner, twice),
        f.sub(inner, twice),
        f.sub(f.sub(d[5], d[3]), _times(f, outer, 2)),
    ]


def transform_sums(f: Function, m: Sequence[Value]) -> list[Value]:
    """`A m` of six vectors along one axis: 24 times four outputs."""
    plus, minus = f.add(m[1], m[2]), _times(f, f.sub(m[1], m[2]), 2)
    far_plus, far_minus = f.add(m[3], m[4]), f.sub(m[3], m[4])
    plus = _times(f, plus, 2)
    return [
        f.add(f.sub(m[0], plus), far_plus),
        f.sub(f.add(far_minus, far_minus), minus),
        f.sub(_times(f, far_plus, 2), plus),
        f.add(f.sub(_times(f, far_minus, 3), minus), _times(f, m[5], 2)),
    ]


def finish_sum(f: Function, x: Value) -> Value:
    """The output of which `x` is 576 times, modulo 2**32."""
    inverse = f.const(x.type, INVERSE_OF_9)
    return f.binary("ashr", f.mul(x, inverse), f.const(x.type, 2 * SHIFT))


def _times(f: Function, x: Value, power: int) -> Value:
    """`x` times a power of two."""
    return f.binary("shl", x, f.const(x.type, power))


def transform_weights(f: Function, g: Sequence[Value]) -> list[Value]:
    """`G g` of three vectors along one axis."""
    ends, far, twice = f.add(g[0], g[2]), f.add(g[0], _times(f, g[2], 2)), f.add(g[1], g[1])
    return [
        f.mul(g[0], f.const(g[0].type, 6)),
        f.add(ends, g[1]),
        f.sub(ends, g[1]),
        f.add(far, twice),
        f.sub(far, twice),
        f.mul(g[2], f.const(g[2].type, 6)),
    ]


def pack_winograd(w: Array, lanes: int, vectors: int) -> PackedWeights:
    """Packs `w` [3, 3, C, N] (i8, C even) as [blocks, C / 2, 9, vectors, lanes, 2], flat bytes."""
    index = channel_index(w.shape[-1], lanes, vectors)
    pairs = w.reshape(TAPS, w.shape[2] // 2, 2, -1)[..., index]
    return PackedWeights(
        weights=with_slack(pairs.transpose(3, 1, 0, 4, 5, 2)),
        offsets=np.zeros(0, np.int32),
        sums=w.sum(axis=(0, 1, 2), dtype=np.int32)[index].reshape(-1),
    )
