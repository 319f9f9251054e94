"""Recurrence: LSTM, GRU and RNN over constant recurrent weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import BuildContext, Kernel, Step
from lpir.devices.cpu.kernels.copy import View, copy
from lpir.devices.cpu.kernels.pack import channel_index
from lpir.devices.cpu.kernels.recurrent_print import Form, RecurrentPrinter
from lpir.ir.graph import Node
from lpir.ir.op import Op
from lpir.ops.boundary import constant_data
from lpir.ops.lowered_recurrent import Recurrence

Array = np.ndarray[Any, np.dtype[Any]]

# rows of states are so many floats long, or a multiple
ROW = 16
# bytes of weights from which on threads share the units of a step: each step then ends in a barrier
SHARED = 128 * 1024


@functools.lru_cache(maxsize=64)
def kernel(isa: Isa, form: Form) -> Code:
    """The kernel of a form."""
    return RecurrentPrinter(isa, form).kernel()


def pack(r: Array, gates: Sequence[int], total: int, lanes: int) -> Array:
    """The weights `r [H, total * H]` of some gates as `[blocks, row, gates, lanes]`, 0 where there are none."""
    units = len(r)
    index = channel_index(units, lanes, 1).reshape(-1, lanes)
    padded = np.zeros((-(-units // ROW) * ROW, total, units + 1), np.float32)
    padded[:units, :, :units] = r.reshape(units, total, units)
    chosen = padded[:, list(gates)]
    return np.ascontiguousarray(chosen[..., index].transpose(2, 0, 1, 3))


# buffers of a cell that has more than its hidden state
BUFFERS = {"lstm": ("h", "c"), "gru": ("h", "update", "reset")}


class RecurrenceKernel(Kernel):
    """Threads share the rows of a batch; where one row is much work they share its hidden units, step by step."""

    name: ClassVar[str] = "recurrence"
    ops: ClassVar[tuple[type[Op], ...]] = (Recurrence,)

    def applies(self, node: Node, isa: Isa) -> str | None:
        if constant_data(node.inputs[1]) is None:
            return "the recurrent weights are not constant"
        return None

    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        op = node.op
        assert isinstance(op, Recurrence)
        (batch, steps, _), units = node.inputs[0].shape.to_static(), node.inputs[2].shape.to_static()[1]
        row = -(-units // ROW) * ROW
        rows = next(n for n in (4, 2, 1) if batch % n == 0 and (n < 4 or isa.registers > 16))
        form = Form(op.cell, rows, op.reverse, op.has_lengths, units < isa.lanes())
        names = BUFFERS.get(op.cell.kind, ("h",))
        states = {name: ctx.scratch(2 * batch * row * 4) for name in names}
        before = self.start(node, isa, ctx, states, (batch, units, row))
        weights = self.weights(node, isa, form)
        by_rows = op.cell.kind == "gru" or batch // rows >= ctx.threads or weights.nbytes < SHARED or ctx.threads == 1
        rest = list(node.inputs[2 + op.states :])
        nothing = ctx.constant(np.zeros(16, np.float32))
        values: dict[str, int | float | F32 | Ref] = {
            **{"xw": ctx.ref(node.inputs[0]), "r": ctx.constant(weights), "y": ctx.ref(node.outputs[0])},
            **{name: states.get(name, nothing) for name in ("h", "c", "update", "reset")},
            **{"rest": ctx.ref(rest.pop(0)) if op.cell.kind == "gru_linear" else nothing},
            **{"lengths": ctx.ref(rest.pop(0)) if op.has_lengths else nothing},
            **{"batch": batch, "steps": steps, "units": units, "row": row},
            **{"blocks": -(-units // isa.lanes()), "by_rows": int(by_rows)},
        }
        runs = [(0, steps)] if by_rows else [(t, t + 1) for t in range(steps)]
        code = kernel(isa, form)
        middle = [Step.of(code, {**values, "first": first, "last": last}) for first, last in runs]
        return [*before, *middle, *self.end(node, isa, ctx, states, (batch, units, row), steps % 2)]

    def weights(self, node: Node, isa: Isa, form: Form) -> Array:
        """All weights in the order of the kernel's passes."""
        r = np.asarray(constant_data(node.inputs[1]))
        passes = ((0, 1), (2,)) if form.cell.kind == "gru" else (range(form.gates),)
        return np.concatenate([pack(r, gates, form.gates, isa.lanes()).reshape(-1) for gates in passes])

    def start(
        self, node: Node, isa: Isa, ctx: BuildContext, states: dict[str, Ref], sizes: tuple[int, int, int]
    ) -> list[Step]:
        """The steps that clear the buffers and set the first states."""
        batch, units, row = sizes
        zeros = ctx.constant(np.zeros(16, np.float32))
        steps: list[Step] = []
        for ref in states.values():
            steps += copy(isa, 4, (2 * batch * row,), View(zeros, (0,)), View(ref, (1,)), ctx.threads)
        for name, value in zip(("h", "c"), node.inputs[2 : 2 + state_count(node)], strict=False):
            source, to = View(ctx.ref(value), (units, 1)), View(states[name], (row, 1))
            steps += copy(isa, 4, (batch, units), source, to, ctx.threads)
        return steps

    def end(
        self,
        node: Node,
        isa: Isa,
        ctx: BuildContext,
        states: dict[str, Ref],
        sizes: tuple[int, int, int],
        odd: int,
    ) -> list[Step]:
        """The steps that copy the last states out."""
        batch, units, row = sizes
        steps: list[Step] = []
        for name, value in zip(("h", "c"), node.outputs[1:], strict=False):
            source = View(states[name] + odd * batch * row * 4, (row, 1))
            steps += copy(isa, 4, (batch, units), source, View(ctx.ref(value), (units, 1)), ctx.threads)
        return steps


def state_count(node: Node) -> int:
    """States of the node's cell."""
    assert isinstance(node.op, Recurrence)
    return node.op.states


KERNELS: list[Kernel] = [RecurrenceKernel()]
