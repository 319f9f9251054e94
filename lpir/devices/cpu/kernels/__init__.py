"""Kernels: one family a module; `base.py` states what a kernel is."""
