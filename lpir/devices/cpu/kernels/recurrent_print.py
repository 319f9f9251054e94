"""The text of the kernel of `recurrent.py`: steps of a recurrent layer over blocks of hidden units.

In each step every block of `lanes` hidden units is a product of the state (a row of H floats) with G
panels of weights `[H, lanes]` that lie side by side, and then the gates' functions in registers. States are written to
the other of two buffers, so all of a step's reads see the state before it.
"""

from __future__ import annotations

from lpir.devices.cpu.codegen.abi import Kernel
from lpir.devices.cpu.codegen.emitter import Function, Value, vector_of
from lpir.devices.cpu.codegen.vector import emit_expr
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.epilogue import store_lanes
from lpir.ops.lowered import expanded
from lpir.ops.recurrent_cells import GATES, CellKind
from lpir.record import record
from lpir.scalar.expr import Expr

_POINTERS = ("xw", "h", "c", "r", "rest", "lengths", "y", "update", "reset")
_SIZES = ("batch", "steps", "units", "row", "blocks", "first", "last", "by_rows")


@record
class Form:
    """What is compiled in: the cell, rows at a time, and whether lengths are given or units fewer than lanes."""

    cell: CellKind
    rows: int
    reverse: bool
    lengths: bool
    narrow: bool

    @property
    def gates(self) -> int:
        return GATES[self.cell.kind]


@record
class Place:
    """One row in one step: its number, whether it still runs (None: always), and its step in the sequence."""

    row: Value
    active: Value | None
    at: Value


