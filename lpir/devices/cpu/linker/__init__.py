"""A small linker: LLVM's relocatable objects become code in this process, or a shared library."""
