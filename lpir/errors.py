"""The errors that lpir raises on purpose. Each message names the cause, the place and what to do."""

from __future__ import annotations


class LpirError(Exception):
    """Base of every error that lpir raises on purpose."""


class ModelError(LpirError):
    """A graph that breaks a rule: wrong shapes, types, arity, a cycle."""


class FileError(LpirError):
    """A file that is damaged, hostile, of an unknown type, or cannot be written."""


class UnsupportedError(LpirError):
    """Valid input that lpir cannot handle; lists everything that is missing at once."""


class InputError(LpirError, ValueError):
    """A wrong name, shape, type or value given to a function or at inference."""
