"""Prints kernels as LLVM text and compiles them."""
