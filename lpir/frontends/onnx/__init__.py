"""ONNX: `read_onnx` gives a Model from a file."""

from __future__ import annotations

import os
from typing import Any

from lpir.ir.model import Model


def read_onnx(source: str | os.PathLike[str] | bytes | Any) -> Model:
    """The model in an ONNX file (a path, the bytes of one, or an `onnx.ModelProto`).

    Tensor names stay on the values; `dim_param` and missing dimensions become dynamic. QuantizeLinear followed by
    DequantizeLinear becomes FakeQuantize; dequantized constants stay compressed.
    Raises FileError (damaged file), ModelError (broken graph), UnsupportedError (lists every missing operator).
    """
    from lpir.frontends.onnx.conversion import Conversion
    from lpir.frontends.onnx.proto import load
    from lpir.frontends.onnx.table import find

    def supported(domain: str, name: str, version: int) -> bool:
        return find(domain, name, version) is not None

    return Conversion(load(source, supported)).run()
