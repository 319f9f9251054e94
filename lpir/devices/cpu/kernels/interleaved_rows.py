"""Copies an image of few channels so that the rows under a kernel lie side by side: one run of bytes a pixel.

A row of the copy holds, for one row of outputs, a 32-bit word for each column and channel: the bytes of up to four
input rows. The window of an output, `width` columns of `C` channels, is then one run of `4 * width * C` bytes, where
the image has a run in each row:

    rows y0 y1 y2 of C bytes a column   ->   y0c0 y1c0 y2c0 0  y0c1 y1c1 y2c1 0 ...

Columns and rows outside of the image hold its zero point. The image is one of codes, its channels last, or one of
floats, its channels first, whose codes are computed on the way.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Kernel, Ref
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.amx_blocks import DEPTH
from lpir.devices.cpu.kernels.base import BuildContext, Step
from lpir.devices.cpu.kernels.epilogue import Epilogue
from lpir.devices.cpu.kernels.idepthwise import row_table
from lpir.devices.cpu.kernels.pack import Array
from lpir.ops.lowered import LoweredConvolution
from lpir.record import record

MOST_ROWS = 4  # bytes of a word
FLOAT = 4  # bytes of a float


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
    def zero(self) -> int:
        """The code of what lies outside of the image."""
        assert isinstance(self.op.x_zero_point, int)
        return self.op.x_zero_point & 255

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

    def refuse(self) -> str | None:
        """Why the windows are not one run of bytes each, or None."""
        taps, run = math.prod(self.kernel[:-1]), self.kernel[-1] * self.image[-1]
        if self.op.groups > 1 or self.op.dilations[-1] > 1:
            return "groups or dilated columns"
        if not 1 < taps <= MOST_ROWS or run * MOST_ROWS > DEPTH:
            return f"{taps} rows of {run} bytes are no run of {DEPTH}"
        return None

    def step(self, x: Ref, out: Ref, isa: Isa, ctx: BuildContext) -> Step:
        """Copies image `x` of codes to `out`, which is `lead` bytes behind the start of its memory."""
        table = self._table(self.image[-1])
        nbytes = self.image[-1] * self.image[-2]
        zeros = ctx.constant(np.full(nbytes + 64, self.zero, np.uint8))
        values = self._values(x, out, ctx.constant(table), zeros) | {"middle": nbytes}
        return Step.of(_print(isa, table.shape[1]), values)

    def step_of_floats(self, codes: Epilogue, x: Ref, out: Ref, isa: Isa, ctx: BuildContext) -> Step:
        """The same of image `x [N, C, *S]` of floats, whose codes are `codes` of them."""
        batch, *spatial, channels = self.image
        plane = math.prod(spatial) * FLOAT
        table = self._table(FLOAT)
        # images have a plane for each channel
        before = np.arange(batch).repeat(self.rows // batch)[:, None] * (channels - 1) * plane
        table = np.where(table < 0, table, table + before).astype(np.int32)
        zeros = ctx.constant(np.zeros(spatial[-1], np.float32))
        values = self._values(x, out, ctx.constant(table), zeros)
        values |= {"columns": spatial[-1], "plane": plane, **codes.values([])}
        return Step.of(_print_floats(isa, table.shape[1], channels, codes), values)

    def _table(self, size: int) -> Array:
        """Byte offset of the input row under each tap of each output row, -1 for padding; a column has `size` bytes."""
        op = self.op
        shape = (*self.image[:-1], size)
        return row_table(shape, self.out, self.kernel, op.strides, op.dilations, op.pads_begin)

    def _values(self, x: Ref, out: Ref, table: Ref, zeros: Ref) -> dict[str, int | float | F32 | Ref]:
        right = self.words - self.left - self.image[-1] * self.image[-2]
        places = {"x": x, "out": out, "table": table, "zeros": zeros}
        return {
            **places,
            "rows": self.rows,
            "pitch": self.pitch,
            "left": self.left,
            "right": right,
            "fill": self.zero * 0x01010101,
        }


def _function(name: str, isa: Isa, taps: int, numbers: tuple[str, ...], more: dict[str, str]) -> Function:
    """A kernel for `taps` rows, with the parameters that all of these have."""
    shared = ("rows", "pitch", "left", "right", "fill")
    params = dict.fromkeys(("x", "out", "table", "zeros"), "ptr") | dict.fromkeys((*shared, *numbers), "i64")
    return Function(f"{name}_{isa.name}_{taps}", params | more, optimize=False)


@functools.lru_cache(maxsize=64)
def _print(isa: Isa, taps: int) -> Kernel:
    """The kernel for `taps` rows of codes."""
    f = _function("interleave", isa, taps, ("middle",), {})
    p, lanes = f.p, isa.lanes()
    type = vector_of("i32", lanes)
    with _rows(f, isa, taps, p["middle"]) as (offsets, out):
        sources = [f.select(f.icmp("sge", o, 0), f.gep(p["x"], o), p["zeros"]) for o in offsets]
        with f.loop(0, p["middle"], lanes, name="word") as i:
            bytes = [f.load(vector_of("i8", lanes), f.gep(source, i.index)) for source in sources]
            words = _words(f, [f.convert("zext", b, type) for b in bytes])
            f.store(words, f.gep(out, i.index, "i32"))
    return f.kernel()


@functools.lru_cache(maxsize=64)
def _print_floats(isa: Isa, taps: int, channels: int, codes: Epilogue) -> Kernel:
    """The kernel for `taps` rows of floats in `channels` planes; `codes` gives the int32 of which a code is a byte."""
    f = _function("quantize_rows", isa, taps, ("columns", "plane"), codes.params())
    p, lanes = f.p, isa.lanes()
    codes.start(f, lanes)
    with _rows(f, isa, taps, f.mul(p["columns"], channels)) as (offsets, out):
        inside = [f.icmp("sge", o, 0) for o in offsets]
        sources = [f.select(ok, f.gep(p["x"], o), p["zeros"]) for ok, o in zip(inside, offsets, strict=True)]
        planes = [f.select(ok, p["plane"], 0) for ok in inside]
        with f.loop(0, p["columns"], lanes, name="column") as i:
            # the last columns overlap those before
            first = f.smin(i.index, f.sub(p["columns"], lanes))
            words = []
            for channel in range(channels):
                rows = [f.gep(s, f.mul(plane, channel)) for s, plane in zip(sources, planes, strict=True)]
                floats = [f.load(vector_of("float", lanes), f.gep(row, first, "float")) for row in rows]
                codes32 = [codes.finish(f, isa, x, {}, wide=True) for x in floats]
                words.append(_words(f, [f.binary("and", c, f.const(c.type, 255)) for c in codes32]))
            at = f.gep(out, f.mul(first, channels), "i32")
            for k, part in enumerate(_by_columns(f, words)):
                f.store(part, f.gep(at, k * lanes, "i32"))
    return f.kernel()


@contextmanager
def _rows(f: Function, isa: Isa, taps: int, middle: Value) -> Iterator[tuple[list[Value], Value]]:
    """Each row of a thread: where its `taps` rows of the image are (below 0: outside), and where its `middle` goes."""
    p = f.p
    fill = f.splat(f.convert("trunc", p["fill"], "i32"), isa.lanes())
    with f.loop(*f.my_range(p["rows"]), name="row") as row:
        out = f.gep(p["out"], f.mul(row.index, p["pitch"]))
        entries = f.gep(p["table"], f.mul(row.index, taps), "i32")
        offsets = [f.load("i32", f.gep(entries, tap, "i32"), 4) for tap in range(taps)]
        inner = f.gep(out, p["left"], "i32")
        # each of these writes whole vectors: what follows overwrites what is too much
        _fill(f, out, p["left"], fill)
        yield [f.convert("sext", o, "i64") for o in offsets], inner
        _fill(f, f.gep(inner, middle, "i32"), p["right"], fill)


def _words(f: Function, parts: list[Value]) -> Value:
    """Bytes of int32 lanes side by side in one word."""
    words = parts[0]
    for i, part in enumerate(parts[1:], 1):
        words = f.binary("or", words, f.binary("shl", part, f.const(part.type, 8 * i)))
    return words


def _by_columns(f: Function, planes: list[Value]) -> list[Value]:
    """The words of planes column by column, as many vectors as there are planes."""
    lanes, found = planes[0].lanes, []
    for start in range(0, len(planes) * lanes, lanes):
        places = [divmod(start + lane, len(planes)) for lane in range(lanes)]
        vector = planes[0]
        for number, plane in enumerate(planes[1:], 1):
            # the first time any lane may come; later ones keep what is there
            vector = f.shuffle(
                vector,
                plane,
                [
                    lanes + column if owner == number else column if number == 1 else lane
                    for lane, (column, owner) in enumerate(places)
                ],
            )
        found.append(vector)
    return found


def _fill(f: Function, at: Value, count: Value, fill: Value) -> None:
    with f.loop(0, count, fill.lanes, name="fill") as i:
        f.store(fill, f.gep(at, i.index, "i32"))
