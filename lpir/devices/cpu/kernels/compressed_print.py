"""The text of the kernels of `compressed.py`."""

from __future__ import annotations

from collections.abc import Sequence

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.codes_pack import Storage, centres, decode
from lpir.devices.cpu.kernels.epilogue import Epilogue, element_bytes, store_lanes
from lpir.devices.cpu.kernels.tiling import Tile

_POINTERS = ("x", "codes", "scale", "zero", "out")
_SIZES = ("m", "n", "k", "groups", "blocks", "out_row", "depth", "pieces")
_PANEL = ("m_chunks", "sum_bytes")


class Printer:
    """What both kernels print alike: blocks of channels, scales of groups, epilogues."""

    def __init__(self, isa: Isa, tile: Tile, storage: Storage, narrow: bool, epilogue: Epilogue) -> None:
        self.isa, self.tile, self.storage, self.narrow, self.epilogue = isa, tile, storage, narrow, epilogue
        self.lanes = isa.lanes()
        self.type = vector_of("float", self.lanes)
        self.align = 4 * self.lanes
        self.wide = tile.vectors * self.lanes
        self.f = Function(f"{self.kind}_{isa.name}_{tile.rows}x{tile.vectors}", self.params(), optimize=False)

    kind = ""

    def params(self) -> dict[str, str]:
        """Names and types of the kernel's parameters."""
        return {**dict.fromkeys(_POINTERS, "ptr"), **dict.fromkeys(_SIZES, "i64"), **self.epilogue.params()}

    def channels(self, block: Value) -> list[Value]:
        """First channel of each vector of a block; the last ones overlap rather than pass the end."""
        f, lanes, vectors, n = self.f, self.lanes, self.tile.vectors, self.f.p["n"]
        columns = f.udiv(f.add(n, lanes - 1), lanes)
        first = f.mul(f.smin(f.mul(block, vectors), f.sub(columns, vectors)), lanes)
        found = [f.add(first, j * lanes) for j in range(vectors)]
        if not self.narrow:
            found[-1] = f.smin(found[-1], f.sub(n, lanes))
        return found

    def group_vectors(self, name: str, block: Value, group: Value) -> list[Value]:
        """The scales or the zero points of a group."""
        f = self.f
        row = f.mul(f.add(f.mul(block, f.p["groups"]), group), self.wide)
        at = f.gep(f.p[name], row, "float")
        return [f.load(self.type, f.gep(at, j * self.lanes, "float"), 4) for j in range(self.tile.vectors)]

    def centres_of(self, block: Value, group: Value) -> list[list[Value]]:
        """What is subtracted from the codes of a group; unread where the storage has no zero points."""
        if not self.storage.zero:
            return [[self.f.zeros(self.type)] * self.tile.vectors]
        return centres(self.f, self.storage, self.group_vectors("zero", block, group))

    def panels(self) -> Value:
        """Pieces of `depth` rows of all groups."""
        return self.f.mul(self.f.p["groups"], self.f.p["pieces"])

    def codes_of(self, block: Value) -> Value:
        """Where a block's codes begin."""
        f, storage = self.f, self.storage
        steps = f.udiv(f.p["k"], storage.step)
        return f.gep(f.p["codes"], f.mul(f.mul(block, steps), self.wide * storage.row_bytes))

    def finish(self, sum_: Value, row: Value, channel: Value) -> None:
        """Applies the epilogue to one vector and stores it."""
        f, epilogue = self.f, self.epilogue
        leaves = epilogue.vectors(f, channel, self.lanes)
        leaves |= epilogue.tensors(f, epilogue.row(f, row), channel, self.lanes)
        result = epilogue.finish(f, self.isa, sum_, leaves)
        at = f.gep(f.gep(f.p["out"], f.mul(row, f.p["out_row"])), f.mul(channel, element_bytes(epilogue.type)))
        if self.narrow:
            store_lanes(f, result, at, f.p["n"], self.isa.masks)
        else:
            f.store(result, at)

    def multiply(self, row: Value, weights: Sequence[Value], sums: Sequence[Value]) -> list[Value]:
        """`sums` and the products of the float at `row` with a vector of each of the weights."""
        f = self.f
        x = f.splat(f.load("float", row, 4), self.lanes)
        return [f.intrinsic("llvm.fmuladd", self.type, x, w, s) for w, s in zip(weights, sums, strict=True)]


