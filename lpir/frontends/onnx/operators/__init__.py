"""Converters of ONNX operators, one function each, in families."""
