"""`lpir convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from lpir.cli._options import ModelPath, OutputXml, Shapes, check_output, load

EXAMPLES = """
lpir convert model.onnx -o model.xml
lpir convert model.onnx -o model.xml --shape 1,3,224,224           a fixed batch
lpir convert model.onnx -o model.xml -s ids=1,128 -s mask=1,128    two inputs
lpir convert model.onnx -o model.xml --compress-to-fp16            half the size
"""


def command(
    model: ModelPath,
    output: OutputXml,
    shape: Shapes = None,
    compress_to_fp16: Annotated[
        bool, typer.Option("--compress-to-fp16", help="Store float constants in 16 bits; not for quantized models.")
    ] = False,
) -> None:
    """Write any supported model as OpenVINO IR.

    Nothing is computed in lower precision: the answers stay the same.
    """
    import lpir

    target = check_output(output)
    found = load(model, shape)
    lpir.save_model(found, target, compress_to_fp16=compress_to_fp16)
    size = target.with_suffix(".bin").stat().st_size
    print(f"{target}: {len(found.nodes())} nodes, {size / 1e6:.2f} MB of constants")
