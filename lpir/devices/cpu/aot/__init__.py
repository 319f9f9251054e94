"""Compiled models as shared libraries: written without a linker, run without LLVM."""
