"""What an instruction set is to a kernel: a record, and one dot-product method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lpir.devices.cpu.codegen import jit
from lpir.devices.cpu.codegen.emitter import Function, Value

# (f, accumulator <L x i32>, u8 bytes <4L x i8>, s8 bytes <4L x i8>) -> accumulator + sums of 4 products
Dot = Callable[[Function, Value, Value, Value], Value]


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    `bits`: width of a vector; `registers`: number of vector registers; `dot`: emits the u8 x s8 dot product of 4;
    `exact`: whether `dot` is exact for every operand (otherwise weights must be proved safe when packed);
    `masks`: whether masked byte stores are cheap; `proof`: an instruction that compiled int8 kernels must contain;
    `requires`: LLVM features the host must have.
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
    is_x86: bool = True

    def available(self) -> bool:
        """Whether this machine can run the code."""
        if not self.is_x86:
            return True
        return jit.host_is_x86() and self.requires <= jit.host_features()

    def lanes(self, element_bits: int = 32) -> int:
        """Elements of one vector register."""
        return self.bits // element_bits
