"""What an instruction set is to a kernel: a record, and one dot-product method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lpir.devices.cpu.codegen import jit
from lpir.devices.cpu.codegen.emitter import Function, Value
from lpir.devices.cpu.permission import may_use_tiles
from lpir.record import record

# (f, accumulator <L x i32>, u8 bytes <4L x i8>, s8 bytes <4L x i8>) -> accumulator + sums of 4 products
Dot = Callable[[Function, Value, Value, Value], Value]


@record(eq=False)
class Isa:
    """One instruction set.

    `bits`: width of a vector; `registers`: number of vector registers; `dot`: emits the u8 x s8 dot product of 4;
    `exact`: whether `dot` is exact for every operand (otherwise weights must be proved safe when packed);
    `masks`: whether masked byte stores are cheap; `proof`: an instruction that compiled int8 kernels must contain;
    `requires`: LLVM features the host must have; `arch`: the processors it is for; `dot_cost`: of `weight_dot`, in
    vector operations; `spare`: registers it needs besides its operands; `tiles`: whether it has AMX's tile registers,
    which the system must permit.

    Where the instruction takes signed bytes only, `shifted_dot` multiplies `u - shift` instead of `u`, and sums over
    constant weights start `shift * sum(w)` higher. `pair_dot`, where there is one, multiplies two rows of 8 codes by
    two columns of 8 weights into 2 x 2 sums, by the instruction `pair_proof`.
    """

    name: str
    cpu: str
    features: str
    bits: int
    registers: int
    dot: Dot
    exact: bool
    masks: bool
    proof: str
    requires: frozenset[str]
    arch: Literal["x86_64", "aarch64", "any"] = "x86_64"
    dot_cost: float = 1.0
    spare: int = 1
    shifted_dot: Dot | None = None
    shift: int = 0
    tiles: bool = False
    pair_dot: Dot | None = None
    pair_proof: str = ""

    @property
    def is_x86(self) -> bool:
        """Whether kernels may use x86's own instructions."""
        return self.arch == "x86_64"

    @property
    def lean(self) -> bool:
        """Whether LLVM leaves addresses in loops as they are printed, which saves a sixth of its time.

        Where registers are few, those that it merges keep sums from the stack; on ARM it is not measured.
        """
        return self.is_x86 and self.registers >= 32

    @property
    def weight_dot(self) -> Dot:
        """The dot product with constant weights, of `u - shift`."""
        return self.shifted_dot or self.dot

    @property
    def triple(self) -> str:
        """LLVM's name of the target; this machine's for an ISA of any."""
        return jit.host_triple() if self.arch == "any" else f"{self.arch}-unknown-linux-gnu"

    def available(self) -> bool:
        """Whether this machine can run the code."""
        if self.arch == "any":
            return True
        has = self.arch == jit.host_arch() and self.requires <= jit.host_features()
        return has and (not self.tiles or may_use_tiles())

    def lanes(self, element_bits: int = 32) -> int:
        """Elements of one vector register."""
        return self.bits // element_bits
