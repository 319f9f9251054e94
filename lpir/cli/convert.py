"""`lpir convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lpir.cli.options import ModelPath, Shapes, check_output, load


def command(
    model: ModelPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .xml to write; the .bin goes next to it.")],
    shape: Shapes = None,
    compress_to_fp16: Annotated[bool, typer.Option(help="Store float constants in 16 bits.")] = False,
) -> None:
    """Read a model of any supported format and write it as OpenVINO IR."""
    import lpir

    target = check_output(output)
    found = load(model, shape)
    lpir.save_model(found, target, compress_to_fp16=compress_to_fp16)
    size = target.with_suffix(".bin").stat().st_size
    print(f"{target}: {len(found.nodes())} operations, {size / 1e6:.2f} MB of constants")
