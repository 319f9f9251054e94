"""Which windows of a block share an int16 sum, found by compiled code: it compares nearly all with all."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.jit import Jit
from lpir.devices.cpu.isa import host_isa

Array = np.ndarray[Any, np.dtype[Any]]

# candidates that are tried before the search asks whether it is over
CHUNK = 32


def pair_windows(block: Array, loads: Array, limit: tuple[int, int]) -> tuple[Array, Array]:
    """Which windows share a sum: an order of all, block by block, pairs first; and the number of pairs of each block.

    `block` ascending from 0; `loads` uint8 [windows, 2, halves], each at most its `limit`. The heaviest window chooses
    first, and takes the heaviest one that fits.
    """
    flat = loads.reshape(len(loads), -1)
    order = np.lexsort((-flat.sum(1, dtype=np.int32), block))
    room = (np.asarray(limit, np.uint8)[:, None] - loads).reshape(len(loads), -1)
    starts = np.searchsorted(block, np.arange(block[-1] + 2))
    partner = np.full(len(order), -1, np.int32)
    arrays = [np.ascontiguousarray(a) for a in (flat[order], room[order], starts.astype(np.int64), partner)]
    words = (ctypes.c_uint64 * 5)(*(a.ctypes.data for a in arrays), len(starts) - 1)
    _search(flat.shape[1])(words, 0, 1)
    partner = arrays[-1]
    place = np.arange(len(order))
    # the first of a pair stands for both
    leads = partner > place
    rank = np.where(partner >= 0, np.minimum(place, partner), len(order))
    by_pair = np.lexsort((place, rank, block[order]))
    return order[by_pair], np.bincount(block[order[leads]], minlength=len(starts) - 1)


@functools.cache
def _search(width: int) -> Callable[..., None]:
    """The compiled search over loads of `width` bytes."""
    code = _print(width)
    jit = Jit(host_isa())
    jit.add(code.symbol, code.text)
    address = jit.compile()[code.symbol]
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    # the code lives as long as its compiler
    return functools.partial(_call, jit, function)


def _call(jit: Jit, function: Callable[..., None], *arguments: Any) -> None:
    function(*arguments)


def _print(width: int) -> Any:
    names = ("loads", "room", "starts", "partner")
    f = Function(f"pair_windows_{width}", {**dict.fromkeys(names, "ptr"), "blocks": "i64"})
    with f.loop(0, f.p["blocks"], name="block") as block:
        first, last = (f.load("i64", f.gep(f.p["starts"], f.add(block.index, i), "i64"), 8) for i in range(2))
        with f.loop(first, last, name="heavy") as heavy, f.if_(_alone(f, heavy.index)):
            mine = f.load(vector_of("i8", width), f.gep(f.p["loads"], f.mul(heavy.index, width)))
            with f.loop(f.add(heavy.index, 1), last, CHUNK, name="chunk") as chunk, f.if_(_alone(f, heavy.index)):
                end = f.smin(f.add(chunk.index, CHUNK), last)
                with f.loop(chunk.index, end, name="light") as light:
                    _try(f, heavy.index, light.index, mine)
    return f.kernel()


def _alone(f: Function, window: Value) -> Value:
    """Whether a window has no partner."""
    return f.icmp("slt", f.load("i32", f.gep(f.p["partner"], window, "i32"), 4), 0)


def _try(f: Function, heavy: Value, light: Value, mine: Value) -> None:
    """Makes two windows partners if neither has one and the loads `mine` fit into the room of `light`."""
    room = f.load(mine.type, f.gep(f.p["room"], f.mul(light, mine.lanes)))
    exceeds = f.convert("bitcast", f.icmp("ugt", mine, room), f"i{mine.lanes}")
    alone = f.binary("and", _alone(f, heavy), _alone(f, light))
    with f.if_(f.binary("and", f.icmp("eq", exceeds, 0), alone)):
        for a, b in ((heavy, light), (light, heavy)):
            f.store(f.convert("trunc", b, "i32"), f.gep(f.p["partner"], a, "i32"), 4)
