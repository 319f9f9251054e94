"""Post-training quantization: calibration, ranges, quantizer placement, correction, weight compression.

The package is callable: `lpir.quantize(model, dataset)` is `lpir.quantize.pipeline.quantize`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Python puts a loaded package over the function of the same name, so the package must be the function too."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from lpir.quantize.pipeline import quantize

        return quantize(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
