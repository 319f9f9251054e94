"""What a CPU kernel is: the contract between the kernel modules and the plan.

Every module in this folder may define `KERNELS: list[Kernel]`; `select.py` discovers them. For a node of a lowered
graph the kernels that name its operation are asked in order of `rank` (smallest first); the first whose `applies` gives
None runs it.

    class Copy(Kernel):
        name = "copy"                                    # printed by explain() and the profile
        ops = (Reshape,)                                 # operation classes that it can run (subclasses too)
        def applies(self, node, isa): return None        # or a reason in words: "weights are not constant"
        def build(self, node, isa, ctx):
            code = function.kernel()                     # codegen.abi.Kernel: symbol, LLVM text, parameter names
            x, out = ctx.ref(node.inputs[0]), ctx.ref(node.outputs[0])
            return [Step.of(code, {"x": x, "out": out, "count": count})]

`applies` is pure and depends only on the node and the isa record: the choice for any CPU can be tested on any CPU.

`build` runs once when a model is compiled:

* every value is dense, row-major (the lowered dialect is channels-last), aligned to 64 bytes, and 64 bytes after its
  end may be *read* (their content is arbitrary); nothing outside a value may be written. The same holds for constants
  and scratch.
* `ctx.ref(value)` is where a value lives: an input, an output, or a Constant in its natural layout. Input and output of
  one node never share memory unless the kernel allows it with `reuses`.
* `ctx.table(value)` is the same for what a step reads a few rows of, such as an embedding: a large constant stays in
  its mapped file, at any alignment, with nothing to read behind it.
* `ctx.constant(array)` stores packed weights, tables, row offsets, ...; equal bytes are stored once.
* `ctx.scratch(nbytes)` is memory that lives during the steps of this node only, shared by all threads.
* A step is one call of the kernel's function by every thread of the pool with the same parameters; there is a barrier
  after each step, so a later step of the node may read what an earlier one wrote.
* Parameters are 64-bit words (codegen.abi): integers, floats, and `Ref`s, relocated to addresses for each infer
  request. Never bake an address, or a size that could be a parameter, into the text: kernels are shared by shape class,
  in the whole process, through the content hash in their symbol. `ref + n` is n bytes further.
* `ctx.pick(question, options)` settles what can only be measured, such as the size of a tile: it is the first option
  unless the model was compiled with TUNE. `question` names the shape class; equal questions have equal options.
* `ctx.threads` is the number of threads that will call the step (for per-thread scratch). A kernel splits its work over
  `(tid, nthreads)` itself and must be right for any nthreads >= 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from lpir.devices.cpu.codegen.abi import F32, Ref, Word
from lpir.devices.cpu.codegen.abi import Kernel as Code
from lpir.ir.graph import Node, Value
from lpir.ir.op import Op
from lpir.record import record

if TYPE_CHECKING:
    from lpir.devices.cpu.isa import Isa

T = TypeVar("T")

# bytes after the end of every value, constant and scratch that may be read
SLACK = 64
# alignment of every value, constant and scratch
ALIGNMENT = 64


@record
class Step:
    """One call of a compiled function by all threads, followed by a barrier."""

    code: Code
    params: tuple[Word, ...]

    @staticmethod
    def of(code: Code, values: Mapping[str, int | float | F32 | Ref]) -> Step:
        """From parameter values by name. Raises KeyError for a missing or an unknown name."""
        return Step(code, tuple(code.words(values)))


class BuildContext(Protocol):
    """What `Kernel.build` may ask of the plan."""

    @property
    def threads(self) -> int:
        """Number of threads that call each step."""

    def ref(self, value: Value) -> Ref:
        """Where a value lives (input, output or constant of the node)."""

    def table(self, value: Value) -> Ref:
        """As `ref`, for what a step reads a few rows of: at any alignment, and nothing behind its end may be read."""

    def constant(self, array: np.ndarray[Any, Any], name: str = "") -> Ref:
        """Stores a copy of the array's bytes (C order) with the plan's constants."""

    def pitch(self, value: Value) -> int:
        """Bytes between the rows (vectors along the last axis) of output 0 of a kernel that `spreads`."""

    def scratch(self, nbytes: int, name: str = "") -> Ref:
        """Memory for the steps of this node."""

    def pick(self, question: str, options: Sequence[T]) -> T:
        """One of `options`, which come best first as far as one can tell beforehand."""


class Kernel(ABC):
    """One way to run a node natively."""

    # printed by explain() and the profile; unique
    name: ClassVar[str]
    # operations that it may run
    ops: ClassVar[tuple[type[Op], ...]]
    # kernels with a smaller rank are asked first
    rank: ClassVar[int] = 0
    # whether rows of output 0 may be further apart than they are long (`ctx.pitch`): a part of a Concat
    spreads: ClassVar[bool] = False

    @abstractmethod
    def applies(self, node: Node, isa: Isa) -> str | None:
        """None if the kernel can run the node on this isa, else the reason why not."""

    @abstractmethod
    def build(self, node: Node, isa: Isa, ctx: BuildContext) -> list[Step]:
        """The steps that run the node."""

    def reuses(self, node: Node) -> tuple[int, ...]:
        """Inputs whose memory output 0 may take over.

        It may when input element i is read before output element i is written, by the same thread. The plan does it
        only when the input has the same size in bytes and is not read later.
        """
        return ()
