"""A lowered model becomes a plan: memory, constants, and native steps between the operations that Python runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lpir.devices.cpu.codegen.abi import Ref
from lpir.devices.cpu.isa import Isa
from lpir.devices.cpu.kernels.base import Kernel, Step
from lpir.devices.cpu.places import Places
from lpir.devices.cpu.profile import STAMP_BYTES, Stamps
from lpir.devices.cpu.select import Choice, choose
from lpir.errors import ModelError
from lpir.ir.graph import Node, Value
from lpir.ir.mapped import drop_pages, file_of
from lpir.ir.model import Model
from lpir.ir.op import Array
from lpir.ops.boundary import constant_data
from lpir.record import record
from lpir.runtime.evaluate import Variables, evaluate_node
from lpir.runtime.memory import SLACK, Block, aligned, allocate, place, place_by_lanes

if TYPE_CHECKING:
    from lpir.devices.cpu.tune import Tuning

T = TypeVar("T")

# of the buffers: the constants, and the first of those that stay in their file; the next ones count down
CONSTANTS, MAPPED = -1, -2
# bytes of a constant whose file gives up its memory once the constant is packed, or that may stay there
LARGE = 1 << 16


@record
class Slot:
    """A tensor in the arena, or among the constants."""

    is_constant: bool
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def view(self, arena: Array, constants: Array) -> Array:
        """The tensor's memory as an array."""
        nbytes = math.prod(self.shape) * self.dtype.itemsize
        memory = constants if self.is_constant else arena
        return memory[self.offset : self.offset + nbytes].view(self.dtype).reshape(self.shape)


@dataclass
class NativeSegment:
    """Steps that run without Python between them, and the nodes that they compute.

    `first_stamp`: in a profiled plan, the number of the time at which the first node starts; each node ends with one.
    """

    steps: list[Step] = field(default_factory=list)
    nodes: list[tuple[Node, Choice]] = field(default_factory=list)
    first_stamp: int = 0


@record
class Callback:
    """A node that runs through its operation's `eval`."""

    node: Node
    choice: Choice
    inputs: tuple[Slot | Array, ...]
    outputs: tuple[Slot, ...]


Segment = NativeSegment | Callback


@record
class Plan:
    """Everything that runners of a static model share."""

    segments: tuple[Segment, ...]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    arena_size: int
    constants: Array
    # constants that are read where their file is mapped
    mapped: tuple[Array, ...]
    offsets: tuple[int, ...]
    choices: dict[str, tuple[Node, Choice]]
    # buffers of the inputs that only native steps read, so that they may be elsewhere; None for the others
    movable: tuple[int | None, ...]
    # where in the arena times are written, or None
    stamps: Slot | None = None

    def address(self, ref: Ref, arena: int) -> int:
        """The address of a reference for a runner whose arena starts at `arena`."""
        if ref.buffer == CONSTANTS:
            return int(self.constants.ctypes.data) + ref.offset
        if int(ref.buffer) <= MAPPED:
            return int(self.mapped[MAPPED - int(ref.buffer)].ctypes.data) + ref.offset
        return arena + self.offsets[int(ref.buffer)] + ref.offset


class ConstantStore:
    """Constants of a plan: equal bytes once, each aligned and with slack behind."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Array]] = []
        self._by_ends: dict[tuple[int, bytes, bytes], list[int]] = {}
        self._end = 0

    def add(self, array: Array) -> int:
        """The offset of the array's bytes. They are copied by `pack`: until then the array must stay as it is."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        # the ends tell nearly all constants apart, and cost less than a hash of all bytes
        key = (flat.size, flat[:64].tobytes(), flat[-64:].tobytes())
        for index in self._by_ends.get(key, ()):
            offset, part = self._parts[index]
            if np.array_equal(part, flat):
                return offset
        offset = self._end
        self._by_ends.setdefault(key, []).append(len(self._parts))
        self._parts.append((offset, flat))
        self._end = aligned(offset + flat.size)
        return offset

    def pack(self) -> Array:
        """All constants in one piece; the parts are let go of one by one. Nothing can be added afterwards."""
        memory = allocate(self._end + SLACK)
        while self._parts:
            offset, part = self._parts.pop()
            memory[offset : offset + part.size] = part
        return memory


