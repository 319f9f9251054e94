"""Copies an image of few channels so that the rows under a kernel lie side by side: one run of bytes a pixel.

A row of the copy holds, for one row of outputs, a 32-bit word for each column and channel: the bytes of up to four
input rows. The window of an output, `width` columns of `C` channels, is then one run of `4 * width * C` bytes, where
the image has a run in each row:

    rows y0 y1 y2 of C bytes a column   ->   y0c0 y1c0 y2c0 0  y0c1 y1c1 y2c1 0 ...

Columns and rows outside of the image hold its zero point.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Step
from lpir.devices.cpu.kernels.idepthwise import row_table
from lpir.devices.cpu.kernels.pack import Array
from lpir.ops.lowered import LoweredConvolution
from lpir.record import record

MOST_ROWS = 4  # bytes of a word


@record
class Interleaving:
    """The copy of an image `[N, *S, C]` for a convolution with the output `[N, *So, O]`."""

    op: LoweredConvolution
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def left(self) -> int:
        """Words before the first column of the image in each row."""
        return self.op.pads_begin[-1] * self.image[-1]

    @property
    def words(self) -> int:
        """Words of a row."""
        return (self.op.pads_begin[-1] + self.image[-2] + self.op.pads_end[-1]) * self.image[-1]

    @property
    def pitch(self) -> int:
        """Bytes between rows: a vector of any ISA may be written behind the last word."""
        return -(-self.words * 4 // 64) * 64 + 64

    @property
    def lead(self) -> int:
        """Where in its memory a copy starts: the image's own columns are then written as whole cache lines."""
        return -4 * self.left % 64

    @property
    def nbytes(self) -> int:
        """Bytes of memory for a copy."""
        return self.rows * self.pitch + 64

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.out[:-2])

    @property
    def offsets(self) -> Array:
        """Byte offset of each output's window."""
        columns = np.arange(self.out[-2]) * self.op.strides[-1] * self.image[-1] * 4
        return np.asarray((np.arange(self.rows)[:, None] * self.pitch + columns).reshape(-1))

    def weights(self, w: Array) -> Array:
        """`w` [*K, C, O] as [length, O], in the order of a window's bytes."""
        *kernel, channels, outputs = w.shape
        taps = math.prod(kernel[:-1])
        words = np.zeros((kernel[-1], channels, MOST_ROWS, outputs), w.dtype)
        words[:, :, :taps] = w.reshape(taps, kernel[-1], channels, outputs).transpose(1, 2, 0, 3)
        return words.reshape(-1, outputs)

    def step(self, x: Ref, out: Ref, isa: Isa, ctx: BuildContext) -> Step:
        """Copies image `x` to `out`, which is `lead` bytes behind the start of its memory."""
        op = self.op
        table = row_table(self.image, self.out, self.kernel, op.strides, op.dilations, op.pads_begin)
        nbytes = self.image[-1] * self.image[-2]
        assert isinstance(op.x_zero_point, int)
        zero = op.x_zero_point & 255
        values: dict[str, int | float | F32 | Ref] = {
            **{"x": x, "out": out, "table": ctx.constant(table)},
            "zeros": ctx.constant(np.full(nbytes + 64, zero, np.uint8)),
            **{"rows": self.rows, "pitch": self.pitch, "left": self.left, "middle": nbytes},
            **{"right": self.words - self.left - nbytes, "fill": zero * 0x01010101},
        }
        return Step.of(_print(isa, table.shape[1]), values)


@functools.lru_cache(maxsize=64)
def _print(isa: Isa, taps: int) -> Kernel:
    """The kernel for `taps` rows."""
    numbers = ("rows", "pitch", "left", "middle", "right", "fill")
    params = dict.fromkeys(("x", "out", "table", "zeros"), "ptr") | dict.fromkeys(numbers, "i64")
    f = Function(f"interleave_{isa.name}_{taps}", params, optimize=False)
    p, lanes = f.p, isa.lanes()
    fill = f.splat(f.convert("trunc", p["fill"], "i32"), lanes)
    with f.loop(*f.my_range(p["rows"]), name="row") as row:
        out = f.gep(p["out"], f.mul(row.index, p["pitch"]))
        sources = [_source(f, f.add(f.mul(row.index, taps), tap)) for tap in range(taps)]
        # each of these writes whole vectors: what follows overwrites what is too much
        _fill(f, out, p["left"], fill)
        with f.loop(0, p["middle"], lanes, name="word") as i:
            words = _words(f, [f.gep(source, i.index) for source in sources], lanes)
            f.store(words, f.gep(out, f.add(p["left"], i.index), "i32"))
        _fill(f, f.gep(out, f.add(p["left"], p["middle"]), "i32"), p["right"], fill)
    return f.kernel()


def _source(f: Function, entry: Value) -> Value:
    """Where the row of a table's entry starts."""
    offset = f.convert("sext", f.load("i32", f.gep(f.p["table"], entry, "i32"), 4), "i64")
    return f.select(f.icmp("sge", offset, 0), f.gep(f.p["x"], offset), f.p["zeros"])


def _words(f: Function, sources: list[Value], lanes: int) -> Value:
    """Bytes of each source as a word."""
    type = vector_of("i32", lanes)
    parts = [f.convert("zext", f.load(vector_of("i8", lanes), source), type) for source in sources]
    words = parts[0]
    for i, part in enumerate(parts[1:], 1):
        words = f.binary("or", words, f.binary("shl", part, f.const(type, 8 * i)))
    return words


def _fill(f: Function, at: Value, count: Value, fill: Value) -> None:
    with f.loop(0, count, fill.lanes, name="fill") as i:
        f.store(fill, f.gep(at, i.index, "i32"))
