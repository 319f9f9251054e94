"""lpir: trained neural networks, small and fast in INT8, with answers that never change silently."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpir.api import Core as Core
    from lpir.api import compile_model as compile_model
    from lpir.api import convert_model as convert_model
    from lpir.api import read_model as read_model
    from lpir.api import save_model as save_model
    from lpir.errors import FileError as FileError
    from lpir.errors import InputError as InputError
    from lpir.errors import LpirError as LpirError
    from lpir.errors import ModelError as ModelError
    from lpir.errors import UnsupportedError as UnsupportedError
    from lpir.ir.model import Model as Model
    from lpir.ir.shape import Dimension as Dimension
    from lpir.ir.shape import PartialShape as PartialShape
    from lpir.quantize.config import IgnoredScope as IgnoredScope
    from lpir.quantize.config import QuantizationConfig as QuantizationConfig
    from lpir.quantize.dataset import Dataset as Dataset
    from lpir.quantize.pipeline import quantize as quantize
    from lpir.runtime.queue import AsyncInferQueue as AsyncInferQueue
    from lpir.runtime.session import CompiledModel as CompiledModel
    from lpir.runtime.session import InferRequest as InferRequest
    from lpir.runtime.tensor import Tensor as Tensor

__version__ = "0.1.0"

# name -> module that holds it; loaded on first use
_PUBLIC = {
    **dict.fromkeys(("Core", "compile_model", "convert_model", "read_model", "save_model"), "lpir.api"),
    **dict.fromkeys(("FileError", "InputError", "LpirError", "ModelError", "UnsupportedError"), "lpir.errors"),
    **dict.fromkeys(("CompiledModel", "InferRequest"), "lpir.runtime.session"),
    **dict.fromkeys(("Dimension", "PartialShape"), "lpir.ir.shape"),
    **dict.fromkeys(("IgnoredScope", "QuantizationConfig"), "lpir.quantize.config"),
    "AsyncInferQueue": "lpir.runtime.queue",
    "Dataset": "lpir.quantize.dataset",
    "Model": "lpir.ir.model",
    "Tensor": "lpir.runtime.tensor",
}

__all__ = ["__version__", "quantize", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "quantize":
        return importlib.import_module("lpir.quantize")
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'lpir' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