class RecurrentPrinter:
    """Prints one kernel.

    Parameters: `xw [batch, steps, G * units]`; `h`, `c`: two buffers each of `batch` rows of `row` floats, zero behind
    the units; `r` packed (`recurrent.pack`); `rest [units]`; `lengths [batch]` i32; `y [batch, steps, units]`;
    `update`, `reset`: one buffer each, for a GRU that is not linear. Steps `first .. last` are run. by_rows: threads
    share the rows and may run many steps; else they share the blocks, and a call is one step.
    """

    def __init__(self, isa: Isa, form: Form) -> None:
        self.isa, self.form = isa, form
        self.lanes = isa.lanes()
        self.bits = isa.bits if isa.is_x86 else 0
        self.type = vector_of("float", self.lanes)
        params = {**dict.fromkeys(_POINTERS, "ptr"), **dict.fromkeys(_SIZES, "i64")}
        self.f = Function(f"{form.cell.kind}_{isa.name}", params, optimize=False)

    def kernel(self) -> Kernel:
        f, p = self.f, self.f.p
        tiles = f.udiv(p["batch"], self.form.rows)
        by_rows = f.icmp("ne", p["by_rows"], 0)
        rows = self.share(tiles, by_rows)
        blocks = self.share(p["blocks"], f.binary("xor", by_rows, f.const("i1", True)))
        with f.loop(p["first"], p["last"], name="t") as t:
            half = f.mul(f.mul(p["batch"], p["row"]), 4)
            odd = f.binary("and", t.index, 1)
            now, then = f.mul(odd, half), f.mul(f.sub(1, odd), half)
            passes = (self.gate_rows, self.candidate_rows) if self.form.cell.kind == "gru" else (self.rows,)
            for run in passes:
                with f.loop(*blocks, name="block") as block, f.loop(*rows, name="tile") as tile:
                    first = f.mul(tile.index, self.form.rows)
                    run(t.index, now, then, block.index, [f.add(first, r) for r in range(self.form.rows)])
        return f.kernel()

    def share(self, count: Value, mine: Value) -> tuple[Value, Value]:
        """This thread's range of `count` items where `mine`, else all of them."""
        f = self.f
        first, last = f.my_range(count)
        return f.select(mine, first, 0), f.select(mine, last, count)

    # -- products

    def unit(self, block: Value) -> Value:
        """First hidden unit of a block; the last block overlaps the one before it."""
        f, first = self.f, self.f.mul(block, self.lanes)
        return first if self.form.narrow else f.smin(first, f.sub(f.p["units"], self.lanes))

    def sums(self, states: list[Value], gates: int, weights: Value) -> list[list[Value]]:
        """For each row the products of its state with the weights of each gate at `weights`."""
        f, count = self.f, len(states) * gates
        halves = 2 if count <= 4 else 1
        carried = [weights, *[f.zeros(self.type)] * (count * halves)]
        with f.loop(0, f.p["row"], 2, carried=carried, nonempty=True, name="k") as k:
            at, totals = k.values[0], k.values[1:]
            for u in range(2):
                part = totals[: len(totals) // halves] if halves == 1 or u == 0 else totals[count:]
                w = [f.load(self.type, f.gep(at, g * self.lanes, "float"), 4 * self.lanes) for g in range(gates)]
                added = []
                for i, state in enumerate(states):
                    x = f.splat(f.load("float", f.gep(f.gep(state, k.index, "float"), u, "float"), 4), self.lanes)
                    added += [
                        f.intrinsic("llvm.fmuladd", self.type, x, w[g], part[i * gates + g]) for g in range(gates)
                    ]
                totals = added if halves == 1 else [*added, *totals[count:]] if u == 0 else [*totals[:count], *added]
                at = f.gep(at, gates * self.lanes, "float")
            k.next = [at, *totals]
        found = k.results[1:]
        if halves == 2:
            found = [f.fadd(a, b) for a, b in zip(found[:count], found[count:], strict=True)]
        return [found[i * gates : (i + 1) * gates] for i in range(len(states))]

    # -- addresses

    def state(self, name: str, half: Value, row: Value) -> Value:
        """A row of a state, in the half of its buffer at `half` bytes."""
        f = self.f
        return f.gep(f.gep(f.p[name], half), f.mul(row, f.p["row"]), "float")

    def place(self, t: Value, row: Value) -> Place:
        """Where step `t` of a row lies in its sequence."""
        f = self.f
        if not self.form.lengths:
            at = f.sub(f.sub(f.p["steps"], 1), t) if self.form.reverse else t
            return Place(row, None, at)
        length = f.convert("sext", f.load("i32", f.gep(f.p["lengths"], row, "i32"), 4), "i64")
        length = f.smin(length, f.p["steps"])
        active = f.icmp("slt", t, length)
        at = f.select(active, f.sub(f.sub(length, 1), t), t) if self.form.reverse else t
        return Place(row, active, at)

    def input_gate(self, place: Place, gate: int, unit: Value) -> Value:
        """What the input adds to a gate."""
        f, p = self.f, self.f.p
        step = f.add(f.mul(place.row, p["steps"]), place.at)
        at = f.add(f.mul(f.add(f.mul(step, self.form.gates), gate), p["units"]), unit)
        return f.load(self.type, f.gep(p["xw"], at, "float"), 4)

    def units_of(self, row: Value, unit: Value) -> Value:
        """The lanes of a row that a block covers."""
        return self.f.load(self.type, self.f.gep(row, unit, "float"), 4)

    def compute(self, expr: Expr, leaves: dict[int, Value]) -> Value:
        return emit_expr(self.f, expanded(expr), leaves, self.lanes, self.bits)

    def put(self, x: Value, row: Value, unit: Value) -> None:
        """Stores what a block computed of a row."""
        at = self.f.gep(row, unit, "float")
        if self.form.narrow:
            store_lanes(self.f, x, at, self.f.p["units"], self.isa.masks)
        else:
            self.f.store(x, at, 4)

    def keep(self, place: Place, new: Value, old: Value) -> Value:
        """The new state where the row still runs, else the old one."""
        return new if place.active is None else self.f.select(place.active, new, old)

    def give(self, place: Place, new: Value, old: Value, then: Value, unit: Value) -> None:
        """Writes the new hidden state, and the result of the step: 0 behind the end of a sequence."""
        f, p = self.f, self.f.p
        y = f.gep(p["y"], f.mul(f.add(f.mul(place.row, p["steps"]), place.at), p["units"]), "float")
        self.put(self.keep(place, new, f.zeros(self.type)), y, unit)
        self.put(self.keep(place, new, old), self.state("h", then, place.row), unit)

    def panels(self, block: Value, gates: int, skipped: int = 0) -> Value:
        """The weights of `gates` gates of a block, behind those of `skipped` gates of all blocks."""
        f = self.f
        before = f.add(f.mul(f.p["blocks"], skipped), f.mul(block, gates))
        return f.gep(f.p["r"], f.mul(f.mul(before, f.p["row"]), self.lanes), "float")

    # -- one step of a block of units of a few rows

    def rows(self, t: Value, now: Value, then: Value, block: Value, rows: list[Value]) -> None:
        """LSTM, RNN and linear GRU: all gates at once."""
        f, gates, unit = self.f, self.form.gates, self.unit(block)
        states = [self.state("h", now, row) for row in rows]
        for row, state, products in zip(rows, states, self.sums(states, gates, self.panels(block, gates)), strict=True):
            place = self.place(t, row)
            inputs = [self.input_gate(place, g, unit) for g in range(gates)]
            old = self.units_of(state, unit)
            if self.form.cell.kind == "gru_linear":
                own = f.fadd(products[2], f.load(self.type, f.gep(f.p["rest"], unit, "float"), 4))
                leaves = {i: f.fadd(inputs[i], products[i]) for i in range(2)} | {2: inputs[2], 3: old, 4: own}
                new = self.compute(self.form.cell.hidden(), leaves)
            else:
                sums = {i: f.fadd(inputs[i], products[i]) for i in range(gates)}
                new = self.hidden(place, sums, now, then, unit)
            self.give(place, new, old, then, unit)

    def hidden(self, place: Place, sums: dict[int, Value], now: Value, then: Value, unit: Value) -> Value:
        """The new hidden state of an LSTM, whose cell state it writes, or of an RNN."""
        if self.form.cell.kind == "rnn":
            return self.compute(self.form.cell.hidden(), sums)
        before = self.units_of(self.state("c", now, place.row), unit)
        cell = self.compute(self.form.cell.cell(), {**sums, 4: before})
        self.put(self.keep(place, cell, before), self.state("c", then, place.row), unit)
        return self.compute(self.form.cell.hidden(), {**sums, 4: cell})

    def gate_rows(self, t: Value, now: Value, then: Value, block: Value, rows: list[Value]) -> None:
        """GRU, first: the sums of gate z, and `r * h`."""
        f, unit, here = self.f, self.unit(block), self.f.const("i64", 0)
        states = [self.state("h", now, row) for row in rows]
        for row, state, products in zip(rows, states, self.sums(states, 2, self.panels(block, 2)), strict=True):
            place = self.place(t, row)
            update, reset = (f.fadd(self.input_gate(place, g, unit), products[g]) for g in range(2))
            self.put(update, self.state("update", here, row), unit)
            leaves = {0: reset, 1: self.units_of(state, unit)}
            self.put(self.compute(self.form.cell.reset(), leaves), self.state("reset", here, row), unit)

    def candidate_rows(self, t: Value, now: Value, then: Value, block: Value, rows: list[Value]) -> None:
        """GRU, then: gate h, of the product with `r * h`."""
        f, unit, here = self.f, self.unit(block), self.f.const("i64", 0)
        resets = [self.state("reset", here, row) for row in rows]
        for row, products in zip(rows, self.sums(resets, 1, self.panels(block, 1, 2)), strict=True):
            place = self.place(t, row)
            old = self.units_of(self.state("h", now, row), unit)
            candidate = f.fadd(self.input_gate(place, 2, unit), products[0])
            update = self.units_of(self.state("update", here, row), unit)
            new = self.compute(self.form.cell.hidden(), {0: update, 2: candidate, 3: old})
            self.give(place, new, old, then, unit)
