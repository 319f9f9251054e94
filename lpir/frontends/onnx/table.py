"""Which function converts which ONNX operator, by domain, name and the operator set version that defined it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from lpir.errors import ModelError
from lpir.ir.graph import Value

if TYPE_CHECKING:
    from lpir.frontends.onnx.conversion import Call

Converter = Callable[["Call"], "Value | list[Value]"]
AnyConverter = TypeVar("AnyConverter", bound=Converter)
MICROSOFT = "com.microsoft"
# (domain, operator) -> {first version: converter}
TABLE: dict[tuple[str, str], dict[int, Converter]] = {}


def operator(*names: str, since: int = 1, domain: str = "") -> Callable[[AnyConverter], AnyConverter]:
    """Function decorator: it converts the operators `names` of `domain` from operator set `since` on."""

    def register(function: AnyConverter) -> AnyConverter:
        for name in names:
            versions = TABLE.setdefault((domain, name), {})
            if since in versions:
                raise TypeError(f"ONNX operator {domain}.{name}-{since} has two converters")
            versions[since] = function
        return function

    return register


def find(domain: str, name: str, version: int) -> Converter | None:
    """The converter of an operator under operator set `version`, or None."""
    _discover()
    versions = TABLE.get((domain, name), {})
    since = max((v for v in versions if v <= version), default=None)
    return None if since is None else versions[since]


def supported_operators() -> list[tuple[str, str, tuple[int, ...]]]:
    """All rows of the table, sorted: domain, operator, first versions of its converters."""
    _discover()
    return [(d, n, tuple(sorted(v))) for (d, n), v in sorted(TABLE.items())]


def _discover() -> None:
    from lpir.frontends.onnx import operators

    if not TABLE:
        for module in pkgutil.iter_modules(operators.__path__):
            importlib.import_module(f"{operators.__name__}.{module.name}")
        if not TABLE:
            raise ModelError("no ONNX converter was found")