class StreamPrinter(Printer):
    """All rows at once; weights are decoded where they are used."""

    kind = "weight_stream"

    def kernel(self, unroll: int) -> Kernel:
        """`unroll`: decoded rows a round of the inner loop, besides those that one word holds."""
        f, (rows, vectors) = self.f, (self.tile.rows, self.tile.vectors)
        self.epilogue.start(f, self.lanes)
        x = [f.gep(f.p["x"], f.mul(f.p["k"], r), "float") for r in range(rows)]
        nothing = [f.zeros(self.type)] * (rows * vectors)
        with f.loop(*f.my_range(f.p["blocks"]), name="block") as block:
            start = [self.codes_of(block.index), *nothing]
            with f.loop(0, self.panels(), carried=start, nonempty=True, name="piece") as piece:
                group = f.udiv(piece.index, f.p["pieces"])
                centre = self.centres_of(block.index, group)
                first = f.mul(piece.index, f.p["depth"])
                end = f.add(first, f.p["depth"])
                carried = [piece.values[0], *nothing]
                with f.loop(first, end, unroll * self.storage.step, carried=carried, nonempty=True, name="k") as k:
                    k.next = self.round(x, k.index, k.values, centre, unroll)
                scales = self.group_vectors("scale", block.index, group)
                totals = [
                    f.intrinsic("llvm.fmuladd", self.type, own, scales[i % vectors], total)
                    for i, (own, total) in enumerate(zip(k.results[1:], piece.values[1:], strict=True))
                ]
                piece.next = [k.results[0], *totals]
            channels = self.channels(block.index)
            for i, total in enumerate(piece.results[1:]):
                self.finish(total, f.const("i64", i // vectors), channels[i % vectors])
        return f.kernel()

    def round(
        self, x: list[Value], k: Value, carried: list[Value], centre: list[list[Value]], unroll: int
    ) -> list[Value]:
        """One round of the inner loop: the next place in the codes, and the sums."""
        f, vectors = self.f, self.tile.vectors
        at, sums = carried[0], carried[1:]
        for u in range(unroll):
            for i, weights in enumerate(decode(f, self.storage, at, centre, self.lanes)):
                ahead = u * self.storage.step + i
                sums = [
                    s
                    for r, row in enumerate(x)
                    for s in self.multiply(
                        f.gep(f.gep(row, k, "float"), ahead, "float"), weights, sums[r * vectors : (r + 1) * vectors]
                    )
                ]
            at = f.gep(at, self.wide * self.storage.row_bytes)
        return [at, *sums]


class PanelPrinter(Printer):
    """A panel of decoded weights, and register tiles over it."""

    kind = "weight_panel"

    def params(self) -> dict[str, str]:
        return {**super().params(), **dict.fromkeys(("panel", "sums"), "ptr"), **dict.fromkeys(_PANEL, "i64")}

    def kernel(self) -> Kernel:
        f = self.f
        self.epilogue.start(f, self.lanes)
        panel = f.gep(f.p["panel"], f.mul(f.mul(f.tid, f.p["depth"]), self.wide * 4))
        sums = f.gep(f.p["sums"], f.mul(f.tid, f.p["sum_bytes"]))
        with f.loop(*f.my_range(f.mul(f.p["blocks"], f.p["m_chunks"])), name="unit") as unit:
            block, chunk = f.udiv(unit.index, f.p["m_chunks"]), f.urem(unit.index, f.p["m_chunks"])
            first = f.udiv(f.mul(f.p["m"], chunk), f.p["m_chunks"])
            end = f.udiv(f.mul(f.p["m"], f.add(chunk, 1)), f.p["m_chunks"])
            f.memset(sums, f.const("i8", 0), f.p["sum_bytes"])
            with f.loop(0, self.panels(), carried=[self.codes_of(block)], nonempty=True, name="piece") as piece:
                group = f.udiv(piece.index, f.p["pieces"])
                piece.next = [self.fill(panel, block, group, piece.values[0])]
                x = f.gep(f.p["x"], f.mul(piece.index, f.p["depth"]), "float")
                with f.loop(first, end, self.tile.rows, nonempty=True, name="tile") as tile:
                    self.tile_of(x, panel, sums, first, tile.index)
            self.store(sums, first, end, block)
        return f.kernel()

    def fill(self, panel: Value, block: Value, group: Value, codes: Value) -> Value:
        """Decodes the next `depth` rows of weights into the panel; the place behind their codes."""
        f, storage = self.f, self.storage
        centre, scales = self.centres_of(block, group), self.group_vectors("scale", block, group)
        with f.loop(0, f.p["depth"], storage.step, carried=[codes], nonempty=True, name="fill") as k:
            for i, row in enumerate(decode(f, storage, k.values[0], centre, self.lanes)):
                at = f.gep(panel, f.mul(f.add(k.index, i), self.wide), "float")
                for j, centred in enumerate(row):
                    f.store(f.fmul(centred, scales[j]), f.gep(at, j * self.lanes, "float"), self.align)
            k.next = [f.gep(k.values[0], self.wide * storage.row_bytes)]
        return k.results[0]

    def tile_of(self, x: Value, panel: Value, sums: Value, first: Value, row: Value) -> None:
        """Adds the products of the panel with a few rows to their sums; rows behind the last one repeat it."""
        f, (rows, vectors) = self.f, (self.tile.rows, self.tile.vectors)
        last = f.sub(f.p["m"], 1)
        places = [f.smin(f.add(row, r), last) for r in range(rows)]
        pointers = [f.gep(x, f.mul(place, f.p["k"]), "float") for place in places]
        own = f.gep(sums, f.mul(f.sub(row, first), self.wide), "float")
        cells = [f.gep(own, i * self.lanes, "float") for i in range(rows * vectors)]
        carried = [panel, *(f.load(self.type, cell, self.align) for cell in cells)]
        with f.loop(0, f.p["depth"], carried=carried, nonempty=True, name="k") as k:
            at, totals = k.values[0], k.values[1:]
            weights = [f.load(self.type, f.gep(at, j * self.lanes, "float"), self.align) for j in range(vectors)]
            added = [
                s
                for r, pointer in enumerate(pointers)
                for s in self.multiply(
                    f.gep(pointer, k.index, "float"), weights, totals[r * vectors : (r + 1) * vectors]
                )
            ]
            k.next = [f.gep(at, self.wide, "float"), *added]
        for cell, total in zip(cells, k.results[1:], strict=True):
            f.store(total, cell, self.align)

    def store(self, sums: Value, first: Value, end: Value, block: Value) -> None:
        """Finishes the rows of a unit."""
        f = self.f
        channels = self.channels(block)
        with f.loop(first, end, nonempty=True, name="out") as row:
            own = f.gep(sums, f.mul(f.sub(row.index, first), self.wide), "float")
            for j, channel in enumerate(channels):
                self.finish(f.load(self.type, f.gep(own, j * self.lanes, "float"), self.align), row.index, channel)