class Planner:
    """Builds a Plan; the `BuildContext` of the kernels."""

    def __init__(
        self,
        model: Model,
        isa: Isa,
        threads: int,
        profile: bool = False,
        ready: Callable[[Step], None] | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.model, self.isa, self.threads = model, isa, threads
        # told of each step at once, so that code is compiled while later nodes are planned
        self.ready = ready
        self.tuning = tuning
        self.order = [n for n in model.nodes() if n.op.type_name not in ("Parameter", "Result", "Constant")]
        self.known: dict[int, Array] = {}
        self.last: dict[int, int] = {}
        self.buffers: dict[int, int] = {}
        self.blocks: list[list[int]] = []
        self.store = ConstantStore()
        self.mapped: list[Array] = []
        self.position = 0
        self.choices: dict[str, tuple[Node, Choice]] = {}
        self.segments: list[NativeSegment | tuple[Node, Choice]] = []
        self.stamps: Stamps | None = None
        if profile:
            self.blocks.append([0, 0, 0])
            self.stamps = Stamps(0)

    def plan(self) -> Plan:
        """The plan. Raises ModelError when a node's reference fails while constants are folded."""
        self._fold()
        self.places = Places(self.order, self.isa, lambda v: self._known(v) is not None)
        self._lifetimes()
        for value in self.model.inputs:
            self._new_buffer(value)
        for position, node in enumerate(self.order):
            self.position = position
            self._node(node)
        if self.stamps:
            self.blocks[self.stamps.buffer] = [STAMP_BYTES * self.stamps.count, 0, len(self.order)]
        blocks = [Block(*b) for b in self.blocks]
        placement = place(blocks) if self.threads == 1 else place_by_lanes(blocks)
        constants = [self._constant_slot(r.inputs[0]) for r in self.model.results]
        slot = self._slotter(placement.offsets)
        return Plan(
            segments=tuple(s if isinstance(s, NativeSegment) else self._callback(*s, slot) for s in self.segments),
            inputs=tuple(slot(v) for v in self.model.inputs),
            outputs=tuple(c or slot(r.inputs[0]) for c, r in zip(constants, self.model.results, strict=True)),
            arena_size=placement.size,
            constants=self.store.pack(),
            mapped=tuple(self.mapped),
            offsets=placement.offsets,
            choices=self.choices,
            movable=tuple(self._movable(v) for v in self.model.inputs),
            stamps=self._stamp_slot(placement.offsets),
        )

    # -- what kernels ask

    def ref(self, value: Value) -> Ref:
        """Where a value lives."""
        array = self._known(value)
        if array is not None:
            return self.constant(array)
        place = self.places.of(value)
        return Ref(self.buffers[id(place.root)], place.offset)

    def table(self, value: Value) -> Ref:
        """Where a value lives; a large constant stays in its file."""
        data = constant_data(value)
        if data is None or data.nbytes <= LARGE or not data.flags.c_contiguous or file_of(data) is None:
            return self.ref(value)
        known = [i for i, array in enumerate(self.mapped) if array is data]
        self.mapped += [] if known else [data]
        return Ref(MAPPED - (known[0] if known else len(self.mapped) - 1))

    def pitch(self, value: Value) -> int:
        """Bytes between the rows of an output."""
        return self.places.of(value).pitch or value.shape.to_static()[-1] * value.element_type.dtype.itemsize

    def constant(self, array: Array, name: str = "") -> Ref:
        """Stores an array with the constants."""
        return Ref(CONSTANTS, self.store.add(array))

    def scratch(self, nbytes: int, name: str = "") -> Ref:
        """Memory during the node at hand."""
        self.blocks.append([nbytes, self.position, self.position])
        return Ref(len(self.blocks) - 1)

    def pick(self, question: str, options: Sequence[T]) -> T:
        """The first option, or the one that was fastest here."""
        return self.tuning.pick(question, options) if self.tuning else options[0]

    # -- steps of the plan

    def _fold(self) -> None:
        """Computes now what does not depend on the inputs."""
        rest = []
        variables = Variables()
        for node in self.order:
            arrays = [self._known(v) for v in node.inputs]
            inputs = [a for a in arrays if a is not None]
            if not node.inputs or len(inputs) < len(arrays) or node.op.type_name.startswith("Random"):
                rest.append(node)
                continue
            for value, result in zip(node.outputs, evaluate_node(node, inputs, variables), strict=False):
                self.known[id(value)] = result
        self.order = rest

    def _known(self, value: Value) -> Array | None:
        data = constant_data(value)
        return data if data is not None else self.known.get(id(value))

    def _lifetimes(self) -> None:
        for position, node in enumerate(self.order):
            for value in (*node.inputs, *node.outputs):
                self.last[id(self._root(value))] = position
        for result in self.model.results:
            self.last[id(self._root(result.inputs[0]))] = len(self.order)

    def _root(self, value: Value) -> Value:
        return self.places.of(value).root

    def _new_buffer(self, value: Value) -> None:
        self.buffers[id(value)] = len(self.blocks)
        self.blocks.append([_bytes(value), self.position, self.last.get(id(value), self.position)])

    def _node(self, node: Node) -> None:
        if self.places.is_alias(node):
            self.choices[f"{node.name}#{self.position}"] = (node, Choice(None, alias=True))
            return
        choice = choose(node, self.isa)
        if self.tuning and choice.kernel:
            choice = replace(choice, note=self.tuning.learn(node, choice.kernel))
        self.choices[f"{node.name}#{self.position}"] = (node, choice)
        self._outputs(node, choice.kernel)
        if choice.kernel is None:
            self.segments.append((node, choice))
            return
        segment = self._segment()
        self._add(segment, choice.kernel.build(node, self.isa, self))
        if self.stamps:
            self._add(segment, [self.stamps.step()])
        segment.nodes.append((node, choice))
        for value in node.inputs:
            data = constant_data(value)
            if data is not None and data.nbytes > LARGE:
                drop_pages(data)

    def _segment(self) -> NativeSegment:
        """The native segment that goes on here."""
        if self.segments and isinstance(self.segments[-1], NativeSegment):
            return self.segments[-1]
        segment = NativeSegment()
        if self.stamps:
            segment.first_stamp = self.stamps.count
            self._add(segment, [self.stamps.step()])
        self.segments.append(segment)
        return segment

    def _add(self, segment: NativeSegment, steps: Sequence[Step]) -> None:
        segment.steps += steps
        if self.ready:
            for step in steps:
                self.ready(step)

    def _outputs(self, node: Node, kernel: Kernel | None) -> None:
        taken = self._taken_over(node, kernel) if kernel else None
        for value in node.outputs:
            root = self._root(value)
            if id(root) in self.buffers:
                # another part was here first
                continue
            if taken is not None and value.index == 0 and root is value:
                self.buffers[id(value)] = taken
                self.blocks[taken][2] = self.last[id(value)]
            else:
                self._new_buffer(root)

    def _movable(self, value: Value) -> int | None:
        """The buffer of a model's input if native steps are all that reads it."""
        results = [self._root(r.inputs[0]) for r in self.model.results]
        if value in results or not all(isinstance(s, NativeSegment) for s in self.segments):
            return None
        return self.buffers[id(value)]

    def _taken_over(self, node: Node, kernel: Kernel) -> int | None:
        """The buffer of an input that dies here and that output 0 may overwrite."""
        for index in kernel.reuses(node):
            value = node.inputs[index]
            root = self._root(value)
            buffer = self.buffers.get(id(root))
            others = [v for v in node.inputs if v is not value and self._known(v) is None]
            if (
                buffer is not None
                and root.node.op.type_name != "Parameter"
                and self.blocks[buffer][2] == self.position
                and _bytes(root) == _bytes(value) == _bytes(node.outputs[0])
                and all(self.buffers[id(self._root(v))] != buffer for v in others)
            ):
                return buffer
        return None

    def _constant_slot(self, value: Value) -> Slot | None:
        array = self._known(value)
        if array is None:
            return None
        return Slot(True, self.store.add(array), array.shape, array.dtype)

    def _slotter(self, offsets: Sequence[int]) -> Any:
        def slot(value: Value) -> Slot:
            place = self.places.of(value)
            offset = offsets[self.buffers[id(place.root)]] + place.offset
            return Slot(False, offset, value.shape.to_static(), value.element_type.dtype)

        return slot

    def _stamp_slot(self, offsets: Sequence[int]) -> Slot | None:
        if self.stamps is None:
            return None
        return Slot(False, offsets[self.stamps.buffer], (self.stamps.count, 2), np.dtype(np.int64))

    def _callback(self, node: Node, choice: Choice, slot: Any) -> Callback:
        known = [self._known(v) for v in node.inputs]
        inputs = tuple(slot(v) if a is None else a for v, a in zip(node.inputs, known, strict=True))
        return Callback(node, choice, inputs, tuple(slot(v) for v in node.outputs))


def _bytes(value: Value) -> int:
    if not value.shape.is_static:
        raise ModelError(f"{value} has no static shape")
    return math.prod(value.shape.to_static()) * value.element_type.dtype.itemsize
