"""Kernels: one family a module, each a class or function that says when it applies, packs its weights and prints its text."""
